"""Search spaces in transferable units, and the points of a narrowing search."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from experiments.harness.composition import composed
from experiments.harness.config import ScheduleConfig, resolved
from experiments.harness.errors import ConfigError
from experiments.harness.schedule import lr_factor
from experiments.harness.source_code import ROOT
from experiments.study.course import draw
from experiments.study.search import first_points, space_of

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
