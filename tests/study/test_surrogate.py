"""The Gaussian-process search, compared with an independent exact kriging and on known surfaces."""

import numpy as np
import pytest
from scipy.stats import norm

from experiments.study import surrogate
from experiments.study.surrogate import LAST_WIDTH, box_width, next_points, next_trial


def bowl(points: np.ndarray) -> np.ndarray:
    return np.asarray(((points - 0.3) ** 2).sum(axis=-1))


def test_the_next_trial_is_a_function_of_trials_and_seed() -> None:
    units = np.random.default_rng(0).random((10, 3))
    given = [next_trial(units.tolist(), bowl(units).tolist(), first=8, total=30, seed=seed) for seed in (1, 1, 2)]
    assert given[0].tolist() == given[1].tolist() != given[2].tolist()
    assert given[0].shape == (3,)
    assert ((given[0] >= 0) & (given[0] <= 1)).all()


def test_batched_predictions_match_those_of_single_searches() -> None:
    rng = np.random.default_rng(0)
    units, values = rng.random((3, 12, 2)), rng.random((3, 12))
    lengths, noise = np.log(rng.uniform(0.2, 1, (3, 4, 2))), np.log(rng.uniform(0.01, 0.1, (3, 4)))
    together = surrogate.fitted(units, values, lengths, noise)
    points = rng.random((3, 5, 2))
    for i in range(3):
        alone = surrogate.fitted(units[i : i + 1], values[i : i + 1], lengths[i : i + 1], noise[i : i + 1])
        for many, one in zip(
            surrogate.predict(units, together, points),
            surrogate.predict(units[i : i + 1], alone, points[i : i + 1]),
            strict=True,
        ):
            np.testing.assert_allclose(many[i], one[0], rtol=1e-9)


def test_predictions_and_expected_improvement_match_hand_written_kriging() -> None:
    rng = np.random.default_rng(1)
    units, values, point = rng.random((6, 2)), rng.standard_normal(6), rng.random(2)
    lengths, noise = np.array([0.4, 0.9]), 0.05

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        r = float(np.sqrt((((a - b) / lengths) ** 2).sum()))
        return float((1 + 5**0.5 * r + 5 * r**2 / 3) * np.exp(-(5**0.5) * r))

    matrix = np.array([[kernel(a, b) for b in units] for a in units]) + (noise + 1e-6) * np.eye(6)
    ones, cross = np.ones(6), np.array([kernel(point, a) for a in units])
    mean = ones @ np.linalg.solve(matrix, values) / (ones @ np.linalg.solve(matrix, ones))
    expected = mean + cross @ np.linalg.solve(matrix, values - mean)
    scale = ((values - mean) @ np.linalg.solve(matrix, values - mean) + 0.3) / 6.3
    variance = scale * (1 - cross @ np.linalg.solve(matrix, cross))

    fit = surrogate.fitted(units[None], values[None], np.log(lengths)[None, None], np.log([[noise]]))
    found_mean, found_variance = surrogate.predict(units[None], fit, point[None, None])
    assert found_mean[0, 0, 0] == pytest.approx(expected, rel=1e-6)
    assert found_variance[0, 0, 0] == pytest.approx(variance, rel=1e-6)
    # Expected improvement over the best so far, by integrating over the posterior at that point.
    best = values.min()
    draws = norm.ppf((np.arange(100_000) + 0.5) / 100_000, expected, np.sqrt(variance))
    share = np.ones((1, 1))
    improvement = surrogate.expected_improvement(units[None], fit, share, np.array([[best]]), point[None, None])
    assert improvement[0, 0] == pytest.approx(np.maximum(best - draws, 0).mean(), rel=1e-3)


def test_the_search_box_narrows_geometrically_from_the_whole_cube() -> None:
    widths = [box_width(done, first=8, total=30) for done in range(8, 30)]
    assert widths[0] == 1
    assert widths[-1] == pytest.approx(LAST_WIDTH)
    assert np.ptp(np.diff(np.log(widths))) < 1e-12
    assert box_width(1, first=1, total=2) == 1, "a search with one trial to choose has the whole cube"


@pytest.mark.parametrize("last", [0.0, 1e9])
def test_proposed_points_stay_in_the_cube_for_extreme_values(last: float) -> None:
    units = np.random.default_rng(0).random((4, 9, 3))
    values = np.zeros((4, 9))
    values[:, -1] = last  # all equal, or one that diverged
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        points = next_points(units, values, 0.5, np.random.default_rng(0))
    assert ((points >= 0) & (points <= 1)).all()


def test_the_search_beats_random_search_on_a_bowl() -> None:
    rng = np.random.default_rng(0)
    units = rng.random((12, 8, 3))
    while units.shape[1] < 20:
        width = box_width(units.shape[1], first=8, total=20)
        units = np.concatenate([units, next_points(units, bowl(units), width, rng)[:, None]], axis=1)
    by_chance = bowl(rng.random((4000, 20, 3))).min(axis=1).mean()
    assert bowl(units).min(axis=1).mean() < by_chance / 10


def test_the_size_of_a_blown_up_loss_does_not_change_the_next_trial() -> None:
    rng = np.random.default_rng(5)
    units = rng.random((12, 3))
    values = ((units - 0.4) ** 2).sum(axis=1)
    points = []
    for blown_up in (1e3, 1e9, 1e30):
        values[4] = blown_up
        points.append(next_trial(units.tolist(), values.tolist(), first=8, total=42, seed=1))
    np.testing.assert_array_equal(points[0], points[1])
    np.testing.assert_array_equal(points[0], points[2])
