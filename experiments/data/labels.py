"""Class labels: convert whatever a data set contains to integers from 0 with the same meaning in all its splits."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from experiments.harness.errors import DataError

log = logging.getLogger(__name__)

FEW_ROWS = 50
"""With fewer, the standard error of an accuracy of 80 % is above 5.6 points."""
_NUMBER = re.compile("[0-9]+")


@dataclass(frozen=True)
class Labels:
    """The classes of the rows of a split."""

    numbers: np.ndarray
    """int64 [rows]"""
    names: tuple[str, ...] | None
    """by class number; None if the set has only numbers"""


def column_labels(values: Sequence[Any], names: Sequence[str] | None, where: str) -> Labels:
    """Labels from a column: class numbers, with or without their ``names``; or names; or paths ``.../<class>/<file>``,
    if all values are paths and all different. Names are numbered in alphabetical order. Raises DataError, giving the
    row, for a label that is null, blank, not an integer, or not among the names.
    """
    text = bool(values) and isinstance(values[0], str)
    for row, value in enumerate(values):
        if isinstance(value, str) != text or not (value.strip() if text else _is_whole(value)):
            raise DataError(f"{where} has the label {value!r} in row {row}: a label must be an integer or a name.")
    if text:
        paths = all("/" in value for value in values) and len({*values}) == len(values)
        classes = [PurePosixPath(value).parent.name if paths else value for value in values]
        names = sorted(set(classes))
        number_of = {name: number for number, name in enumerate(names)}
        return Labels(np.array([number_of[name] for name in classes], np.int64), tuple(names))
    numbers = np.array([int(value) for value in values], np.int64)
    if names:
        check_labels(numbers, len(names), where)
    return Labels(numbers, tuple(names) if names else None)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 2**53 and int(value) == value


def same_numbers(splits: Mapping[str, Labels], first: str, names: Sequence[str] | None) -> dict[str, Labels]:
    """The labels of all splits, numbered as in ``names``, else as in the split ``first``.

    If the class names are numbers in every split, these numbers are used rather than their alphabetical position.
    Raises DataError for a class that the first split lacks, and if only some splits have names.
    """
    used = {split: _used(labels) for split, labels in splits.items()}
    if all(name is not None and _NUMBER.fullmatch(name) for own in used.values() for name in own):
        return {split: _meant(labels, split) for split, labels in splits.items()}
    if without := [split for split, labels in splits.items() if labels.names is None]:
        if len(without) < len(splits):
            raise DataError(f"split {without[0]} has class numbers without names, but other splits have names.")
        return dict(splits)
    order = tuple(names or splits[first].names or ())
    return {split: renumbered(labels, order, f"split {split}") for split, labels in splits.items()}


def _used(labels: Labels) -> list[str | None]:
    numbers = np.unique(labels.numbers).tolist()
    return [labels.names[number] if labels.names else None for number in numbers]


def _meant(labels: Labels, split: str) -> Labels:
    assert labels.names is not None
    first: dict[int, str] = {}
    for name in _used(labels):
        if name and first.setdefault(int(name), name) != name:
            raise DataError(f"split {split} has two names for class {int(name)}: {first[int(name)]} and {name}.")
    return Labels(np.array([int(labels.names[number]) for number in labels.numbers], np.int64), None)


def renumbered(labels: Labels, names: Sequence[str], where: str) -> Labels:
    """The same classes, renumbered by their position in ``names``. Raises DataError for a class that is not there."""
    assert labels.names is not None
    used = {labels.names[number] for number in np.unique(labels.numbers)}
    if strange := sorted(used - set(names)):
        raise DataError(f"{where} has the class {strange[0]!r}, which is not among {_shown(names)}.")
    number_of = {name: number for number, name in enumerate(names)}
    table = np.array([number_of.get(name, -1) for name in labels.names], np.int64)
    return Labels(table[labels.numbers], tuple(names))


def check_labels(numbers: np.ndarray, num_classes: int, where: str) -> None:
    """Raise DataError unless there are rows and all their classes are in 0..num_classes - 1."""
    if len(numbers) == 0 or numbers.min() < 0 or numbers.max() >= num_classes:
        found = f"labels from {numbers.min()} to {numbers.max()}" if len(numbers) else "no rows"
        wrong = np.flatnonzero((numbers < 0) | (numbers >= num_classes))
        row = f" Row {wrong[0]} has {numbers[wrong[0]]}." if len(wrong) else ""
        raise DataError(f"{where} has {found}, but there are {num_classes} classes, from 0.{row}")


def check_classes(splits: Mapping[str, np.ndarray], num_classes: int, name: str) -> None:
    """Raise DataError unless the labels (int64 [rows], by split) are valid and a split train contains all classes."""
    for split, numbers in splits.items():
        check_labels(numbers, num_classes, f"data={name}: split {split}")
    if "train" in splits:
        absent = sorted(set(range(num_classes)) - set(splits["train"].tolist()))
        if absent:
            raise DataError(
                f"data={name}: {len(absent)} of the num_classes={num_classes} classes have no training sample, such as "
                f"number {absent[0]}: complete the set, or lower num_classes."
            )


def warn_of_small_splits(splits: Mapping[str, np.ndarray], num_classes: int, name: str) -> None:
    """Warn about a split, given by its labels (int64 [rows]), that has fewer than FEW_ROWS rows or lacks a class."""
    for split, numbers in splits.items():
        if len(numbers) < FEW_ROWS:
            log.warning("data=%s: %s has few rows (%d), so its metrics are mostly chance", name, split, len(numbers))
        if absent := num_classes - len(set(numbers.tolist())):
            why = f"lacks {absent} of the {num_classes} classes, so its metrics say nothing about them"
            log.warning("data=%s: %s %s", name, split, why)


def check_order(numbers: np.ndarray, name: str) -> None:
    """Raise DataError for labels int64 [rows] sorted by class, of which a slice is no random sample."""
    steps = np.diff(numbers)
    if len(np.unique(steps)) > 1 and ((steps >= 0).all() or (steps <= 0).all()) and steps.any():
        raise DataError(
            f"data={name}: the rows are sorted by class, but the last ones are held out: let its decoder put them into "
            "an order that does not depend on the class, such as that of a hash of their content."
        )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more classes" if len(names) > 3 else "")
