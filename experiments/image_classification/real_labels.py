"""Reassessed labels (ReaL) of ImageNet's validation images: Beyer et al. 2020, "Are we done with ImageNet?".

Raters gave each image all labels that apply. As in the original paper, a prediction is correct if it is one of them,
and images without labels are ignored.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.harness.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


def read_real_labels(path: Path, file_names: Sequence[str]) -> np.ndarray:
    """Labels of the stored images ``file_names``, int64 [images, most labels of one image], padded with -1.

    ``path`` is real.json: a list of labels for ILSVRC2012_val_00000001 and so on. Images are matched by the number in
    their file name, because copies of ImageNet store them in different orders. Raises DataError for a name without a
    number, a number without an entry, and a file without any label.
    """
    try:
        entries: list[list[int]] = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}).") from error
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, list) or not all(isinstance(label, int) and label >= 0 for label in entry):
            raise DataError(f"{path}: entry {number} is {entry!r}, but must be a list of class numbers.")
    chosen = []
    for name in file_names:
        match = _NUMBER.match(name)
        if not match or not 0 < int(match[1]) <= len(entries):
            raise DataError(
                f"The test image {name!r} has no entry in {path}: its name must begin with ILSVRC2012_val_ and a "
                f"number from 00000001 to {len(entries):08d}. To do without these labels, use data=imagenet_alone."
            )
        chosen.append(entries[int(match[1]) - 1])
    most = max((len(labels) for labels in chosen), default=0)
    if most == 0:
        raise DataError(f"{path} has no label for any test image.")
    return np.array([labels + [-1] * (most - len(labels)) for labels in chosen], np.int64)


def real_sums(logits: "Tensor", labels: "Tensor") -> "dict[str, Tensor]":
    """Sums over a batch: images whose top prediction is among their labels, and images that have labels.

    ``logits`` ``[N, classes]``, ``labels`` int64 ``[N, most]`` padded with -1; sums are float64 scalars.
    """
    right = (logits.argmax(1, keepdim=True) == labels).any(1)
    return {"real_top1": right.sum().double(), "real_count": (labels >= 0).any(1).sum().double()}
