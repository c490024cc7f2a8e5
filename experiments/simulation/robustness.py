"""How far a study's budget, search spaces and betas can change before its verdict on the validation metric changes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.simulation.emulator import Emulator, Trials
from experiments.simulation.protocols import judged
from experiments.study.statistics import LEAST_REPLICATES

CUTS = np.arange(1, 20) / 20
"""shares of a dimension to cut off, tried in turn"""
CANDIDATES = 4000
"""points at which the emulator is evaluated in search of its lowest loss"""


class Cut(NamedTuple):
    """The first cut of one end of a dimension that changes the verdict."""

    name: str
    end: str
    """low or high"""
    share: float
    verdict: str


def verdict_of(
    a: Trials, b: Trials, replicates: int, margin: float, kept: Mapping[str, Any] | None = None
) -> str | None:
    """The verdict from the best validation losses in every replicate, among the trials that the masks in ``kept`` allow
    for a and b; None if fewer than LEAST_REPLICATES replicates have any left.
    """
    masks = kept or {}
    best = [(a.best(place, masks.get("a")), b.best(place, masks.get("b"))) for place in range(replicates)]
    pairs = [(x, y) for x, y in best if x is not None and y is not None]
    return judged([x for x, _ in pairs], [y for _, y in pairs], margin) if len(pairs) >= LEAST_REPLICATES else None


def by_budget(a: Trials, b: Trials, replicates: int, margin: float) -> list[str | None]:
    """The verdicts after 1, 2, ... trials."""
    ranks = {name: _ranks(each, replicates) for name, each in (("a", a), ("b", b))}
    most = int(max(rank.max() for rank in ranks.values()))
    return [
        verdict_of(a, b, replicates, margin, {name: rank <= trials for name, rank in ranks.items()})
        for trials in range(1, most + 1)
    ]


def _ranks(trials: Trials, replicates: int) -> np.ndarray:
    """The number of each trial within its replicate, from 1."""
    ranks = np.zeros(len(trials.losses), dtype=int)
    for place in range(replicates):
        mine = np.flatnonzero(trials.replicates == place)
        ranks[mine] = np.arange(1, len(mine) + 1)
    return ranks


def settled_after(verdicts: Sequence[str | None]) -> int:
    """The number of trials after which the verdict no longer changes."""
    changed = [trials for trials, found in enumerate(verdicts, start=1) if found != verdicts[-1]]
    return changed[-1] + 1 if changed else 1


def by_box(
    side: str, a: Trials, b: Trials, replicates: int, margin: float, space: Sequence[Mapping[str, Any]]
) -> list[Cut]:
    """For each dimension of optimizer ``side`` (a or b) and each end: the smallest cut that changes the verdict. A cut
    removes either all trials with the value 0 or none of them, because they are equivalent.
    """
    trials, whole = {"a": a, "b": b}[side], verdict_of(a, b, replicates, margin)
    found = []
    for column, dimension in enumerate(space):
        at = trials.units[:, column]
        for end in ("low", "high"):
            for share in CUTS:
                if (share if end == "low" else 1 - share) < dimension["zero"]:
                    continue
                kept = at >= share if end == "low" else at <= 1 - share
                verdict = verdict_of(a, b, replicates, margin, {side: kept})
                if verdict is None:  # too few replicates have a trial left
                    break
                if verdict != whole:
                    found.append(Cut(str(dimension["name"]), end, float(share), verdict))
                    break
    return found


def cost_of_betas(emulator: Emulator, trials: Trials, fixed: Mapping[int, float], rng: np.random.Generator) -> float:
    """The increase of the best expected loss when the ``fixed`` dimensions are at the given positions."""
    best = trials.units[np.argsort(trials.losses)[: CANDIDATES // 8]]
    around = best[rng.integers(len(best), size=CANDIDATES // 2)]
    near = np.clip(around + 0.1 * rng.standard_normal(around.shape), 0, 1)
    points = np.concatenate([rng.random((CANDIDATES // 2, trials.units.shape[1])), near, best])
    held = points.copy()
    for column, position in fixed.items():
        held[:, column] = position
    return float(emulator.expected(held).min() - emulator.expected(np.concatenate([points, held])).min())
