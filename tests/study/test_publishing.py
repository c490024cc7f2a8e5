"""Published studies stay intact: their names, conflicts with other studies, and kills at any moment."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from experiments.harness.errors import ConfigError
from experiments.harness.record import set_aside
from experiments.study import publish
from experiments.study.publish import published_summary, publishing
from experiments.study.replicates import read_replicates
from experiments.study.sweep import Study
from tests.conftest import MakeConfig
from tests.study.conftest import execute_all, make_study
from tests.study.test_study import run_study

FIXED = "study=fixed"
FILE_OPERATIONS = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree", "shutil.copyfile")
"""Audit events of what publishing does to the file system."""


@pytest.fixture
def finished(make_config: MakeConfig, runs_dir: str) -> Study:
    """A study of one replicate without a search whose runs are complete but not yet published."""
    study = make_study(make_config, FIXED, runs_dir)
    execute_all(study, make_config)
    return study


def test_the_study_name_contains_every_override_that_changes_the_study(make_config: MakeConfig) -> None:
    def name(*overrides: str, optimizers: tuple[str, ...] = ("lion", "adamw")) -> str:
        return make_study(make_config, *overrides, optimizers=optimizers).name

    assert name() == name("scale=smoke", "run.fresh=true", "train.batch_size=32") == "smoke"
    assert name("train.batch_size=64", "model=convnet_tiny") == "smoke-train.batch_size=64"  # smoke's own value
    assert name("study.margin=2") == "smoke-study.margin=2"
    assert name("study.numbers=2-5") == "smoke"
    assert name("study.stages=[4,5]") == "smoke-study.stages=4,5"
    assert name(optimizers=("nadam", "adamw")) == "smoke-optimizer=nadam,adamw"
    assert name(optimizers=("adamw", "lion")) == "smoke"
    assert name("data.name='a b{c'") == "smoke-data.name=a_b_c"
    assert len(name(f"data.name={'x' * 200}")) < 20


def test_equal_values_give_the_same_study_name(make_config: MakeConfig) -> None:
    names = {make_study(make_config, f"label_smoothing={zero}").name for zero in ("0", "0.0", "0e0")}
    assert len(names) == 1


def test_republishing_a_study_replaces_it(finished: Study) -> None:
    for text in ("first", "second"):
        with publishing(finished, "command") as directory:
            (directory / "README.md").write_text(text)
    assert (finished.results / "README.md").read_text() == "second"
    assert sorted(path.name for path in finished.results.parent.iterdir()) == ["smoke-study=fixed"]


def test_a_published_summary_is_reused_while_the_study_is_unchanged(finished: Study, make_config: MakeConfig) -> None:
    with publishing(finished, "command") as directory:
        (directory / "summary.json").write_text('{"schema": 3, "verdict": "tie"}')
    assert published_summary(finished) is None  # it has run something
    again = make_study(make_config, FIXED, "study.numbers=0")
    assert not again.courses
    assert published_summary(again) == {"schema": 3, "verdict": "tie"}
    assert published_summary(make_study(make_config, FIXED, "study.margin_reason=taste")) is None
    for damaged in ("", "[]", '{"schema": 2}'):
        (finished.results / "summary.json").write_text(damaged)
        assert published_summary(again) is None


def test_a_config_key_added_later_keeps_the_study_name(finished: Study, make_config: MakeConfig) -> None:
    with publishing(finished, "command"):
        pass
    described = json.loads((finished.results / "study.json").read_text())
    del described["identity"]["config"]["train"]["log_every"]  # a key added later
    (finished.results / "study.json").write_text(json.dumps(described))
    assert make_study(make_config, FIXED).results == finished.results


@pytest.mark.parametrize(
    ("key", "value", "difference"),
    [
        ("config.train.steps", 9, "config.train.steps: published 9, here 8"),
        ("study.confirm", 7, "study.confirm: published 7, here 1"),
        ("contestants", {"sgd": {}, "adamw": {}}, "contestants: published sgd,adamw, here lion,adamw"),
        ("contestants.lion.betas", [0.5, 0.5], r"contestants.lion.betas: published \[0.5, 0.5\]"),
    ],
)
def test_a_different_study_of_the_same_name_is_refused_and_kept(
    finished: Study, make_config: MakeConfig, key: str, value: Any, difference: str
) -> None:
    with publishing(finished, "command"):
        pass
    path = finished.results / "study.json"
    described = OmegaConf.create(path.read_text())
    OmegaConf.update(described, f"identity.{key}", value, merge=False)
    before = json.dumps(OmegaConf.to_container(described))
    path.write_text(before)
    with pytest.raises(ConfigError, match=rf"{finished.results} holds another study, which differs in {difference}"):
        make_study(make_config, FIXED)
    with pytest.raises(ConfigError), publishing(finished, "command"):
        pass
    assert path.read_text() == before


def test_publishing_does_not_touch_a_folder_that_holds_no_study(finished: Study) -> None:
    finished.results.mkdir(parents=True)
    (finished.results / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="something other than a study"), publishing(finished, "command"):
        pass
    assert (finished.results / "notes.txt").read_text() == "mine"


def test_a_failure_while_writing_pages_keeps_the_old_study(finished: Study) -> None:
    with publishing(finished, "first"):
        pass
    with pytest.raises(ZeroDivisionError), publishing(finished, "second"):
        1 / 0  # noqa: B018  # the fault
    assert json.loads((finished.results / "study.json").read_text())["command"] == "first"
    assert len(list(finished.results.parent.iterdir())) == 1


def test_a_new_replicate_is_added_to_the_published_ones(make_config: MakeConfig, runs_dir: str) -> None:
    for number in (3, 1):
        study = make_study(make_config, FIXED, runs_dir, f"study.numbers={number}")
        execute_all(study, make_config)
        with publishing(study, "command"):
            pass
    published = read_replicates(study.results)
    assert [replicate.number for replicate in published] == [1, 3]
    assert [run.seed for replicate in published for run in replicate.runs] == [1000, 1000, 3000, 3000]
    asked = make_study(make_config, FIXED, runs_dir, "study.numbers=0-3")
    assert [course.number for course in asked.courses] == [0, 2]
    # Two of the three declared replicates may be published together with one more.
    assert [course.number for course in make_study(make_config, FIXED, runs_dir).courses] == [0]
    asked = make_study(make_config, FIXED, runs_dir, "study.replicates=4")
    assert asked.results != study.results


def test_a_reproduction_follows_those_that_others_have_published(
    make_config: MakeConfig, runs_dir: str, tmp_path: Path
) -> None:
    def numbers(*overrides: str) -> list[int]:
        return [course.number for course in make_study(make_config, FIXED, *overrides).courses]

    study = make_study(make_config, FIXED, runs_dir, "study.numbers=0-1")
    execute_all(study, make_config)
    with publishing(study, "command"):
        pass
    assert numbers(runs_dir) == [3], "three are declared, so the next one is a reproduction"
    reproduction = make_study(make_config, FIXED, runs_dir)
    execute_all(reproduction, make_config)
    with publishing(reproduction, "command"):
        pass
    assert numbers(runs_dir) == [], "the same command again has nothing to do"
    assert numbers(f"run.runs_dir={tmp_path}/elsewhere") == [4]
    # A command with run.fresh was killed.
    anew = shutil.copytree(runs_dir.partition("=")[2], tmp_path / "anew")
    for run in read_replicates(study.results)[-1].runs:
        set_aside(anew / "image_classification" / run.run_id)
    assert numbers(f"run.runs_dir={anew}", "run.fresh=true") == [3]
    # Runs with the same names may have been made again, for another results folder.
    again = shutil.copytree(runs_dir.partition("=")[2], tmp_path / "again")
    for path in again.rglob("status.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"end": "another time"}))
    assert numbers(f"run.runs_dir={again}") == [4]


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("works", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_kill_at_any_file_operation_leaves_the_old_or_the_new_study_complete(
    finished: Study, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    """On a file system that can exchange two folders, and on one that cannot."""
    if not works:
        monkeypatch.setattr(publish, "RENAME_EXCHANGE", 1 << 30)  # a flag that no file system knows
    with publishing(finished, "0") as directory:
        (directory / "README.md").write_text("0")
    files = files_of(finished.results)
    for operation in range(1, 10_000):
        child = os.fork()
        if child == 0:
            kill_at(operation)
            with publishing(finished, str(operation)) as directory:
                (directory / "README.md").write_text(str(operation))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not works and not finished.results.exists():  # between two renames; the next one to publish repairs it
            (finished.results.parent / f".{finished.results.name}.old").rename(finished.results)
        described = json.loads((finished.results / "study.json").read_text())
        assert (finished.results / "README.md").read_text() == described["command"]
        assert [replicate.number for replicate in read_replicates(finished.results)] == [0]
        assert files_of(finished.results) == files
        if status == 0:
            assert operation > 50, "publishing does more to the file system than that"
            break


def kill_at(operation: int) -> None:
    """End this process at its n-th file-system operation, like SIGKILL."""
    count = 0

    def count_down(event: str, arguments: Any) -> None:
        nonlocal count
        count += event in FILE_OPERATIONS
        if count == operation:
            os._exit(9)

    sys.addaudithook(count_down)


def test_studies_of_other_optimizers_are_published_in_their_own_folder(command_line: list[str], tmp_path: Path) -> None:
    for optimizers in ("lion,adamw", "nadam,adamw"):
        run_study(command_line, f"optimizer={optimizers}", "study.stages=[1]", "study.lengths=[]")
    summaries = [json.loads(path.read_text()) for path in tmp_path.glob("results/*/*/*/summary.json")]
    assert sorted(sorted(summary["optimizers"]) for summary in summaries) == [["adamw", "lion"], ["adamw", "nadam"]]
    page = (tmp_path / "results/README.md").read_text()
    assert "NAdam" in page
    assert "Lion" in page
