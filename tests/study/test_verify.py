"""Committed runs, run again from their records."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from experiments.harness.entry import execute
from experiments.study import verify as module
from experiments.study.publish import publishing
from experiments.study.sweep import Study
from experiments.study.verify import Different, drawn, verify
from tests.conftest import MakeConfig

Row = dict[str, Any]


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Takes the runs of ``published``, which the first test that asks for them carries out."""
    return f"run.runs_dir={tmp_path_factory.mktemp('runs')}"


@pytest.fixture
def published(make_config: MakeConfig, runs_dir: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The record of Lion's seed 0 in a published study; the data are where the study found them."""
    overrides = ["study.lr_multipliers=[1.0]", "study.confirm_seeds=[0,1,2]", runs_dir]
    study = Study(lambda more: make_config(*more), overrides, ["lion", "adamw"])
    study.tune()
    for run in study.confirm():
        if not run.is_finished():
            execute(make_config(*run.overrides))
    with publishing(study, "command"):
        pass
    GlobalHydra.instance().clear()  # a command of its own composes the config again
    monkeypatch.setenv("LION_CACHE", study.config["run"]["cache_dir"])
    found = {key: study.config["data"][key] for key in ("access", "places")}
    monkeypatch.setattr(module, "with_places", lambda recorded: {**found, **recorded})
    return next((study.results / "runs").glob("lion-s0-*"))


def rewrite(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def rewrite_rows(directory: Path, change: Callable[[Row], None]) -> None:
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        change(row)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def of_another_machine(directory: Path) -> None:
    """Let the record say that it was computed with other instructions, and differ as it would then."""
    rewrite(directory / "environment.json", lambda record: record["arithmetic"].update(aten="AVX512"))
    rewrite_rows(directory, lambda row: row.update({key: 1.001 * row[key] for key in row if key.startswith("train/g")}))


def test_a_run_comes_out_as_recorded_and_leaves_the_record_alone(published: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in published.parents[1].rglob("*") if path.is_file()}
    assert verify(published, tmp_path / "again").startswith("identical, ")
    assert before == {path: path.read_bytes() for path in published.parents[1].rglob("*") if path.is_file()}
    assert list((tmp_path / "again").glob("*/lion-s0-*"))


def test_times_and_memory_may_differ(published: Path, tmp_path: Path) -> None:
    def slower(row: Row) -> None:
        row.update({key: 2 * row[key] for key in row if key.startswith(("time/", "cost/"))})

    rewrite_rows(published, slower)
    assert verify(published, tmp_path / "again").startswith("identical, ")


@pytest.mark.parametrize("in_another_arithmetic", [False, True])
def test_one_changed_value_is_named_whatever_made_the_record(
    published: Path, tmp_path: Path, in_another_arithmetic: bool
) -> None:
    def change(row: Row) -> None:
        if row["step"] == 8 and "val/loss" in row:
            row["val/loss"] += 1e-12

    rewrite_rows(published, change)
    if in_another_arithmetic:
        rewrite(published / "environment.json", lambda record: record["arithmetic"].update(aten="AVX512"))
    with pytest.raises(Different, match="differs from step 8 on: val/loss is "):
        verify(published, tmp_path / "again")


def test_a_missing_row_another_status_and_a_torn_record_are_named(published: Path, tmp_path: Path) -> None:
    metrics = published / "metrics.jsonl"
    text = metrics.read_text()
    metrics.write_text("".join(text.splitlines(keepends=True)[:-1]))
    with pytest.raises(Different, match=r"has \d+ rows, recorded are \d+"):
        verify(published, tmp_path / "1")
    metrics.write_text(text.replace('"step"', '"stOp"', 1))
    with pytest.raises(Different, match=r"the record cannot be read: .*its line 1 is no row of metrics"):
        verify(published, tmp_path / "2")
    metrics.write_text(text)
    rewrite(published / "status.json", lambda status: status.update(status="diverged"))
    with pytest.raises(Different, match="is complete, recorded diverged"):
        verify(published, tmp_path / "3")


def test_another_arithmetic_is_told_first_and_judged_by_the_spread_of_seeds(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_another_machine(published)
    assert verify(published, tmp_path / "1").startswith("in another arithmetic: differs from step ")
    printed = capsys.readouterr().out
    assert printed.index("made with aten AVX512, here is AVX2") < printed.index("complete")

    def better(row: Row) -> None:
        row.update({key: row[key] + 50 for key in row if key == "test/top1"})

    rewrite_rows(published, better)
    with pytest.raises(Different, match="at its end by more than 3 standard deviations of the seeds: test/top1"):
        verify(published, tmp_path / "2")


def test_a_first_row_that_rounding_does_not_explain_is_refused(published: Path, tmp_path: Path) -> None:
    of_another_machine(published)
    rewrite_rows(published, lambda row: row.update({key: 1.2 * row[key] for key in row if key == "train/loss"}))
    with pytest.raises(Different, match="differs in its first row by more than 5%: train/loss"):
        verify(published, tmp_path / "again")


def test_the_draw_is_a_new_one_each_time_unless_seeded(tmp_path: Path) -> None:
    for number in range(40):
        directory = tmp_path / f"lit/mini/study/runs/lion-s{number}"
        directory.mkdir(parents=True)
        (directory / "status.json").touch()
    (tmp_path / "lit/mini/study/summary.json").touch()
    assert drawn(tmp_path, None, 3, seed=1) == drawn(tmp_path, None, 3, seed=1) != drawn(tmp_path, None, 3, seed=2)
    assert drawn(tmp_path, "lion-s7", 2, seed=1) == [tmp_path / "lit/mini/study/runs/lion-s7"]
    with pytest.raises(SystemExit, match="There is no run lion-s99"):
        drawn(tmp_path, "lion-s99", 2, seed=1)


def test_the_command_fails_and_names_the_run_that_cannot_be_made_again(published: Path) -> None:
    results = published.parents[4]
    command = [sys.executable, "-m", "experiments.study.verify", "--results", str(results), "--run", published.name]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    # The small data set of the tests is in no file of conf/data.
    assert (result.returncode, "cannot be run again" in result.stdout) == (1, True), result.stdout
    assert f"image_classification/smoke/{published.parents[1].name} {published.name}: " in result.stdout
    assert "1 of 1 do not agree with their records" in result.stderr
