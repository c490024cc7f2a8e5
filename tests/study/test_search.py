"""Search spaces in transferable units, and the points of a narrowing search: its Gaussian process is compared with an
independent exact kriging and on known surfaces.
"""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from experiments.harness.composition import composed
from experiments.harness.config import ScheduleConfig, resolved
from experiments.harness.errors import ConfigError
from experiments.harness.schedule import lr_factor
from experiments.harness.source_code import ROOT
from experiments.study import surrogate
from experiments.study.course import draw
from experiments.study.search import first_points, space_of
from experiments.study.surrogate import LAST_WIDTH, box_width, next_points, next_trial

OPTIMIZERS = sorted(path.stem for path in (ROOT / "conf/optimizer").glob("*.yaml"))
ADAMW = {
    "name": "adamw",
    "space": {
        "version": 1,
        "source": "a test",
        "arguments": {
            "lr": {"kind": "rate", "low": 1e-4, "high": 1e-1},
            "betas": {"kind": "memory", "number": 2},
            "weight_decay": {"kind": "decay", "low": 0.01, "high": 10.0, "zero": 0.2},
            "eps": {"kind": "log", "low": 1e-12, "high": 1e-4},
        },
    },
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_a_sourced_space_over_2_5_decades_of_learning_rate(name: str) -> None:
    config = resolved(composed("image_classification", [f"optimizer={name}"]))["optimizer"]
    space = space_of(config)
    rate = next(dimension for dimension in space.dimensions if dimension.kind == "rate")
    assert rate.high / rate.low >= 10**2.5
    assert len(space.source) > 20
    point = space.arguments([0.5] * len(space.dimensions), steps=500, factor_sum=250.0)
    assert {*point} <= {*config}


def test_the_ends_and_middle_of_a_space_match_a_hand_calculation() -> None:
    space = space_of(ADAMW)
    low = space.arguments([0.0] * 5, steps=200, factor_sum=100.0)
    assert low == {"lr": 1e-4, "betas": [0.0, 0.0], "weight_decay": 0.0, "eps": 1e-12}
    high = space.arguments([1.0] * 5, steps=200, factor_sum=100.0)
    assert high == {"lr": 0.1, "betas": [0.995, 0.995], "weight_decay": 1.0, "eps": 1e-4}
    middle = space.arguments([0.5, 0.5, 0.0, 0.2, 0.5], steps=200, factor_sum=100.0)
    assert middle["lr"] == pytest.approx(10**-2.5, rel=1e-3)
    assert middle["betas"] == [pytest.approx(1 - 1 / 200**0.5, rel=1e-4), 0.0]
    assert middle["weight_decay"] * middle["lr"] * 100 == pytest.approx(0.01, rel=1e-3)


def test_the_chosen_total_decay_is_reached_under_any_schedule() -> None:
    space = space_of(ADAMW)
    for shape, steps, warmup in (("cosine", 300, 20), ("linear", 77, 5), ("constant", 10, 0)):
        schedule = ScheduleConfig(shape=shape, warmup_steps=warmup)
        factors = [lr_factor(step, steps, schedule) for step in range(steps)]
        chosen = space.arguments([0.3, 0.5, 0.5, 1.0, 0.5], steps=steps, factor_sum=sum(factors))
        total = sum(chosen["lr"] * factor * chosen["weight_decay"] for factor in factors)
        assert total == pytest.approx(10.0, rel=1e-3)


def test_one_memory_dimension_can_set_both_betas() -> None:
    config = {"name": "x", "space": {"version": 1, "source": "s", "arguments": {
        "lr": {"kind": "rate", "low": 1e-4, "high": 1e-1}, "betas": {"kind": "memory", "copies": 2}}}}  # fmt: skip
    chosen = space_of(config).arguments([0.5, 0.5], steps=200, factor_sum=1.0)
    assert chosen["betas"] == [pytest.approx(1 - 1 / 200**0.5, rel=1e-4)] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": {"kind": "rate", "low": 1.0, "high": 0.1}}, "lr needs 0 < low < high"),
        ({"lr": {"kind": "log", "low": 0.1, "high": 1.0}}, "its space must have lr"),
        ({"eps": {"kind": "lgo", "low": 0.1, "high": 1.0}}, r"eps\.kind must be one of rate, memory, decay, log"),
        ({"eps": {"kind": "log", "lwo": 0.1, "high": 1.0}}, "eps has the unknown key lwo"),
        ({"betas": {"kind": "memory", "number": 7}}, "has 10 dimensions, but at most 8"),
    ],
)
def test_an_invalid_search_space_is_refused(change: dict[str, Any], message: str) -> None:
    arguments = {**ADAMW["space"]["arguments"], **change}  # type: ignore[index]
    with pytest.raises(ConfigError, match=message):
        space_of({"name": "x", "space": {"version": 1, "source": "s", "arguments": arguments}})


def test_first_points_are_latin_hypercubes_shared_by_optimizers_within_a_replicate() -> None:
    first = first_points(5, 12, 3)
    for column in first.T:  # a Latin hypercube: one point in each twelfth
        assert sorted((column * 12).astype(int)) == list(range(12))
    assert (first_points(4, 12, 3) == first[:, :4]).all()
    assert (first_points(5, 12, 4) != first).any()


def test_redrawn_settings_follow_their_distribution_and_yield_to_overrides() -> None:
    ranges = {
        "train.init_scale": {"low": 0.5, "high": 2.0, "log": True},
        "schedule.warmup_steps": {"low": 5, "high": 50, "integer": True},
        "schedule.shape": {"choices": ["linear", "cosine", None]},
    }
    drawn = [draw(ranges, [], number) for number in range(600)]
    assert draw(ranges, [], 7) == drawn[7]
    scales = np.log([values["train.init_scale"] for values in drawn])
    assert stats.kstest(scales, stats.uniform(np.log(0.5), np.log(4)).cdf).pvalue > 0.01
    warmups = [values["schedule.warmup_steps"] for values in drawn]
    assert (min(warmups), max(warmups)) == (5, 50)
    assert all(isinstance(steps, int) for steps in warmups)
    assert {values["schedule.shape"] for values in drawn} == {"linear", "cosine", None}
    for given, left in (
        ("schedule=cosine", {"train.init_scale"}),
        ("+train.init_scale=1", {"schedule.shape", "schedule.warmup_steps"}),
    ):
        kept = draw(ranges, [given], 7)
        assert kept == {key: drawn[7][key] for key in left}  # the remaining values do not change


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
    draws = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000, expected, np.sqrt(variance))
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
