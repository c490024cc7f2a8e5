import json
import multiprocessing
import os
import subprocess
from pathlib import Path

import pytest

from experiments.harness import entry, provenance, record
from experiments.harness.entry import execute, locate
from experiments.harness.errors import RunError
from experiments.harness.record import RunRecord, is_held, read_metrics
from experiments.harness.sources import sources_digest
from tests.conftest import MakeConfig, rows


def hold(
    directory: Path, held: "multiprocessing.synchronize.Event", release: "multiprocessing.synchronize.Event"
) -> None:
    with RunRecord(directory, "digest", {}):
        held.set()
        release.wait(60)


def test_a_directory_that_another_process_holds_is_refused_with_its_pid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "LOCK_WAIT_S", 0.2)
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(tmp_path, held, release))
    holder.start()
    try:
        assert held.wait(60)
        assert is_held(tmp_path)
        with pytest.raises(RunError, match=rf"{tmp_path} is held by another process \(pid {holder.pid}\)"):
            RunRecord(tmp_path, "digest", {})
    finally:
        release.set()
        holder.join()
    assert not is_held(tmp_path)
    with RunRecord(tmp_path, "digest", {}):
        pass  # and is free afterwards


def test_a_run_that_never_began_is_not_held(tmp_path: Path) -> None:
    assert not is_held(tmp_path)


def test_hardware_is_added_to_what_is_known(tmp_path: Path) -> None:
    with RunRecord(tmp_path, "digest", {}) as run:
        before = json.loads((tmp_path / "environment.json").read_text())
        run.add_environment("hardware", gpu="NVIDIA H100", gpu_count=2)
    after = json.loads((tmp_path / "environment.json").read_text())
    assert after.pop("hardware") == {**before.pop("hardware"), "gpu": "NVIDIA H100", "gpu_count": 2}
    assert after == before


def test_a_torn_last_line_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 2}]


def test_a_value_that_is_not_finite_is_never_written(tmp_path: Path) -> None:
    with RunRecord(tmp_path, "digest", {}) as run, pytest.raises(ValueError, match="JSON compliant"):
        run.append({"train/loss": float("nan")})
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_run_of_other_sources_is_refused_by_name_and_fresh_sets_it_aside(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = make_config()
    execute(cfg)
    directory = locate(cfg)[2]
    before = rows(directory)
    monkeypatch.setattr(entry, "sources_digest", lambda config: "feedfeedfeedfeed")
    with pytest.raises(RunError, match=rf"{directory} was made by other sources .*FRESH=1"):
        execute(cfg)
    execute(make_config("run.fresh=true"))
    assert json.loads((directory / "status.json").read_text())["sources_digest"] == "feedfeedfeedfeed"
    (aside,) = (directory.parent / ".superseded").iterdir()
    assert rows(aside) == before


def test_the_environment_holds_neither_host_nor_user_nor_path() -> None:
    text = json.dumps(provenance.environment("digest"))
    assert os.uname().nodename not in text
    assert str(provenance.ROOT) not in text
    assert str(Path.home()) not in text


def test_a_run_directory_of_another_process_is_one_sentence_on_the_command_line(
    make_config: MakeConfig, command_line: list[str]
) -> None:
    plain, _, directory = locate(make_config())
    with RunRecord(directory, sources_digest(plain), {}):
        result = subprocess.run(command_line, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith(f"error: The run {directory} is held by another process")
