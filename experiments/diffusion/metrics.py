"""The metrics of diffusion, those of generated images under the split "samples"."""

from experiments.harness.metric import Metric

_SAMPLES = ("samples",)
METRICS = {
    "fid": Metric("FID", "lower", decimals=2, splits=_SAMPLES),
    "kid": Metric("KID", "lower", splits=_SAMPLES),
    "fd_efficientnet_lite0": Metric("Fréchet distance (EfficientNet-Lite0)", "lower", decimals=0, splits=_SAMPLES),
    "kid_efficientnet_lite0": Metric("kernel distance (EfficientNet-Lite0)", "lower", decimals=2, splits=_SAMPLES),
    "clip_score": Metric("CLIP score", "higher", splits=_SAMPLES),
}
