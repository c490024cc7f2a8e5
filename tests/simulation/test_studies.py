"""The simulation of whole studies, compared with theory."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate, special

from experiments.simulation.rescaled import copy_differences
from experiments.simulation.studies import (
    FIRST,
    HEAVY_SHARE,
    RANDOM_EFFECT,
    RIVALS,
    SHARED_NOISE,
    SHIFTS,
    SURFACES,
    Contestant,
    Design,
    Searches,
    Studies,
    Surface,
    box_points,
    coverage,
    half_width,
    hypercubes,
    loss_of,
    noise_of,
    rng_of,
    searched,
    share,
    studied,
    verdicts,
)
from experiments.study.search import Dimension, Space
from experiments.study.statistics import paired_difference, verdict

SILENT = Surface("bowl", 1.0, 1e9, 0.0, 1e9, noise_growth=0.0)
"""no noise, and never levelling off"""


def test_the_simulated_loss_is_a_tilted_bowl_that_saturates() -> None:
    surface = replace(SURFACES[0], height=1e12)
    optimum = np.full((1, 1, 2), 0.5)
    at = np.array([[[0.5, 0.5], [0.6, 0.5], [0.5, 0.4], [0.6, 0.4]]])
    own, k = loss_of(surface, replace(FIRST, dimensions=2), at, optimum)[0], surface.curvature
    assert own[0] == 0
    assert own[1] == pytest.approx(0.01 * k)
    assert own[2] == pytest.approx(0.01 * 0.3 * k)
    assert own[3] == pytest.approx(0.01 * (k + 0.3 * k - 2 * 0.5 * math.sqrt(0.3) * k)), "a valley along the diagonal"
    narrow = loss_of(surface, Contestant("", narrow=2.0, dimensions=2), at, optimum)[0]
    np.testing.assert_allclose(narrow, 4 * own)
    far = loss_of(SURFACES[0], replace(FIRST, dimensions=2), np.full((1, 1, 2), 1e6), optimum)
    assert far[0, 0] == pytest.approx(SURFACES[0].height, rel=1e-3)


def test_the_regret_of_random_search_matches_order_statistics() -> None:
    # One dimension, n uniform points, loss k (x - c)^2: P(all farther than r) = (1 - 2r)^n while the ball lies inside.
    n, k = 12, SILENT.curvature
    centred = Contestant("", optimum=(0.5,), dimensions=1)
    one = Design(1, (1,), 1, shrink=1.0, fresh_seeds=True)
    tries = searched(SILENT, centred, one, 24_000).losses[:, 0].reshape(-1, n)
    expected = k * integrate.quad(lambda r: 2 * r * (1 - 2 * r) ** n, 0, 0.5)[0]
    assert tries.min(axis=1).mean() == pytest.approx(expected, rel=0.15)  # the optimum shifts, which adds a little


def test_simulated_noise_has_mean_0_and_the_expected_variance() -> None:
    losses = np.zeros(400_000)
    surface = SURFACES[0]
    plain = noise_of(rng_of("test"), surface, FIRST, losses)
    assert plain.std() == pytest.approx(surface.noise * math.sqrt(1 - SHARED_NOISE), rel=0.01)
    heavy = noise_of(rng_of("test"), surface, replace(FIRST, tail=1.5), losses) / surface.noise
    assert heavy.mean() == pytest.approx(0, abs=0.01)
    variance = 1 + 1.5**2 * (2 * HEAVY_SHARE - HEAVY_SHARE**2)
    assert heavy.var() == pytest.approx((1 - SHARED_NOISE) * variance, rel=0.02)


def test_latin_hypercubes_have_one_point_in_every_slice() -> None:
    cubes = hypercubes(rng_of("test"), 5, 7)
    slices = np.sort((cubes * 7).astype(int), axis=1)
    assert (slices == np.arange(7)[None, :, None]).all()


def test_search_boxes_are_centred_on_the_best_point_within_the_cube() -> None:
    points, values = np.array([[[0.05, 0.5], [0.9, 0.9]]]), np.array([[1.0, 2.0]])
    corners = np.zeros((1, 2, 8))
    corners[0, 1] = 1
    box = box_points(points, values, 0.4, corners)[0]
    np.testing.assert_allclose(box, [[0.0, 0.3], [0.4, 0.7]])


def test_simulated_optimizers_share_first_points_and_shifts() -> None:
    silent = replace(SURFACES[1], noise=0.0, noise_growth=0.0)
    design = Design(1, (6,), 1, shrink=1.0, fresh_seeds=True)
    still = SHIFTS[2]
    a, b = (searched(silent, Contestant(name), design, 2000).losses for name in ("a", "b"))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9, f"they differ in a shift of {still} of the cube alone"


def test_regrets_and_gains_match_a_hand_calculation() -> None:
    searches = Searches(np.array([[3.0, 1.0, 2.0, 0.5]]), np.array([[9.0, 7.0, 8.0, 6.0]]))
    assert searches.regrets(3).tolist() == [7.0]
    assert searches.regrets(4).tolist() == [6.0]
    assert searches.gains(2).tolist() == [0.5]
    assert searches.gains(3).tolist() == [2.5]


def perfect(replicates: int) -> Searches:
    return Searches(np.zeros((replicates, 4)), np.zeros((replicates, 4)))


@pytest.mark.parametrize("n", [4, 11])
def test_studies_with_perfect_searches_match_the_t_distribution(n: int) -> None:
    design, surface = Design(n, (2, 2), 2), SURFACES[1]
    studies = studied(surface, design, (FIRST, perfect(8)), (RIVALS[0], perfect(8)), studies=6000)
    assert studies.tuned == 0
    assert coverage(studies.differences, 0.0) == pytest.approx(0.95, abs=0.012)  # 4 binomial standard errors
    deviation = math.sqrt(2 * (1 - SHARED_NOISE) / design.confirm + RANDOM_EFFECT**2)
    assert studies.differences.std() == pytest.approx(deviation, rel=0.02)
    mean_of_s = deviation * math.sqrt(2 / (n - 1)) * math.exp(special.gammaln(n / 2) - special.gammaln((n - 1) / 2))
    assert half_width(studies.differences) == pytest.approx(
        special.stdtrit(n - 1, 0.975) * mean_of_s / n**0.5, rel=0.02
    )
    assert share(verdicts(studies, 0.0, withhold=True), "first", "rival") == pytest.approx(0.05, abs=0.012)
    better = studied(
        surface, design, (FIRST, perfect(8)), (RIVALS[0], perfect(8)), studies=6000, rival_better_by=2 * deviation
    )
    assert better.tuned == 2 * deviation
    assert share(verdicts(better, 0.0, withhold=True), "rival") > 0.5
    assert share(verdicts(better, 0.0, withhold=True), "first") < 0.01


def test_vectorized_verdicts_match_those_of_single_studies() -> None:
    rng = rng_of("test")
    differences = rng.standard_normal((300, 6)) + rng.choice([-3.0, -1.0, 0.0, 1.0, 3.0], size=(300, 1))
    many = Studies(differences, rng.uniform(0, 3, 300), 0.0)
    for withhold in (False, True):
        found = verdicts(many, 1.5, withhold=withhold)
        for row, unsettled, outcome in zip(differences.tolist(), many.unsettled.tolist(), found.tolist(), strict=True):
            alone = paired_difference(row, [0.0] * 6)
            expected = verdict(
                alone, a="first", b="rival", better="lower", margin=1.5, unsettled=unsettled if withhold else None
            )
            assert outcome == expected
        kinds = {"tie", "first", "rival", "undecided"} | ({"withheld"} if withhold else set())
        assert set(found.tolist()) == kinds, "these studies must show every verdict, or the comparison shows nothing"


def test_a_long_search_without_noise_ends_at_the_optimum() -> None:
    silent = replace(SURFACES[0], noise=0.0, noise_growth=0.0)
    long = Design(1, (300,) * 14, 1, shrink=0.65, fresh_seeds=True)
    assert searched(silent, RIVALS[-1], long, 4).regrets(long.trials).max() < 0.01 * SURFACES[0].noise


def test_an_optimizer_matches_its_simulated_copy_in_other_units() -> None:
    dimensions = (
        Dimension("lr", "rate", 1e-4, 1e-1),
        *[Dimension("betas", "memory", 2.0, math.inf)] * 2,
        Dimension("weight_decay", "decay", 0.01, 10.0),
    )
    space = Space(1, "", dimensions, {"betas": 2})
    design = Design(2, (4, 6), 2)
    assert max(map(abs, copy_differences(space, 1000.0, 2, design))) < 1e-9
    assert 0 < max(map(abs, copy_differences(space, 7.0, 2, design))) < 0.01, "of the rounding of settings"
