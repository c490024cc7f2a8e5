"""The interval over replicates and test examples."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import stdtrit

from experiments.study.by_example import crossed_interval, interval_by_example
from experiments.study.replicates import Replicate, read_replicates
from experiments.study.statistics import t_intervals
from tests.synthetic_study import write_study


def drawn(rng: np.random.Generator, sizes: tuple[int, int], spreads: Sequence[float]) -> np.ndarray:
    """Differences around 0 with the standard deviations of replicates, of examples, and of the rest."""
    of_replicates, of_examples = rng.normal(size=(sizes[0], 1)), rng.normal(size=(1, sizes[1]))
    return spreads[0] * of_replicates + spreads[1] * of_examples + spreads[2] * rng.normal(size=sizes)


@pytest.mark.parametrize(
    "spreads", [(0.1, 0.0, 1.0), (0.1, 1.0, 1.0), (0.0, 2.0, 0.5)], ids=["replicates", "both", "examples"]
)
def test_the_crossed_interval_has_nominal_coverage(spreads: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    intervals = np.array([crossed_interval(drawn(rng, (11, 200), spreads)) for _ in range(2000)])
    covered = ((intervals[:, 0] <= 0) & (intervals[:, 1] >= 0)).mean()
    assert 0.935 <= covered <= 0.985  # of 0.95; 3 standard errors are 0.015, and it may be cautious


def test_an_interval_over_replicates_alone_undercovers_random_examples() -> None:
    rng = np.random.default_rng(1)
    means = np.array([drawn(rng, (11, 200), (0.05, 1.0, 1.0)).mean(1) for _ in range(2000)])
    intervals = t_intervals(means)[0]
    assert ((intervals[:, 0] <= 0) & (intervals[:, 1] >= 0)).mean() < 0.6


def test_the_crossed_interval_equals_the_t_interval_without_example_effects() -> None:
    of_replicates = np.random.default_rng(2).normal(size=7)
    found = crossed_interval(of_replicates[:, None] + np.zeros(30))
    np.testing.assert_allclose(found, t_intervals(of_replicates)[0])
    assert crossed_interval(np.full((3, 5), 0.25)) == (0.25, 0.25)


def test_the_crossed_interval_matches_a_hand_calculation() -> None:
    # Mean 3; rows 1, 5; columns 2, 4; the rest 0: mean squares 2 * 8 / 1 and 2 * 2 / 1. The variance of the mean is
    # (16 + 4) / 4 = 5, with 20^2 / (16^2 + 4^2) = 1.4706 degrees of freedom: t(0.975) is 6.3139 to three places there.
    low, high = crossed_interval(np.array([[0.0, 2.0], [4.0, 6.0]]))
    assert (low + high) / 2 == pytest.approx(3)
    assert (high - low) / 2 == pytest.approx(float(stdtrit(400 / 272, 0.975)) * 5**0.5)


def with_losses(replicate: Replicate, rng: np.random.Generator, examples: int) -> Replicate:
    def of(optimizer: str) -> tuple[float, ...]:
        return tuple((rng.normal(1.0, 0.3, examples) - 0.5 * (optimizer == "lion")).tolist())

    runs = [
        replace(run, example_metric="test/loss", example_losses=of(run.optimizer)) if run.phase == "confirm" else run
        for run in replicate.runs
    ]
    return replace(replicate, runs=tuple(runs))


def test_the_crossed_interval_uses_only_replicates_with_example_losses(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    first, *others = read_replicates(write_study(tmp_path))
    replicates = [first, *(with_losses(each, rng, 50) for each in others)]
    found = interval_by_example(replicates, "lion", "adamw", "test/loss")
    assert found is not None
    assert (found.replicates, found.examples) == (5, 50)
    assert -0.6 < found.ci95[0] < found.ci95[1] < -0.4
    assert interval_by_example(replicates, "lion", "adamw", "test/top1") is None
    assert interval_by_example(replicates[:2], "lion", "adamw", "test/loss") is None
    other_size = [*replicates, with_losses(first, rng, 51)]
    assert interval_by_example(other_size, "lion", "adamw", "test/loss") is None
