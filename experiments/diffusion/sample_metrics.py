"""The split "samples": images generated from fixed noise, and their distance to real images."""

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.diffusion.config import SamplingConfig
from experiments.diffusion.feature_nets import FeatureNet
from experiments.harness.arithmetic import describe_arithmetic
from experiments.harness.errors import ConfigError
from experiments.harness.files import write_aside
from experiments.harness.prepared_data import cached_arrays
from experiments.harness.progress_bar import track
from experiments.metrics.feature_distances import (
    covariance_root,
    cross_kernel,
    frechet_distance,
    kernel_distance,
    moments,
    moments_of_sums,
    own_kernel,
)

BATCH_SIZE = 256
ReadImages = Callable[[np.ndarray], Tensor]
"""Indices, int64 [N], to images uint8 [N, 3, H, W]"""
Generate = Callable[[nn.Module, range], Tensor]
"""A model and sample indices to images uint8 [N, 3, H, W]"""
ScoreTexts = Callable[[Tensor, range], Tensor]
"""Images and their indices to CLIP scores, float64 [N]"""


@dataclass(frozen=True)
class ImageSources:
    """Sources of the images for the reference and its bounds."""

    training: ReadImages
    num_training: int
    test: ReadImages
    """real images that were not trained on: their distance is the floor, which n perfect samples would get"""
    noise: ReadImages
    """the sampler's initial noise as images: an untrained network scores about the same distance"""
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


def _features(net: FeatureNet, images: ReadImages, count: int, device: torch.device) -> np.ndarray:
    starts = range(0, count, BATCH_SIZE)
    return np.concatenate(
        [net.features(images(np.arange(start, min(start + BATCH_SIZE, count))).to(device)) for start in starts]
    )


class SampleCache:
    """Finished batches, kept on disk until their evaluation completes, so that a kill only loses the current one: a
    folder with a file per batch. Its name must identify everything that their content depends on.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def load(self, number: int) -> dict[str, np.ndarray] | None:
        """The arrays of a batch, or None if it is not finished or its file was truncated by a crash."""
        try:
            with np.load(self._path(number), allow_pickle=False) as file:
                return dict(file)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile):
            return None

    def save(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Save the arrays of a batch."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        write_aside(self._path(number), buffer.getvalue())

    def remove(self) -> None:
        """Delete all batches."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self._directory / f"batch-{number:06d}.npz"


class GeneratedImages:
    """Images generated batch by batch, and compared with real ones in the feature spaces of networks."""

    def __init__(
        self,
        cfg: SamplingConfig,
        generate: Generate,
        judges: Sequence[tuple[FeatureNet, Reference]],
        score_texts: ScoreTexts | None,
        identity: str,
        cache_dir: Path,
    ) -> None:
        """``identity`` identifies everything an image depends on besides the model's weights and its index."""
        self._cfg, self._generate, self._judges, self._score_texts = cfg, generate, judges, score_texts
        self._identity, self._cache_dir = identity, cache_dir
        self.shown = np.zeros((0, 0, 0, 3), np.uint8)
        """the first images of the latest evaluation, uint8 [shown, H, W, 3]; the first process has them"""

    def sums(self, model: nn.Module, process: int, num_processes: int) -> dict[str, Tensor]:
        """Sums over this process's batches: for each network the features ``[D]``, their outer products ``[D * D]`` and
        the mean kernels of a batch; and the numbers of images and batches. Finished batches are kept on disk meanwhile.
        """
        num_batches = self._cfg.num_samples // self._cfg.batch_size
        if num_batches < num_processes:
            raise ConfigError(
                f"sampling.num_samples={self._cfg.num_samples} makes {num_batches} batches, too few for "
                f"{num_processes} processes: choose a smaller sampling.batch_size."
            )
        key = hashlib.sha256(f"{self._identity} {weights_digest(model)}".encode()).hexdigest()[:16]
        share = f"diffusion-samples-{key}-{process}-of-{num_processes}"
        finished = SampleCache(self._cache_dir.expanduser() / share)
        totals: dict[str, Any] = {}
        mine = range(process, num_batches, num_processes)
        for number in track(mine, "sampling", is_main_process=process == 0):
            batch = finished.load(number)
            if batch is None:
                batch = self._batch(model, number)
                finished.save(number, batch)
            if number == 0:
                self.shown = batch["shown"]
            for name, value in self._batch_sums(batch).items():
                totals[name] = totals.get(name, 0.0) + value
        finished.remove()
        device = next(model.parameters()).device
        return {name: torch.tensor(value, dtype=torch.float64, device=device) for name, value in totals.items()}

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """num_samples; for each network both distances, with those of real images and of noise; and clip_score if there
        is a CLIP model.
        """
        count, batches = sums["count"], sums["batches"]
        metrics = {"num_samples": count}
        if "clip_score" in sums:
            metrics["clip_score"] = sums["clip_score"] / count
        for net, real in self._judges:
            total, outer = (np.array(sums[f"{net.frechet_name}/{name}"]) for name in ("total", "outer"))
            mean, covariance = moments_of_sums(int(count), total, outer.reshape(len(total), -1))
            own, cross = (sums[f"{net.frechet_name}/{name}"] / batches for name in ("own", "cross"))
            metrics[net.frechet_name] = frechet_distance(mean, covariance, real.mean, real.root)
            metrics[net.kernel_name] = kernel_distance(own, real.own, cross)
            metrics |= real.bounds
        return metrics

    def _batch(self, model: nn.Module, number: int) -> dict[str, np.ndarray]:
        first = number * self._cfg.batch_size
        numbers = range(first, first + self._cfg.batch_size)
        images = self._generate(model, numbers)
        batch = {net.frechet_name: net.features(images) for net, _ in self._judges}
        if self._score_texts:
            batch["clip_scores"] = self._score_texts(images, numbers).cpu().numpy()
        return {"shown": images[: self._cfg.shown].movedim(1, 3).cpu().numpy(), **batch}

    def _batch_sums(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        sums: dict[str, Any] = {"count": float(self._cfg.batch_size), "batches": 1.0}
        if "clip_scores" in batch:
            sums["clip_score"] = batch["clip_scores"].sum()
        for net, real in self._judges:
            features = batch[net.frechet_name].astype(np.float64)
            sums[f"{net.frechet_name}/total"] = features.sum(0)
            sums[f"{net.frechet_name}/outer"] = (features.T @ features).ravel()
            sums[f"{net.frechet_name}/own"] = own_kernel(features)
            sums[f"{net.frechet_name}/cross"] = cross_kernel(features, real.features)
        return sums


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names and values of the model's parameters and buffers, in order."""
    digest = hashlib.sha256()
    for name, value in chain(model.named_parameters(), model.named_buffers()):
        copy = value.detach().to("cpu", copy=True)  # sharding cannot free storage that NumPy has viewed
        digest.update(name.encode() + copy.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
