"""Damaged runs are rerun and never published, and damage in one study does not stop another."""

import shlex
from pathlib import Path

import pytest

from experiments.harness.errors import ConfigError
from experiments.report.dashboard.records import open_studies, published_studies
from experiments.report.rebuild import write_overview
from experiments.study.identity import check_folder
from tests.conftest import rows
from tests.study.test_study import run_study, studies


def test_a_study_with_damaged_records_is_rerun_to_the_same_result(command_line: list[str], tmp_path: Path) -> None:
    overrides = ["optimizer=lion,adamw", "study=fixed", "study.confirm=2", "label_smoothing=0.0"]
    run_study(command_line, *overrides)
    (summary,) = studies(tmp_path / "results")
    (folder,) = (path.parent for path in (tmp_path / "results").rglob("summary.json"))
    runs = sorted(path.parent for path in (tmp_path / "runs").rglob("status.json"))
    before = {run.name: rows(run) for run in runs}

    (runs[0] / "status.json").write_text("")
    (runs[1] / "config.yaml").write_text((runs[1] / "config.yaml").read_text().replace("steps: 8", "steps: 9"))
    (runs[2] / "metrics.jsonl").write_text("")
    (runs[3] / "parameter_groups.json").unlink()
    foreign = folder.parent / "foreign"
    foreign.mkdir()
    for name in ("summary.json", "study.json"):
        (foreign / name).write_text("{")
    garbage = runs[0].parent / "lion-s9-0123456789"
    garbage.mkdir()
    (garbage / "status.json").write_text('{"status": 3}')

    (folder / "replicates/0.parquet").unlink()  # which would suffice
    second = run_study(command_line, *overrides)
    assert "Left out of" in second.stdout
    assert {run.name: rows(run) for run in runs} == before
    (foreign / "summary.json").unlink()
    write_overview(tmp_path / "results")
    again = studies(tmp_path / "results")
    assert [study["comparisons"] for study in again] == [summary["comparisons"]]
    assert len(published_studies(tmp_path / "results")) == 1
    assert open_studies(tmp_path / "runs", []) != []

    # The command on the page can be pasted, and contains nothing specific to this machine.
    command = shlex.split(summary["generated"])
    assert "study=fixed" in command
    assert not [word for word in command if str(tmp_path) in word or word.startswith(("run.", "data.sources"))]
    with pytest.raises(ConfigError, match="is damaged, so it is unclear which study is published there"):
        check_folder(foreign, {})
