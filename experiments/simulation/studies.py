"""Simulate whole studies on synthetic loss surfaces whose true optimum is known: searches, confirmation, verdicts.

A loss is measured from its optimizer's own optimum, so the best hyperparameters of every contestant have a loss of 0,
and what a search leaves above that is its regret. Everything runs on many replicates at once, with the code of a real
study: the Gaussian process of its searches (study/surrogate.py) and its intervals (study/statistics.py).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from experiments.harness.seeds import derive_seed
from experiments.study.search import MOST_DIMENSIONS
from experiments.study.statistics import t_intervals
from experiments.study.surrogate import box_width, next_points

Array = NDArray[np.float64]

SHARES = (1.0, 0.3, 0.3, 0.1, 0.05)
"""Curvature along the learning rate, two memories, the decay and a fifth dimension, relative to that along the learning
rate. Memories: moving Lion's betas to (0.8, 0.9) changed language by 0.83 nats, images by 5.4 points and diffusion by
0.017, which is 0.1 to 0.4 of the learning rate's curvature. Decay and the last: not measured, assumed to be weak."""
INTERACTION = 0.5
"""between learning rate and first memory: the correlation of the valley"""
SHIFTS = (0.05, 0.02, 0.03)
"""standard deviations of the optimum's position, in shares of a dimension: per replicate, the same for all optimizers;
per seed of the search, absent on other seeds; per replicate, separately for each optimizer"""
RANDOM_EFFECT = 1.0
"""standard deviation over replicates of the true difference, in standard deviations of a run"""
SHARED_NOISE = 0.25
"""share of the variance between seeds that is common to all optimizers on one seed: in the six studies published at
commit 0ee1841, pairing made the variance of the difference 0.9 to 2.6 times smaller, with a median of 1.4"""
HEAVY_SHARE = 0.15
"""share of runs that draw from the heavy upper tail, if a contestant has one"""
TOGETHER = 16
"""searches simulated at once: more would not fit into a core's cache"""


@dataclass(frozen=True)
class Surface:
    """A task's loss over the unit cube of settings: ``q / (1 + q / height)`` of a quadratic form q."""

    name: str
    curvature: float
    """along the learning rate, loss per unit squared; the unit is three decades"""
    height: float
    """the plateau of the loss, above the optimum"""
    noise: float
    """standard deviation between seeds at the optimum"""
    guess: float
    """the loss of random guessing, which is the score of a diverged run"""
    cliff: float | None = None
    """how far above the optimal learning rate runs diverge"""
    noise_growth: float = 0.1
    """increase of the noise per unit of loss above the optimum: in language, Lion's seeds had a spread of 0.10,
    AdamW's, 0.9 nats lower, one of 0.017"""


# Least-squares fits of val/loss against log10 learning rate in the trials published at commit 0ee1841 (7 to 10 per
# optimizer; 9 times the curvature per decade), for the flatter of Lion and AdamW, whose widths differ by a factor of
# 1.1 to 2.5. Noise: between the two optimizers' in the published confirm runs; AdamW's in language. Cliff: where runs
# diverged.
SURFACES = (
    Surface("language", 4.7, 1.8, 0.017, 2.5),
    Surface("images", 1.25, 1.2, 0.015, 1.2),
    Surface("diffusion", 0.5, 0.9, 0.0007, 0.9, cliff=0.17),
    Surface("fine-tuning", 0.77, 0.25, 0.022, 0.25),
    Surface("LiT", 8.6, 3.6, 0.04, 3.0),
)


@dataclass(frozen=True)
class Contestant:
    """An optimizer, by how it differs from the first."""

    name: str
    narrow: float = 1.0
    """how many times narrower its basin is, in every dimension"""
    optimum: tuple[float, ...] = (0.55, 0.4, 0.5, 0.4, 0.5)
    dimensions: int = 4
    cliff: float | None = None
    """overrides the surface's"""
    tail: float = 0.0
    """heavy tail of the noise: the mean addition in the heavy share of runs, in standard deviations"""


FIRST = Contestant("first")
RIVALS = (
    Contestant("equal"),
    Contestant("2 times narrower", narrow=2.0),
    Contestant("3 times narrower", narrow=3.0),
    Contestant("elsewhere", optimum=(0.3, 0.7, 0.3, 0.7, 0.5)),
    Contestant("all at once", narrow=2.0, optimum=(0.3, 0.7, 0.3, 0.7, 0.5), dimensions=5, cliff=0.12, tail=1.5),
)


