"""What generated images are compared with: features of real images, and the distances of real images and of noise."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.diffusion.feature_nets import FeatureNet
from experiments.harness.arithmetic import describe_arithmetic
from experiments.harness.prepared_data import cached_arrays
from experiments.metrics.frechet import covariance_root, frechet_distance, moments
from experiments.metrics.kernel_distance import cross_kernel, kernel_distance, own_kernel

BATCH_SIZE = 256
Images = Callable[[np.ndarray], Tensor]
"""Indices, int64 [N], to images uint8 [N, 3, H, W]"""


@dataclass(frozen=True)
class ImageSources:
    """Sources of the images for the reference and its bounds."""

    training: Images
    num_training: int
    test: Images
    """real images that were not trained on: their distance is the floor, which n perfect samples would get"""
    noise: Images
    """the sampler's initial noise as images: an untrained network has about their distance"""
    num_compared: int
    """how many of both: as many as are generated"""
    identity: str
    """identifies all of these"""


@dataclass(frozen=True)
class Reference:
    """Statistics of real images in the feature space of one network."""

    features: np.ndarray
    """float32 [images, D]"""
    mean: np.ndarray
    root: np.ndarray
    """of the covariance, float64 [D, D]"""
    own: float
    """mean kernel between two of them"""
    bounds: dict[str, float]
    """distances of real images and of noise, named ``<distance>_floor`` and ``<distance>_noise``"""


def reference(
    net: FeatureNet, sources: ImageSources, cache_dir: Path, device: torch.device, fingerprints: dict[str, str]
) -> Reference:
    """The reference, from the cache or computed; the fingerprint of its arrays is added to ``fingerprints``."""
    depends_on = [net.identity, sources.identity, sources.num_training, sources.num_compared]
    identity = json.dumps([*depends_on, describe_arithmetic(device)])
    cached = cached_arrays("diffusion-reference", identity, cache_dir, lambda: _compute(net, sources, device))
    fingerprints[cached.directory.name] = cached.fingerprint
    stored = cached.load()
    bounds = {
        f"{name}_{bound}": stored[f"{kind}_{bound}"].item()
        for kind, name in (("frechet", net.frechet_name), ("kernel", net.kernel_name))
        for bound in ("floor", "noise")
    }
    return Reference(stored["features"], stored["mean"], stored["root"], stored["own"].item(), bounds)


def _compute(net: FeatureNet, sources: ImageSources, device: torch.device) -> dict[str, np.ndarray]:
    features = _features(net, sources.training, sources.num_training, device)
    mean, covariance = moments(features)
    arrays = {"features": features, "mean": mean, "root": covariance_root(covariance)}
    own = own_kernel(features)
    for bound, images in (("floor", sources.test), ("noise", sources.noise)):
        compared = _features(net, images, sources.num_compared, device)
        arrays[f"frechet_{bound}"] = np.array(frechet_distance(*moments(compared), mean, arrays["root"]))
        cross = cross_kernel(compared, features)
        arrays[f"kernel_{bound}"] = np.array(kernel_distance(own_kernel(compared), own, cross))
    return {**arrays, "own": np.array(own)}


def _features(net: FeatureNet, images: Images, count: int, device: torch.device) -> np.ndarray:
    starts = range(0, count, BATCH_SIZE)
    return np.concatenate(
        [net.features(images(np.arange(start, min(start + BATCH_SIZE, count))).to(device)) for start in starts]
    )
