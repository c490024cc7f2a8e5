"""Tuning protocols, run on emulated optimizers: which optimizer would each protocol call better?"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.simulation.emulator import Emulator
from experiments.simulation.studies import hypercubes
from experiments.study.statistics import LEAST_REPLICATES, paired_difference, verdict
from experiments.study.surrogate import Array, box_width, next_points

RATES = (0.178, 0.562, 1.78, 5.62)
"""multiples of the default learning rate: the suite's former grid"""
CONFIRM_SEEDS = 8
"""fresh seeds for both winners in that protocol"""
ALGOPERF = (3, 5)
"""studies, and points in each: AlgoPerf's external tuning (Dahl et al. 2023, arXiv:2306.07179)"""
RANDOM_POINTS = 30


class Side(NamedTuple):
    """One of the two optimizers."""

    emulator: Emulator
    default: Array | None
    """position of its default hyperparameters in its space; None: unknown"""
    rates: Array | None
    """[len(RATES), dimensions]: the default at multiples of its learning rate"""


class EmulatedSearches(NamedTuple):
    """Emulated searches by the suite's method, each in a randomly drawn replicate."""

    before: Array
    """[n]: best loss before the last stage"""
    best: Array
    """[n]"""
    confirmed: Array
    """[n]: mean of the confirm runs"""

    def chosen(self, numbers: NDArray[np.int64]) -> "EmulatedSearches":
        """The searches with these numbers."""
        return EmulatedSearches(*(each[numbers] for each in self))

    def mixed(self, others: "EmulatedSearches", where: NDArray[np.bool_]) -> "EmulatedSearches":
        """These searches, but the others ``where`` it is true."""
        return EmulatedSearches(*(np.where(where, other, own) for own, other in zip(self, others, strict=True)))


def by_margin(a: float, b: float, margin: float) -> str:
    """The conclusion from two numbers without intervals."""
    return "tie" if abs(a - b) <= margin else "a" if a < b else "b"


def default_settings(a: Side, b: Side, replicate: int, margin: float, rng: np.random.Generator) -> str | None:
    """One run of each with its default hyperparameters."""
    if a.default is None or b.default is None:
        return None
    x, y = (
        float(side.runs(at[None], replicate, rng)[0]) for side, at in ((a.emulator, a.default), (b.emulator, b.default))
    )
    return by_margin(x, y, margin)


def rate_grid(a: Side, b: Side, replicate: int, margin: float, rng: np.random.Generator) -> str | None:
    """Four learning rates on one seed, everything else at the default; then an interval over fresh seeds of the
    winners.
    """
    if a.rates is None or b.rates is None:
        return None
    confirmed = []
    for side, rates in ((a, a.rates), (b, b.rates)):
        winner = rates[int(side.emulator.runs(rates, replicate, rng).argmin())]
        confirmed.append(side.emulator.runs(np.repeat(winner[None], CONFIRM_SEEDS, axis=0), replicate, rng).tolist())
    return judged(confirmed[0], confirmed[1], margin)


def algoperf(a: Side, b: Side, replicates: Sequence[int], margin: float, rng: np.random.Generator) -> str:
    """Best of five random points, averaged over the studies."""
    scores = [
        float(np.mean([_best_of(side, ALGOPERF[1], replicate, rng) for replicate in replicates])) for side in (a, b)
    ]
    return by_margin(scores[0], scores[1], margin)


def best_of_many(a: Side, b: Side, replicate: int, margin: float, rng: np.random.Generator) -> str:
    """Best of thirty random points, judged by the same score."""
    scores = [_best_of(side, RANDOM_POINTS, replicate, rng) for side in (a, b)]
    return by_margin(scores[0], scores[1], margin)


def _best_of(side: Side, points: int, replicate: int, rng: np.random.Generator) -> float:
    return float(side.emulator.runs(rng.random((points, side.emulator.dimensions)), replicate, rng).min())


def search(
    emulator: Emulator, replicates: Sequence[int], stages: Sequence[int], confirm: int, rng: np.random.Generator
) -> EmulatedSearches:
    """The suite's searches, one in each of the given ``replicates``."""
    points = hypercubes(rng, len(replicates), stages[0])[:, :, : emulator.dimensions]

    def tried(at: Array) -> Array:
        return np.stack([emulator.runs(each, place, rng) for each, place in zip(at, replicates, strict=True)])

    losses = tried(points)
    while (done := points.shape[1]) < sum(stages):
        width = box_width(done, first=stages[0], total=sum(stages))
        more = next_points(points, losses, width, rng)[:, None]
        points, losses = np.concatenate([points, more], axis=1), np.concatenate([losses, tried(more)], axis=1)
    winners = points[np.arange(len(replicates)), losses.argmin(axis=1)]
    confirmed = tried(np.repeat(winners[:, None], confirm, axis=1)).mean(axis=1)
    before = losses[:, : -stages[-1]].min(axis=1) if len(stages) > 1 else losses.min(axis=1)
    return EmulatedSearches(before, losses.min(axis=1), confirmed)


def replicated(a: EmulatedSearches, b: EmulatedSearches, margin: float) -> str | None:
    """The suite's protocol, composed of these searches."""
    gains = [float((each.before - each.best).mean()) for each in (a, b)]
    return judged(a.confirmed.tolist(), b.confirmed.tolist(), margin, abs(gains[0] - gains[1]))


def judged(a: Sequence[float], b: Sequence[float], margin: float, unsettled: float | None = None) -> str | None:
    """``a``, ``b``, ``tie``, ``undecided`` or ``withheld``, with lower being better; None with too few pairs."""
    if len(a) < LEAST_REPLICATES:
        return None
    return verdict(paired_difference(a, b), a="a", b="b", better="lower", margin=margin, unsettled=unsettled)


def outcomes(times: int, once: Callable[[], str | None]) -> list[str]:
    """The conclusion of a protocol in each repetition; empty if it cannot be run."""
    said = [once() for _ in range(times)]
    return [each for each in said if each is not None]
