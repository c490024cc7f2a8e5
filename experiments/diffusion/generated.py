"""The split "samples": images generated from fixed noise, and their distance to real images."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from experiments.diffusion.config import SamplingConfig
from experiments.diffusion.feature_nets import FeatureNet
from experiments.diffusion.finished_batches import FinishedBatches
from experiments.diffusion.reference import Reference
from experiments.harness.errors import ConfigError
from experiments.metrics.frechet import frechet_distance, moments_of_sums
from experiments.metrics.kernel_distance import cross_kernel, kernel_distance, own_kernel

Generate = Callable[[nn.Module, range], Tensor]
"""A model and sample indices to images uint8 [N, 3, H, W]"""
ScoreTexts = Callable[[Tensor, range], Tensor]
"""Images and their indices to CLIP scores, float64 [N]"""


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
        finished = FinishedBatches(self._cache_dir.expanduser() / share)
        console = Console(stderr=True)
        hidden = process > 0 or not console.is_terminal
        totals: dict[str, Any] = {}
        mine = range(process, num_batches, num_processes)
        for number in track(mine, "sampling", console=console, transient=True, disable=hidden):
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
        """num_samples; for each network both distances, with the distances of real images and of noise (see
        reference.py); and clip_score if there is a CLIP model.
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
        copy = value.detach().to(
            "cpu", copy=True
        )  # memory that NumPy has seen cannot be freed by who shares weights out
        digest.update(name.encode() + copy.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
