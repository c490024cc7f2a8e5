"""Classification metrics as sums over samples, so that they do not depend on how a split is divided into batches.

Temperature scaling and the calibration error are those of Guo et al. 2017 (arXiv:1706.04599): a classifier's loss also
depends on the scale of its logits, which is determined by learning rate and weight decay and can be corrected by a
single number. So the loss is evaluated at the temperature that is best on the validation split.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

TEMPERATURES = 2.0 ** (np.arange(-80, 81) / 16)
"""1/32 to 32 in steps of 4 %; a parabola through three of them gives the loss to a relative precision of 1e-5."""
BINS = 15
"""confidence bins, as in Guo et al."""


def classification_sums(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Sums over a batch: cross-entropy, correct samples at rank 1 and within rank 5, and the number of samples.

    ``logits`` ``[N, classes]`` (any float dtype; computed in float32), ``labels`` int64 ``[N]``; sums are float64
    scalars. With fewer than 5 classes, rank 5 means all of them.
    """
    logits = logits.float()
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
    right = ranked == labels[:, None]
    return {
        "loss": F.cross_entropy(logits, labels, reduction="sum").double(),
        "top1": right[:, 0].sum().double(),
        "top5": right.sum().double(),
        "count": labels.new_tensor(len(labels)).double(),
    }


def classification_metrics(sums: dict[str, float]) -> dict[str, float]:
    """Mean cross-entropy (nats), and top-1 and top-5 accuracy in percent, from sums over a whole split."""
    count = sums["count"]
    return {"loss": sums["loss"] / count, "top1": 100 * sums["top1"] / count, "top5": 100 * sums["top5"] / count}


def temperature_nats(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of ``logits / temperature`` for each sample and temperature: float64 ``[N, 161]``, from
    ``logits [N, classes]`` (any float dtype; computed in float32) and ``labels`` int64 ``[N]``.
    """
    logits = logits.float()
    nats = [F.cross_entropy(logits / temperature, labels, reduction="none") for temperature in TEMPERATURES.tolist()]
    return torch.stack(nats, dim=1).double()


def calibrated_losses(nats: ArrayLike, fitted: Sequence[float]) -> np.ndarray:
    """``nats`` ``[..., 161]`` by temperature, evaluated at the minimum of ``fitted`` ``[161]``, the sum over a whole
    split: float64 ``[...]``. Between temperatures it is interpolated by a parabola in the logarithm of the temperature,
    through the smallest sum and its two neighbours.
    """
    middle = int(np.clip(np.argmin(fitted), 1, len(fitted) - 2))
    before, least, after = fitted[middle - 1 : middle + 2]
    curvature = before - 2 * least + after
    x = float(np.clip((before - after) / (2 * curvature), -1, 1)) if curvature > 0 else 0.0
    weights = np.array([x * (x - 1) / 2, 1 - x * x, x * (x + 1) / 2])
    return np.asarray(np.asarray(nats)[..., middle - 1 : middle + 2] @ weights)


def confidence_sums(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Sums over a batch by confidence, the probability of the most likely class: the confidence, and how often that
    class was right; float64 ``[15]`` each.
    """
    confidence, guesses = logits.double().softmax(1).max(1)
    bins = (confidence * BINS).nan_to_num().long().clamp(max=BINS - 1)  # the sums of a NaN are NaN, whatever its bin
    empty = confidence.new_zeros(BINS)
    return {
        "confidence": empty.index_add(0, bins, confidence),
        "confident_right": empty.index_add(0, bins, (guesses == labels).double()),
    }


def calibration_error(confidence: Sequence[float], right: Sequence[float], count: float) -> float:
    """Expected calibration error in percent: the difference between confidence and accuracy, averaged over samples."""
    return 100 * float(np.abs(np.subtract(confidence, right)).sum()) / count


def no_calibration_sums(device: torch.device, samples: int | None = None) -> dict[str, Tensor]:
    """Zero sums for ``add_calibration``; if the number of ``samples`` in the split is given, also per sample."""
    shapes: dict[str, tuple[int, ...]]
    shapes = {"nats": (len(TEMPERATURES),), "confidence": (BINS,), "confident_right": (BINS,)}
    if samples is not None:
        shapes["nats_each"] = (samples, len(TEMPERATURES))
    return {name: torch.zeros(shape, dtype=torch.float64, device=device) for name, shape in shapes.items()}


def add_calibration(sums: dict[str, Tensor], logits: Tensor, labels: Tensor, numbers: ArrayLike) -> None:
    """Add a batch, the samples ``numbers`` of the split: ``nats`` by temperature, and the sums by confidence."""
    nats = temperature_nats(logits, labels)
    sums["nats"] += nats.sum(0)
    if "nats_each" in sums:
        sums["nats_each"][torch.as_tensor(numbers)] = nats
    for name, value in confidence_sums(logits, labels).items():
        sums[name] += value


def calibration_metrics(sums: Mapping[str, Any]) -> dict[str, float]:
    """calibrated_loss (nats) and calibration_error (percent) of a whole split. The temperature is fitted on
    ``val_nats``, the sum ``nats`` of the validation split, or without it on the split itself.
    """
    count = sums["count"]
    return {
        "calibrated_loss": float(calibrated_losses(sums["nats"], sums.get("val_nats", sums["nats"]))) / count,
        "calibration_error": calibration_error(sums["confidence"], sums["confident_right"], count),
    }


def calibrated_example_losses(sums: Mapping[str, Any]) -> tuple[str, np.ndarray]:
    """The name calibrated_loss, and its value for each sample, float64 [samples], from the sums ``nats_each``."""
    return "calibrated_loss", calibrated_losses(sums["nats_each"], sums["val_nats"])
