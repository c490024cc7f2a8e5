"""A study names its runs exactly as Hydra's launchers will, but quickly."""

from typing import Any

import pytest

from experiments.harness.run import locate, opened
from experiments.study import naming
from experiments.study.naming import Naming
from tests.conftest import MakeConfig
from tests.study.conftest import make_study

SEARCHED = ["study.numbers=0-1", "study.stages=[2,1]", "study.confirm=2", "study.lengths=[1.5]"]
DRAWN = "+study.nuisance={model: {choices: [convnet_small, convnet_tiny]}}"


def test_fast_naming_matches_composing_each_run_alone(make_config: MakeConfig) -> None:
    study = make_study(make_config, *SEARCHED, DRAWN, "train.micro_batch_size=8")
    runs = [run for course in study.courses for run in [*course.search(), *confirmed(course)]]
    assert {run.phase for run in runs} == {"search", "confirm", "length"}
    assert len({run.directory for run in runs}) == len(runs)
    names = Naming(lambda more: make_config(*more))
    for run in runs:
        cfg = make_config(*run.overrides)
        found = locate(cfg)
        assert run.directory == found.directory
        assert names.locate(run.overrides) == (found.plain, found.data.fingerprint, found.directory)


def confirmed(course: Any) -> list[Any]:
    """The course's confirm runs, with an arbitrary winner in place of the trials' best."""
    course.winner = lambda name, metric="validation": course.trials[name][-1]
    runs: list[Any] = course.confirm()
    return runs


def test_runs_that_differ_only_in_values_are_composed_once(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed: list[list[str]] = []
    configs: list[dict[str, Any]] = []

    def compose(overrides: list[str]) -> Any:
        composed.append(overrides)
        return make_config(*overrides)

    def opened_once(plain: dict[str, Any]) -> Any:
        configs.append(plain)
        return opened(plain)

    monkeypatch.setattr(naming, "opened", opened_once)
    names = Naming(compose)
    for seed in range(20):
        for betas in ("[0.9,0.99]", "[0.5,0.9]"):
            plain, _, _ = names.locate(["optimizer=lion", f"optimizer.betas={betas}", "test=false", f"seed={seed}"])
            assert (plain["seed"], str(plain["optimizer"]["betas"]).replace(" ", "")) == (seed, betas)
    assert (len(composed), len(configs)) == (1, 1)


def test_group_and_merged_overrides_are_composed_by_hydra(make_config: MakeConfig) -> None:
    names = Naming(lambda more: make_config(*more))
    for overrides in (
        ["+optimizer.space={one: 1}"],
        ["+optimizer.space={two: 2}"],
        ["model=convnet"],
        ["model=convnet_small"],
        ["+optimizer.amsgrad=true", "optimizer.amsgrad=false"],
        ["optimizer.lr=1", "~optimizer.space"],
    ):
        assert names.resolved(overrides) == locate(make_config(*overrides)).plain