@dataclass(frozen=True)
class Design:
    """How a study spends its runs."""

    replicates: int
    stages: tuple[int, ...]
    """trials in each stage; the first stage is a Latin hypercube over the unit cube"""
    confirm: int
    shrink: float | None = None
    """later stages: a hypercube in a box around the best point, smaller by this factor than the previous box; None:
    trials are chosen one by one by the Gaussian process"""
    fresh_seeds: bool = False
    """a new seed for each trial, instead of one seed for all"""

    @property
    def trials(self) -> int:
        """Trials per search."""
        return sum(self.stages)

    @property
    def runs(self) -> int:
        """Runs per optimizer."""
        return self.replicates * (self.trials + self.confirm)


class Searches(NamedTuple):
    """Searches of one contestant, one per replicate."""

    values: Array
    """[replicates, trials]: the values that the search observed"""
    losses: Array
    """[replicates, trials]: the mean loss of the same hyperparameters over fresh seeds"""

    def regrets(self, trials: int) -> Array:
        """[replicates]: the mean loss of the winner among the first ``trials``."""
        return _at(self.losses, self.values[:, :trials].argmin(axis=1))

    def gains(self, last: int) -> Array:
        """[replicates]: how much the best observed value improved over the last ``last`` trials."""
        return np.asarray(self.values[:, :-last].min(axis=1) - self.values.min(axis=1))


def rng_of(*name: int | str) -> np.random.Generator:
    """The random stream for one cell of a table, so that no cell depends on which others are simulated."""
    return np.random.default_rng(derive_seed("simulation", *name))


