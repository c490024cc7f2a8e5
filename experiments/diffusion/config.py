"""The metrics that diffusion reports, and the schema of conf/diffusion.yaml."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from experiments.data.on_device import ImageRunConfig
from experiments.harness.config import Config, DataConfig, register
from experiments.harness.metric import Metric

_SAMPLES = ("samples",)
METRICS = {
    "fid": Metric("FID", "lower", decimals=2, splits=_SAMPLES),
    "kid": Metric("KID", "lower", splits=_SAMPLES),
    "fd_efficientnet_lite0": Metric("Fréchet distance (EfficientNet-Lite0)", "lower", decimals=0, splits=_SAMPLES),
    "kid_efficientnet_lite0": Metric("kernel distance (EfficientNet-Lite0)", "lower", decimals=2, splits=_SAMPLES),
    "clip_score": Metric("CLIP score", "higher", splits=_SAMPLES),
}


@dataclass
class DiffusionDataConfig(DataConfig):
    """Images at one resolution, and the weights that are needed."""

    access: str = "experiments.diffusion.data.open_sets"
    sources: list[dict[str, Any]] = field(default_factory=list)
    """empty: each set below has its own sources"""
    images: dict[str, Any] = MISSING
    """the set of images with classes or captions, a config of the group ``data``, opened by its ``access``"""
    split_seed: int | None = None
    """for images with classes: redraws which training images are held out; null: the set's own choice"""
    weights: dict[str, dict[str, Any]] = MISSING
    """weights of the network ``features``, and of ``text`` if it has any: configs of the group ``data``"""
    image_size: int = MISSING
    """height and width in pixels; larger images are resized and center-cropped"""
    flip: bool = True
    """random horizontal flip of training images"""
    num_val: int = MISSING
    """images used for the validation loss; the set may hold out more"""
    num_test: int = MISSING
    """images used for the test loss"""
    num_reference: int = MISSING
    """training images that generated images are compared with"""
    low_resolution: int | None = None
    """size in pixels of the image that a super-resolution model enlarges to image_size; null: no super-resolution"""
    inception_sources: list[str] = field(default_factory=list)
    """possible paths of FID's Inception weights; without them samples/fid and samples/kid are left out"""


@dataclass
class NoiseConfig:
    """The forward process, and the network's training target."""

    schedule: str = MISSING
    """linear or squaredcos_cap_v2, as ``diffusers`` names them"""
    steps: int = 1000
    """number of timesteps; the schedule always goes all the way from image to noise"""
    target: str = "epsilon"
    """epsilon (the noise) or v_prediction"""
    timesteps: str = "uniform"
    """uniform, or importance: more often where the loss is large, weighted so that its expectation is unchanged"""
    condition_dropout: float = 0.0
    """share of training images whose class or text is hidden; needed for guidance"""


@dataclass
class SamplingConfig:
    """How images are generated for the split "samples"."""

    sampler: str = MISSING
    """ddpm or ddim"""
    steps: int = MISSING
    """divides noise.steps"""
    guidance: float = 1.0
    """weight of the conditional prediction against the unconditional one; 1: no guidance"""
    num_samples: int = MISSING
    batch_size: int = MISSING
    """images generated together: the unit divided among processes, the most a kill can lose, and the subsets of KID"""
    shown: int = 8
    """images of the first batch in the run's samples.png"""


@dataclass
class TextConfig:
    """Conditioning on captions; without an encoder, images are conditioned on classes."""

    encoder: Any = None
    """the ``_target_`` of a frozen text encoder, tokens int64 [N, T] to float [N, T, D]"""
    tokenizer: str = ""
    """full name of a function in experiments/pretrained/tokenizers.py or t5.py"""
    context_length: int = 0
    """tokens per caption; longer captions are truncated"""
    clip_model: str | None = None
    """``open_clip``'s name of the model for samples/clip_score; null: no such metric"""
    clip_weights: str = ""
    """``open_clip``'s name of its weights"""


@dataclass
class DiffusionConfig(Config):
    """One run of diffusion."""

    data: DiffusionDataConfig = MISSING
    text: TextConfig = field(default_factory=TextConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    run: ImageRunConfig = field(default_factory=ImageRunConfig)


register("diffusion", DiffusionConfig)
