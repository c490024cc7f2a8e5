"""How the suite's own statistics behave on studies whose truth is known, because we made them up.

The unit is the standard deviation of the paired difference of one seed, so a margin or an effect of 1 is as large as
what a seed adds. What a seed does to both optimizers alike cancels in a pair, and is left out.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.harness.seeds import derive_seed
from experiments.study.plan import Settings, best
from experiments.study.statistics import (
    ALPHA,
    Better,
    Difference,
    Speedup,
    holm,
    paired_difference,
    speedup,
    t_intervals,
    verdict,
)

NOISES = ("normal", "heavy-tailed", "skewed")
"""normal; Student's t with 3 degrees of freedom, which has no fourth moment; exponential, of skewness 2"""


def rng_of(*name: int | str) -> np.random.Generator:
    """The random stream of one cell of a table: no cell depends on which others are simulated."""
    return np.random.default_rng(derive_seed("simulation", *name))


def noise(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Float64 noise of mean 0 and standard deviation 1; ``kind`` is one of NOISES."""
    if kind == "heavy-tailed":
        return rng.standard_t(3, shape) / np.sqrt(3)
    if kind == "skewed":
        return rng.standard_exponential(shape) - 1
    assert kind == "normal", f"{kind} is none of {', '.join(NOISES)}"
    return rng.standard_normal(shape)


def coverage(differences: np.ndarray, truth: np.ndarray | float) -> tuple[float, float]:
    """Shares of the studies ``[studies, n]`` whose 90 % and 95 % intervals hold the true mean difference, which is one
    for all or ``[studies]``.
    """
    ci95, ci90, _ = t_intervals(differences)
    holds = [float(np.mean((ci[:, 0] <= truth) & (truth <= ci[:, 1]))) for ci in (ci90, ci95)]
    return holds[0], holds[1]


def verdicts(differences: np.ndarray, margin: float, alpha: float = ALPHA) -> list[str | None]:
    """The verdict of each study ``[studies, n]`` of optimizers a and b, of which higher is better."""
    wide, narrow, p = (array.tolist() for array in t_intervals(differences, alpha))
    means, n = differences.mean(axis=1).tolist(), differences.shape[1]
    return [
        _verdict(Difference(mean, w, t, p_value, n, None, None, None, ci_winner=w, ci_tie=t), margin, "higher")
        for mean, w, t, p_value in zip(means, map(tuple, wide), map(tuple, narrow), p, strict=True)
    ]


def winners_after_looks(differences: np.ndarray, looks: Sequence[int], alpha: float) -> float:
    """Share of the studies ``[studies, n]`` that name a winner at any look at their first pairs, by a margin of 0."""
    named = [[outcome in ("a", "b") for outcome in verdicts(differences[:, :n], 0.0, alpha)] for n in looks]
    return float(np.any(named, axis=0).mean())


def _verdict(difference: Difference, margin: float, better: Better) -> str | None:
    nothing = {"a": 0, "b": 0}
    return verdict(difference, a="a", b="b", better=better, margin=margin, diverged=nothing, seeds=difference.n)


def shares(outcomes: Sequence[str | None]) -> dict[str, float]:
    """Share of ``tie``, ``winner`` (either), ``a``, ``b`` and ``undecided`` among verdicts."""
    counts = Counter(outcomes)
    share = {name: counts[name] / len(outcomes) for name in ("tie", "a", "b", "undecided")}
    return share | {"winner": share["a"] + share["b"]}


def is_false(outcome: str | None, truth: float, margin: float) -> bool:
    """Whether a verdict on a and b is wrong where a - b is truly ``truth``; ``undecided`` never is."""
    if outcome == "tie":
        return abs(truth) > margin
    return (outcome == "a" and truth <= 0) or (outcome == "b" and truth >= 0)


@dataclass(frozen=True)
class TunedStudies:
    """Many studies of two optimizers that are equal setting by setting, each tuned and then confirmed on fresh seeds.

    All in standard deviations of a paired difference; arrays ``[studies]``, ``differences`` ``[studies, n]``.
    """

    optimism: np.ndarray
    """of a: the tuning score of the setting chosen, minus that setting's true value"""
    tuning_difference: np.ndarray
    """a - b as the tuning scores of the chosen settings have it"""
    true_difference: np.ndarray
    """a - b of the chosen settings, truly"""
    differences: np.ndarray
    """a - b of every confirm seed"""


def tuned_studies(
    rng: np.random.Generator, trials: Mapping[str, int], tuning_seeds: int, spread: float, n: int, studies: int
) -> TunedStudies:
    """Optimizers a and b choose the best of ``trials`` settings by their means over ``tuning_seeds``, and are confirmed
    on ``n`` other seeds.

    A setting's true value is normal with standard deviation ``spread``; a setting of one rank is worth the same for
    both. A run adds noise of variance 1/2, so that a difference of two runs has variance 1.
    """
    longest = max(trials.values())
    grid = [Settings(float(rank), None) for rank in range(longest)]
    worth = spread * rng.standard_normal((studies, longest))
    every = np.arange(studies)
    score, truth = {}, {}
    for name, count in trials.items():
        scores = worth[:, :count] + np.sqrt(0.5 / tuning_seeds) * rng.standard_normal((studies, count))
        chosen = [best(dict(zip(grid, row, strict=False)), "higher") for row in scores.tolist()]
        ranks = np.array([int(point.lr) for point in chosen if point])
        score[name], truth[name] = scores[every, ranks], worth[every, ranks]
    true_difference = truth["a"] - truth["b"]
    return TunedStudies(
        optimism=score["a"] - truth["a"],
        tuning_difference=score["a"] - score["b"],
        true_difference=true_difference,
        differences=true_difference[:, None] + rng.standard_normal((studies, n)),
    )


def identical_speedups(
    rng: np.random.Generator, run_std: float, evaluations: int, n: int, studies: int
) -> list[Speedup]:
    """Speed-ups of an optimizer over itself on other seeds, ``n`` pairs a study.

    Curves rise from 0 to about 60 points as ``1 - exp(-4 t)``, t from 0 to 1, and are read ``evaluations`` times. A run
    lies above or below by ``run_std`` points as a whole, and by half of that anew at each evaluation.
    """
    steps = np.arange(1, evaluations + 1)
    ideal = 60 * (1 - np.exp(-4 * steps / evaluations))
    made = []
    for _ in range(studies):
        of_run = rng.standard_normal((2, n, 1))
        values = ideal + run_std * (of_run + 0.5 * rng.standard_normal((2, n, evaluations)))
        curves = [[list(zip(steps.tolist(), run, strict=True)) for run in side] for side in values.tolist()]
        made.append(speedup(curves[0], curves[1], better="higher"))
    return made


def family_wise_error(
    rng: np.random.Generator, tasks: int, real_effects: int, n: int, studies: int
) -> tuple[float, float]:
    """Share of families of ``tasks`` studies in which a p up to ALPHA is false: by each study's own p, and by Holm's.

    The first ``real_effects`` tasks differ by 2 standard deviations, the others not at all.
    """
    effects = np.where(np.arange(tasks) < real_effects, 2.0, 0.0)
    differences = effects[:, None] + rng.standard_normal((studies, tasks, n))
    p_values = t_intervals(differences)[2]
    names = [f"task {number}" for number in range(tasks)]
    adjusted = np.array([list(holm(dict(zip(names, row, strict=True))).values()) for row in p_values.tolist()])
    own, holms = ((p[:, real_effects:] <= ALPHA).any(axis=1).mean() for p in (p_values, adjusted))
    return float(own), float(holms)


def split_seeds_verdicts(values: Sequence[float], margin: float, better: Better) -> list[str | None]:
    """The verdicts of one optimizer against itself over all ways to deal its runs' ``values`` out to two equal sides.

    The splits share runs, so that their verdicts are no independent trials. An odd run is left out.
    """
    even = values[: len(values) // 2 * 2]
    outcomes = []
    for side in itertools.combinations(range(len(even)), len(even) // 2):
        other = [even[i] for i in range(len(even)) if i not in side]
        outcomes.append(_verdict(paired_difference([even[i] for i in side], other), margin, better))
    return outcomes
