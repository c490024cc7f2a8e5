"""The networks whose features are used to compare generated and real images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.harness.errors import DataError
from experiments.harness.files import first_file, sha256_of
from experiments.harness.prepared_data import PreparedData
from experiments.pretrained.weights import load_weights

EFFICIENTNET_SIZE = 64
"""pixels; images of other sizes are resized to it"""
BATCH_SIZE = 64
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""FID's standard weights, TensorFlow's network of 2015-12-05, from torch-fidelity's release 0.2.0."""
INCEPTION_SHA256 = "6726825d"
"""first digits of the file's SHA-256, also part of its name"""


class EfficientNetLite0(nn.Module):
    """Images uint8 ``[N, 3, H, W]`` to features float32 ``[N, 1280]``."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        self.net = timm.create_model("tf_efficientnet_lite0", num_classes=0)

    def forward(self, images: Tensor) -> Tensor:
        """Features averaged over the image."""
        size = (EFFICIENTNET_SIZE, EFFICIENTNET_SIZE)
        resized = F.interpolate(images.float(), size, mode="bilinear", antialias=True, align_corners=False)
        features: Tensor = self.net((resized - 127) / 128)
        return features


class Inception(nn.Module):
    """FID's network from torch-fidelity: images uint8 ``[N, 3, H, W]`` to features float32 ``[N, 2048]``."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from torch_fidelity import feature_extractor_inceptionv3 as fidelity  # type: ignore[import-untyped]

        # The library would execute any pickle, so first check that the file contains only tensors.
        torch.load(weights, weights_only=True, map_location="cpu")
        self.net = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(weights))

    def forward(self, images: Tensor) -> Tensor:
        """Features of the last pooling layer."""
        features: Tensor = self.net(images)[0]
        return features


@dataclass(frozen=True)
class FeatureNet:
    """A network, and the names of the distances computed from its features."""

    frechet_name: str
    kernel_name: str
    module: nn.Module
    identity: str
    """identifies its weights"""

    def features(self, images: Tensor) -> np.ndarray:
        """Features float32 ``[N, D]`` of images uint8 ``[N, 3, H, W]`` on any device."""
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            batches = [self.module(batch).float().cpu() for batch in images.split(BATCH_SIZE)]
        return torch.cat(batches).numpy()


def feature_nets(weights: PreparedData, inception_sources: Sequence[str], device: torch.device) -> list[FeatureNet]:
    """EfficientNet-Lite0, and Inception if its weights are at one of the paths; otherwise print that they are
    missing.
    """
    module = EfficientNetLite0()
    load_weights(module.net, weights.load())
    nets = [FeatureNet("fd_efficientnet_lite0", "kid_efficientnet_lite0", module, weights.fingerprint)]
    if path := found_inception(inception_sources):
        nets.append(FeatureNet("fid", "kid", Inception(path), INCEPTION_SHA256))
    elif inception_sources:
        print(
            f"FID is left out: its Inception weights are not at {' or '.join(inception_sources)}. The distances based "
            "on EfficientNet-Lite0 are still reported.",
            flush=True,
        )
    for net in nets:
        net.module.to(device).eval().requires_grad_(False)
    return nets


def found_inception(sources: Sequence[str]) -> Path | None:
    """The first of the paths that exists. Raises DataError for a file with other weights."""
    found = first_file(sources)
    if found and not (digest := sha256_of(found)).startswith(INCEPTION_SHA256):
        raise DataError(
            f"{found} has the SHA-256 {digest}, but that of FID's weights begins with {INCEPTION_SHA256}: download "
            f"{INCEPTION_FILE} again, or remove the file."
        )
    return found