def searched(surface: Surface, contestant: Contestant, design: Design, replicates: int) -> Searches:
    """The searches of one contestant; all contestants on a surface share the replicates and the first points."""
    parts = [
        _searched(surface, contestant, design, start, min(TOGETHER, replicates - start))
        for start in range(0, replicates, TOGETHER)
    ]
    return Searches(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _searched(surface: Surface, contestant: Contestant, design: Design, start: int, count: int) -> Searches:
    shared = rng_of("replicates", start)
    rng = rng_of("search", surface.name, contestant.name, design.stages[0], design.trials, start)
    d = contestant.dimensions
    common, by_seed = (spread * shared.standard_normal((count, len(SHARES)))[:, :d] for spread in SHIFTS[:2])
    own = SHIFTS[2] * rng.standard_normal((count, d))
    optimum = np.clip(np.asarray(contestant.optimum[:d]) + common + own, 0.02, 0.98)[:, None]

    def run(points: Array) -> tuple[Array, Array]:
        losses = loss_of(surface, contestant, points, optimum)
        seen = losses if design.fresh_seeds else loss_of(surface, contestant, points, optimum + by_seed[:, None])
        values = seen + noise_of(rng, surface, contestant, seen)
        if design.fresh_seeds:
            values = values + surface.noise * np.sqrt(SHARED_NOISE) * rng.standard_normal(values.shape)
        if (cliff := contestant.cliff or surface.cliff) is not None:
            diverged = points[..., 0] > optimum[..., 0] + cliff
            values, losses = (np.where(diverged, surface.guess, array) for array in (values, losses))
        return values, losses

    points = hypercubes(shared, count, design.stages[0])[:, :, :d]
    values, losses = run(points)
    while (done := points.shape[1]) < design.trials:
        if design.shrink is None:
            width = box_width(done, first=design.stages[0], total=design.trials)
            more = next_points(points, values, width, rng)[:, None]
        else:
            stage = int(np.searchsorted(np.cumsum(design.stages), done, side="right"))
            more = box_points(points, values, design.shrink**stage, hypercubes(shared, count, design.stages[stage]))
        new = run(more)
        points = np.concatenate([points, more], axis=1)
        values, losses = (np.concatenate(pair, axis=1) for pair in zip((values, losses), new, strict=True))
    return Searches(values, losses)


def hypercubes(rng: np.random.Generator, count: int, trials: int) -> Array:
    """Latin hypercubes ``[count, trials, MOST_DIMENSIONS]``."""
    return np.stack([qmc.LatinHypercube(MOST_DIMENSIONS, rng=rng).random(trials) for _ in range(count)])


def box_points(points: Array, values: Array, width: float, cubes: Array) -> Array:
    """The points of ``cubes``, scaled into a box of ``width`` around the best point of each search."""
    best = _at(points, values.argmin(axis=1))
    low = np.clip(best - width / 2, 0, 1 - width)[:, None]
    return np.asarray(low + width * cubes[:, :, : points.shape[2]])


def loss_of(surface: Surface, contestant: Contestant, points: Array, optimum: Array) -> Array:
    """Losses above the optimum, ``[replicates, n]``."""
    scales = contestant.narrow * np.sqrt(surface.curvature * np.asarray(SHARES[: contestant.dimensions]))
    away = (points - optimum) * scales
    form = (away**2).sum(axis=-1)
    if contestant.dimensions > 1:
        form = form + 2 * INTERACTION * away[..., 0] * away[..., 1]
    return np.asarray(form / (1 + form / surface.height))


def noise_of(rng: np.random.Generator, surface: Surface, contestant: Contestant, losses: Array) -> Array:
    """The part of the noise that is not shared with other optimizers; its mean is 0."""
    draws = rng.standard_normal(losses.shape)
    if contestant.tail:
        heavy = (rng.random(losses.shape) < HEAVY_SHARE) * rng.standard_exponential(losses.shape)
        draws = draws + contestant.tail * (heavy - HEAVY_SHARE)
    return np.asarray((surface.noise * np.sqrt(1 - SHARED_NOISE) + surface.noise_growth * losses) * draws)


def _at(array: Array, index: NDArray[np.intp]) -> Array:
    return np.asarray(array[np.arange(len(array)), index])


class Studies(NamedTuple):
    """Many studies of a first contestant against a rival, in standard deviations of a run of the surface."""

    differences: Array
    """[studies, replicates]: first - rival, on confirm seeds"""
    unsettled: Array
    """[studies]: the difference between the two contestants' mean gains over the last trials"""
    tuned: float
    """the estimand: the true mean difference between the winners of searches of this length"""


def studied(
    surface: Surface,
    design: Design,
    first: tuple[Contestant, Searches],
    rival: tuple[Contestant, Searches],
    *,
    studies: int,
    rival_better_by: float = 0.0,
    last: int | None = None,
) -> Studies:
    """Studies whose replicates are drawn from the searches, each with its own confirm seeds and random effect.
    ``rival_better_by`` is the rival's advantage at the optima; ``last`` is the number of trials whose gains are
    compared, by default those of the last stage.
    """
    rng = rng_of("studies", surface.name, rival[0].name, *design.stages, design.replicates, design.confirm)
    drawn = rng.integers(len(first[1].values), size=(studies, design.replicates))
    last = last or (design.stages[-1] if len(design.stages) > 1 else 0)
    means, tuned, gains = [], [], []
    for contestant, searches in (first, rival):
        regrets = searches.regrets(design.trials)
        runs = np.repeat(regrets[drawn][..., None], design.confirm, axis=-1)
        means.append((runs + noise_of(rng, surface, contestant, runs)).mean(axis=-1))
        tuned.append(float(regrets.mean()))
        gains.append(searches.gains(last)[drawn].mean(axis=1) if last else np.zeros(studies))
    effect = RANDOM_EFFECT * rng.standard_normal(drawn.shape)
    return Studies(
        (means[0] - means[1]) / surface.noise + effect + rival_better_by,
        np.abs(gains[0] - gains[1]) / surface.noise,
        (tuned[0] - tuned[1]) / surface.noise + rival_better_by,
    )


def verdicts(studies: Studies, margin: float, *, withhold: bool) -> NDArray[np.str_]:
    """``first``, ``rival``, ``tie``, ``undecided`` or ``withheld`` for each study, by the rules of statistics.verdict;
    lower is better.
    """
    wide, narrow, _ = t_intervals(studies.differences)
    mean = studies.differences.mean(axis=1)
    tie = (narrow[:, 0] >= -margin) & (narrow[:, 1] <= margin)
    winner = ~tie & ((wide[:, 0] > 0) | (wide[:, 1] < 0))
    named = np.where(tie, "tie", np.where(winner, np.where(mean < 0, "first", "rival"), "undecided"))
    if not withhold:
        return named
    unsettled = np.where(tie, studies.unsettled > margin, winner & (np.abs(mean) < studies.unsettled))
    return np.where(unsettled, "withheld", named)


def coverage(differences: Array, truth: float) -> float:
    """Share of the studies ``[studies, n]`` whose 95 % interval contains ``truth``."""
    wide = t_intervals(differences)[0]
    return float(np.mean((wide[:, 0] <= truth) & (truth <= wide[:, 1])))


def half_width(differences: Array) -> float:
    """Half-width of the 95 % interval, averaged over studies."""
    wide = t_intervals(differences)[0]
    return float((wide[:, 1] - wide[:, 0]).mean() / 2)


def share(verdicts: NDArray[np.str_], *names: str) -> float:
    """Share of the studies with one of these verdicts."""
    return float(np.isin(verdicts, names).mean())
