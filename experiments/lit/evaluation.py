"""Sums of zero-shot classification and of retrieval over one process's share of a split."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.lit.models import EVALUATION_BATCH_SIZE, TwoTowers
from experiments.metrics.classification import TEMPERATURES, calibrated_losses, classification_sums, temperature_nats
from experiments.metrics.retrieval import RANKS, recall_sums
from experiments.metrics.zero_shot import class_embeddings
from experiments.pretrained.locked import Inputs, joined


@dataclass(frozen=True)
class PairInputs:
    """The towers' inputs for a split of pairs."""

    images: Inputs
    texts: Inputs
    starts: np.ndarray
    """int64 [images + 1]; see Pairs.starts"""

    def chosen(self, numbers: np.ndarray) -> "PairInputs":
        """The images with these indices, in this order, and their captions."""
        captions = np.concatenate([np.arange(self.starts[number], self.starts[number + 1]) for number in numbers])
        starts = np.cumsum([0, *(self.starts[numbers + 1] - self.starts[numbers])], dtype=np.int64)
        return PairInputs(lambda own: self.images(numbers[own]), lambda own: self.texts(captions[own]), starts)

    def and_then(self, other: "PairInputs") -> "PairInputs":
        """Both splits concatenated, this one first."""
        images, captions = len(self.starts) - 1, int(self.starts[-1])
        return PairInputs(
            joined(self.images, images, other.images),
            joined(self.texts, captions, other.texts),
            np.concatenate([self.starts, captions + other.starts[1:]]),
        )


@dataclass(frozen=True)
class ZeroShotInputs:
    """The towers' inputs for a labelled split."""

    images: Inputs
    labels: np.ndarray
    """int64 [images]"""
    prompts: Inputs
    num_prompts: int
    num_classes: int


def zero_shot_sums(model: TwoTowers, split: ZeroShotInputs, process: int, num_processes: int) -> dict[str, Tensor]:
    """Sums of top1, top5 and count over this process's images; every process builds the classifier itself."""
    device = model.logit_scale.device
    classes = class_embeddings(embedded(model.embed_texts, split.prompts, split.num_prompts, device), split.num_classes)
    mine = np.arange(process, len(split.labels), num_processes)
    images = embedded(model.embed_images, lambda numbers: split.images(mine[numbers]), len(mine), device)
    sums = classification_sums(cosines(images, classes), torch.tensor(split.labels[mine], device=device))
    return {name: sums[name] for name in ("top1", "top5", "count")}


def pair_sums(
    model: TwoTowers, split: PairInputs, process: int, num_processes: int, calibrates: bool = False
) -> dict[str, Tensor]:
    """Sums over this process's share of the images and captions as queries against all others: recalls in both
    directions; the loss over the whole split with each image's first caption, with ``calibrates`` also by temperature
    (``nats``, and ``nats_each`` per image); and the counts.

    Every process embeds everything, which is cheap compared with training.
    """
    device = model.logit_scale.device
    starts = torch.from_numpy(split.starts).to(device)
    images, captions = len(starts) - 1, int(starts[-1])
    owners = torch.repeat_interleave(torch.arange(images, device=device), starts.diff(), output_size=captions)
    image_vectors = embedded(model.embed_images, split.images, images, device)
    text_vectors = embedded(model.embed_texts, split.texts, captions, device)

    names = [f"{way}_recall{rank}" for way in ("i2t", "t2i") for rank in RANKS]
    sums = {name: torch.zeros((), dtype=torch.float64, device=device) for name in ("loss", *names)}
    if calibrates:
        sums["nats_each"] = torch.zeros(images, len(TEMPERATURES), dtype=torch.float64, device=device)
    for queries in torch.arange(process, images, num_processes, device=device).split(EVALUATION_BATCH_SIZE):
        found = recall_sums(cosines(image_vectors[queries], text_vectors), owners == queries[:, None])
        _add(sums, "i2t_", found)
        first = text_vectors[starts[:-1]]
        for own, others in ((image_vectors, first), (first, image_vectors)):
            logits = model.scale() * cosines(own[queries], others)
            sums["loss"] += F.cross_entropy(logits, queries, reduction="sum").double() / 2
            if calibrates:
                sums["nats_each"][queries] += temperature_nats(logits, queries) / 2
    my_captions = torch.arange(process, captions, num_processes, device=device)
    for queries in my_captions.split(EVALUATION_BATCH_SIZE):
        relevant = owners[queries, None] == torch.arange(images, device=device)
        _add(sums, "t2i_", recall_sums(cosines(text_vectors[queries], image_vectors), relevant))
    count = len(range(process, images, num_processes))
    sums["count"] = torch.tensor(float(count), dtype=torch.float64, device=device)
    sums["captions"] = torch.tensor(float(len(my_captions)), dtype=torch.float64, device=device)
    sums["logit_scale"] = model.scale().detach().double() * count
    if calibrates:
        sums["nats"] = sums["nats_each"].sum(0)
    return sums


def pair_metrics(sums: dict[str, Any]) -> dict[str, float]:
    """Loss (nats), logit scale, recalls and their mean (percent) from the sums over a whole split; with ``nats`` also
    calibrated_loss, at the temperature that is best on ``val_nats``, those of the validation split, if given.
    """
    recalls = {
        name: 100 * value / sums["count" if name.startswith("i2t") else "captions"]
        for name, value in sums.items()
        if "_recall" in name
    }
    means = {name: sums[name] / sums["count"] for name in ("loss", "logit_scale")}
    if "nats" in sums:
        fitted = sums.get("val_nats", sums["nats"])
        means["calibrated_loss"] = float(calibrated_losses(sums["nats"], fitted)) / sums["count"]
    return {**means, **recalls, "mean_recall": sum(recalls.values()) / len(recalls)}


def zero_shot_metrics(sums: dict[str, float]) -> dict[str, float]:
    """Top-1 and top-5 in percent."""
    return {name: 100 * sums[name] / sums["count"] for name in ("top1", "top5")}


def embedded(embed: Callable[[Tensor], Tensor], inputs: Inputs, count: int, device: torch.device) -> Tensor:
    """Embeddings float32 [count, D] of inputs 0 to ``count - 1``."""
    parts = [
        np.arange(start, min(start + EVALUATION_BATCH_SIZE, count)) for start in range(0, count, EVALUATION_BATCH_SIZE)
    ]
    return torch.cat([embed(inputs(part).to(device)) for part in parts])


def cosines(queries: Tensor, keys: Tensor) -> Tensor:
    """Cosines float32 ``[Q, K]`` of unit vectors float32 ``[Q, D]`` and ``[K, D]``, even under autocast, because many
    keys would be tied in bf16.
    """
    with torch.autocast(queries.device.type, enabled=False):
        return queries @ keys.T


def _add(sums: dict[str, Tensor], prefix: str, more: dict[str, Tensor]) -> None:
    for name, value in more.items():
        sums[prefix + name] += value
