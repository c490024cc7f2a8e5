"""Temperature scaling (Guo et al. 2017, arXiv:1706.04599) and the calibration error, as sums over samples.

A classifier's loss also says how large its logits are, which learning rate and decay decide and which one number puts
right. So the loss is read at the temperature that is best on the validation split.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURES = 2.0 ** (np.arange(-80, 81) / 16)
"""1/32 to 32 in steps of 4 %: a parabola through three of them is the loss between them within 1e-5 of it."""
BINS = 15
"""of confidence, as in Guo et al."""


def temperature_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of ``logits / temperature`` summed over a batch, by temperature: float64 ``[161]``.

    ``logits`` ``[N, classes]`` (any float dtype; computed in float32), ``labels`` int64 ``[N]``.
    """
    logits = logits.float()
    sums = [F.cross_entropy(logits / temperature, labels, reduction="sum") for temperature in TEMPERATURES.tolist()]
    return torch.stack(sums).double()


def calibrated_loss(nats: Sequence[float], count: float, val_nats: Sequence[float] | None = None) -> float:
    """The mean loss at the temperature where ``val_nats`` is least (None: ``nats`` itself).

    Both are ``temperature_sums`` over a whole split; ``count`` samples are in that of ``nats``. Between temperatures
    they follow the parabola, over the temperature's logarithm, through the least sum and its two neighbours.
    """
    fitted = np.asarray(nats if val_nats is None else val_nats)
    middle = int(np.clip(np.argmin(fitted), 1, len(fitted) - 2))
    before, least, after = fitted[middle - 1 : middle + 2]
    curvature = before - 2 * least + after
    x = float(np.clip((before - after) / (2 * curvature), -1, 1)) if curvature > 0 else 0.0
    weights = np.array([x * (x - 1) / 2, 1 - x * x, x * (x + 1) / 2])
    return float(weights @ np.asarray(nats)[middle - 1 : middle + 2]) / count


def confidence_sums(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Sums over a batch by confidence, the probability of the likeliest class: how high it was, and how often that
    class was right; float64 ``[15]`` each.
    """
    confidence, guesses = logits.double().softmax(1).max(1)
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    empty = confidence.new_zeros(BINS)
    return {
        "confidence": empty.index_add(0, bins, confidence),
        "confident_right": empty.index_add(0, bins, (guesses == labels).double()),
    }


def calibration_error(confidence: Sequence[float], right: Sequence[float], count: float) -> float:
    """Expected calibration error in percent: by how much confidence and accuracy differ, in the mean over samples."""
    return 100 * float(np.abs(np.subtract(confidence, right)).sum()) / count


def calibration_sums(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Both over a batch: ``nats``, by temperature, and those by confidence."""
    return {"nats": temperature_sums(logits, labels), **confidence_sums(logits, labels)}


def no_calibration_sums(device: torch.device) -> dict[str, Tensor]:
    """The same over no samples, to add to."""
    sizes = {"nats": len(TEMPERATURES), "confidence": BINS, "confident_right": BINS}
    return {name: torch.zeros(size, dtype=torch.float64, device=device) for name, size in sizes.items()}


def calibration_metrics(sums: Mapping[str, Any]) -> dict[str, float]:
    """calibrated_loss (nats) and calibration_error (percent) of a whole split. The temperature is fitted on
    ``val_nats``, the sum ``nats`` of the validation split, or without it on the split itself.
    """
    count = sums["count"]
    return {
        "calibrated_loss": calibrated_loss(sums["nats"], count, sums.get("val_nats")),
        "calibration_error": calibration_error(sums["confidence"], sums["confident_right"], count),
    }
