"""Emulate the result of any hyperparameters from a study's trials: a Gaussian process through them, plus residuals.

Such surrogate benchmarks (Eggensperger et al. 2015, AAAI 29) make it possible to try any protocol on recorded trials.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.harness.errors import SuiteError
from experiments.study.replicates import Replicate
from experiments.study.statistics import sign_of
from experiments.study.surrogate import SPREAD_BELOW, Array, Fit, drawn_in, most_probable, predict
from experiments.study.trials import trials_of


@dataclass(frozen=True)
class Trials:
    """All trials of one optimizer in all replicates."""

    units: Array
    """[n, dimensions]"""
    losses: Array
    """[n]: last validation value, signed so that lower is better; a diverged trial gets the worst of the others"""
    replicates: NDArray[np.intp]
    """[n]: index of the replicate within the study"""

    def best(self, replicate: int, allowed: NDArray[np.bool_] | None = None) -> float | None:
        """The lowest loss in a replicate, among the ``allowed`` trials."""
        mine = self.replicates == replicate
        kept = self.losses[mine if allowed is None else mine & allowed]
        return float(kept.min()) if kept.size else None


def all_trials(study: Mapping[str, object], replicates: Sequence[Replicate], optimizer: str) -> Trials:
    """All trials of an ``optimizer``. Raises SuiteError if none has ended with a value of the validation metric."""
    metric, sign = str(study["validation_metric"]), sign_of(str(study["validation_better"]))
    units, losses, places = [], [], []
    for place, replicate in enumerate(replicates):
        for run in trials_of(replicate, optimizer):
            value = run.last(metric)
            units.append(run.unit)
            losses.append(np.inf if value is None else -sign * value)
            places.append(place)
    found = np.array(losses, dtype=float)
    if not np.isfinite(found).any():
        raise SuiteError(
            f"No trial of {optimizer} has a value of {metric}, so no emulator can be fitted to its trials."
        )
    return Trials(
        np.array(units), np.where(np.isfinite(found), found, found[np.isfinite(found)].max()), np.array(places)
    )


class Emulator:
    """One optimizer's loss anywhere in its space, in any replicate. Losses are relative to the replicate's level, which
    all optimizers of a study share.
    """

    def __init__(self, trials: Trials, levels: Array, rng: np.random.Generator) -> None:
        """``levels`` [replicates] are subtracted from the losses of each replicate."""
        losses = trials.losses - levels[trials.replicates]
        self._best, self._unit = losses.min(), SPREAD_BELOW * (np.median(losses) - losses.min()) or 1.0
        tamed = drawn_in((losses - self._best) / self._unit)
        self._mean, self._scale = tamed.mean(), max(tamed.std(), 1e-12)
        self._units, values = trials.units[None], ((tamed - self._mean) / self._scale)[None]
        kept, _ = most_probable(self._units, values, rng)
        self._fit = Fit(*(array[:, :1] for array in kept))
        # The exact leave-one-out residuals (Rasmussen and Williams 2006, equation 5.12).
        residuals = self._fit.weights[0, 0] / np.diagonal(self._fit.inverse[0, 0])
        self.explained = float(1 - residuals.var() / values.var())
        good = trials.losses - levels[trials.replicates] <= np.median(losses)
        self._residuals = [
            found if (found := residuals[good & (trials.replicates == place)]).size else residuals
            for place in range(len(levels))
        ]

    @property
    def dimensions(self) -> int:
        """Of the search space."""
        return int(self._units.shape[-1])

    def expected(self, points: Array) -> Array:
        """Mean losses ``[n]`` at points ``[n, dimensions]``."""
        return self._losses(predict(self._units, self._fit, points[None])[0][0, 0])

    def runs(self, points: Array, replicate: int, rng: np.random.Generator) -> Array:
        """Losses ``[n]`` of single runs in one replicate, with residuals drawn from its good trials."""
        off = rng.choice(self._residuals[replicate], size=len(points))
        return self._losses(predict(self._units, self._fit, points[None])[0][0, 0] + off)

    def _losses(self, values: Array) -> Array:
        above = self._mean + self._scale * values
        return np.asarray(self._best + self._unit * np.where(above < 1, above, np.exp(np.minimum(above, 20) - 1)))


def levels_of(trials: Sequence[Trials], replicates: int) -> Array:
    """How far each replicate lies above the mean of all replicates: from the mean of all optimizers' best losses."""
    best = np.array([[each.best(place) or 0.0 for place in range(replicates)] for each in trials])
    return np.asarray(best.mean(axis=0) - best.mean())
