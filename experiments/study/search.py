"""The search of one optimizer in one replicate: its space, in units that transfer, and its first points.

A point lies in the unit cube, with one coordinate per dimension; a space converts it to the optimizer's arguments.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from experiments.harness.errors import ConfigError

MOST_DIMENSIONS = 8
"""Points are drawn with this many coordinates, of which a space takes the first: optimizers with spaces of different
sizes share the values of their common dimensions.
"""
SHORTEST_MEMORY = 1.0
"""in steps: a beta of 0. With a minimum of 2, Lion's best trials in language modelling lay at that end"""
DIGITS = 4
"""significant digits of a value"""
KINDS = ("rate", "memory", "decay", "log")


@dataclass(frozen=True)
class Dimension:
    """One number that a search chooses, log-uniform from ``low`` to ``high``."""

    argument: str
    """of the optimizer"""
    kind: str
    """rate: the peak learning rate. memory: 1 / (1 - b) steps for a beta b, up to the run's length. decay: the sum of
    lr * weight_decay over the run. log: the argument itself"""
    low: float
    high: float
    zero: float = 0.0
    """the share of the dimension, at its lower end, that means the value 0"""
    copies: int = 1
    """how many elements of the argument get this value"""

    def within(self, steps: int) -> "Dimension":
        """The dimension in a run of ``steps``, which is the upper end of a memory."""
        return replace(self, high=float(steps)) if self.kind == "memory" else self

    def value(self, position: float) -> float:
        """The value at a position from 0 to 1."""
        if position < self.zero:
            return 0.0
        return self.low * (self.high / self.low) ** ((position - self.zero) / (1 - self.zero))


@dataclass(frozen=True)
class Space:
    """The search space of one optimizer."""

    version: int
    source: str
    """the published ranges it is based on"""
    dimensions: tuple[Dimension, ...]
    lists: Mapping[str, int]
    """lengths of the arguments that are lists"""

    def arguments(self, unit: Sequence[float], *, steps: int, factor_sum: float) -> dict[str, Any]:
        """The optimizer's arguments at a point; ``factor_sum`` is the sum of the learning rate over the run, relative
        to its peak.
        """
        chosen: dict[str, Any] = {}
        for dimension, position in zip(self.dimensions, unit, strict=True):
            value = dimension.within(steps).value(position)
            if dimension.kind == "memory":
                value = float(f"{1 - _rounded(1 / value):.12g}")
            if dimension.argument in self.lists:
                chosen.setdefault(dimension.argument, []).extend([value] * dimension.copies)
            else:
                chosen[dimension.argument] = value
        for dimension in self.dimensions:
            if dimension.kind == "decay":
                chosen[dimension.argument] /= factor_sum * chosen["lr"]
        # Betas are already rounded through their memories, so each factor of 10 adds a 9.
        return {name: value if name in self.memories else _rounded(value) for name, value in chosen.items()}

    @property
    def memories(self) -> set[str]:
        """Names of the arguments that are betas."""
        return {dimension.argument for dimension in self.dimensions if dimension.kind == "memory"}


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def space_of(optimizer: Mapping[str, Any]) -> Space:
    """The space in an optimizer's config (its key ``space``). Raises ConfigError if it is missing or invalid."""
    name, given = optimizer["name"], optimizer.get("space")
    if not given:
        raise ConfigError(
            f"optimizer={name} has no search space, so a study cannot tune it: give its file a key space, as in "
            "conf/optimizer/adamw.yaml, with the low and high end of every argument that matters."
        )
    dimensions, lists = [], {}
    for argument, described in given["arguments"].items():
        kind, number, copies = described["kind"], described.get("number"), described.get("copies", 1)
        if unknown := {*described} - {"kind", "low", "high", "zero", "number", "copies"}:
            raise ConfigError(f"optimizer.space.arguments.{argument} has the unknown key {min(unknown)}.")
        if kind not in KINDS:
            raise ConfigError(
                f"optimizer.space.arguments.{argument}.kind must be one of {', '.join(KINDS)}, but it is {kind!r}."
            )
        low = SHORTEST_MEMORY if kind == "memory" else described["low"]
        high, zero = described.get("high", math.inf), described.get("zero", 0.0)
        if not (0 < low < high and 0 <= zero < 1):
            raise ConfigError(f"optimizer.space.arguments.{argument} needs 0 < low < high, and zero from 0 to below 1.")
        if number or copies > 1:
            lists[argument] = (number or 1) * copies
        dimensions += [Dimension(argument, kind, low, high, zero, copies)] * (number or 1)
    if [dimension.argument for dimension in dimensions if dimension.kind == "rate"] != ["lr"]:
        raise ConfigError(f"optimizer={name}: its space must have lr, and no other argument, of kind rate.")
    if len(dimensions) > MOST_DIMENSIONS:
        raise ConfigError(
            f"optimizer={name}: its space has {len(dimensions)} dimensions, but at most {MOST_DIMENSIONS} are possible."
        )
    return Space(int(given["version"]), str(given["source"]), tuple(dimensions), lists)


def first_points(dimensions: int, trials: int, seed: int) -> NDArray[np.float64]:
    """The first points of a search ``[trials, dimensions]``: a Latin hypercube over the unit cube."""
    return np.asarray(
        scipy.stats.qmc.LatinHypercube(MOST_DIMENSIONS, rng=np.random.default_rng(seed)).random(trials)[:, :dimensions]
    )
