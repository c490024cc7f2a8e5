import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import copytree

import pytest

from experiments.harness import entry, provenance, record, source_code
from experiments.harness.damage import find_damage
from experiments.harness.entry import execute
from experiments.harness.errors import RunError
from experiments.harness.record import RunRecord, is_held, read_example_losses, read_metrics, take_lock
from experiments.harness.run import locate
from tests.conftest import MakeConfig, executed, last_checkpoint, rows, status_of
from tests.study.test_launchers import eventually


def test_a_run_directory_locked_by_another_process_is_refused_with_its_pid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "LOCK_WAIT_S", 0.2)
    assert not is_held(tmp_path), "a run that never started"
    holder = os.fork()
    if holder == 0:
        with suppress(BaseException), RunRecord(tmp_path, "digest", {}):
            time.sleep(600)
        os._exit(1)
    try:
        eventually((tmp_path / "environment.json").exists, "a record")
        assert is_held(tmp_path)
        with pytest.raises(RunError, match=rf"{tmp_path} is held by another process \(pid {holder}\)"):
            RunRecord(tmp_path, "digest", {})
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
    assert not is_held(tmp_path)
    with RunRecord(tmp_path, "digest", {}):
        pass  # it is free again afterwards


def test_added_hardware_is_merged_into_the_environment_file(tmp_path: Path) -> None:
    with RunRecord(tmp_path, "digest", {}) as run:
        before = json.loads((tmp_path / "environment.json").read_text())
        run.add_environment("hardware", gpu="NVIDIA H100", gpu_count=2)
    after = json.loads((tmp_path / "environment.json").read_text())
    assert after.pop("hardware") == {**before.pop("hardware"), "gpu": "NVIDIA H100", "gpu_count": 2}
    assert after == before


def test_a_truncated_last_metrics_line_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 2}]


def test_a_non_finite_value_is_never_written(tmp_path: Path) -> None:
    with RunRecord(tmp_path, "digest", {}) as run, pytest.raises(ValueError, match="JSON compliant"):
        run.append({"train/loss": float("nan")})
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_run_made_by_other_sources_is_refused_and_set_aside_by_fresh(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = make_config()
    directory = executed(cfg)
    before = rows(directory)
    monkeypatch.setattr(source_code, "digest", lambda task, named: "feedfeedfeedfeed")
    with pytest.raises(RunError, match=rf"{directory} was made by different source code .*FRESH=1"):
        execute(cfg)
    execute(make_config("run.fresh=true"))
    assert status_of(directory)["sources_digest"] == "feedfeedfeedfeed"
    (aside,) = (directory.parent / ".superseded").iterdir()
    assert rows(aside) == before


def test_a_run_that_failed_before_its_first_row_is_replaced_once_the_sources_are_fixed(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = make_config("optimizer._target_=json.loads")
    with monkeypatch.context() as broken:
        broken.setattr(source_code, "digest", lambda task, named: "feedfeedfeedfeed")
        with pytest.raises(Exception, match="cannot be built"):
            execute(cfg)
    run = locate(cfg)
    assert status_of(run.directory)["status"] == "failed"
    assert entry.usable_status(run.directory, run.plain) is None
    assert not run.directory.exists()
    assert len(list((run.directory.parent / ".superseded").iterdir())) == 1


def test_fresh_reruns_once_even_if_the_sources_are_the_same(make_config: MakeConfig) -> None:
    execute(make_config())
    cfg = make_config("run.fresh=true")
    directory = locate(cfg).directory
    before = (directory / "metrics.jsonl").stat().st_ino
    execute(cfg)
    started = (directory / "metrics.jsonl").stat().st_ino
    assert started != before
    execute(cfg)  # another study, or another part of this one, needs the same run
    assert (directory / "metrics.jsonl").stat().st_ino == started
    assert len(list((directory.parent / ".superseded").iterdir())) == 1


def test_the_environment_contains_no_host_user_or_path() -> None:
    text = json.dumps(provenance.environment("digest"))
    assert os.uname().nodename not in text
    assert str(provenance.ROOT) not in text
    assert str(Path.home()) not in text


def test_fresh_does_not_replace_a_live_run(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "LOCK_WAIT_S", 0.2)
    cfg = make_config("run.fresh=true")
    directory = locate(cfg).directory
    with RunRecord(directory, "other sources", {}), pytest.raises(RunError, match="held by another process"):
        execute(cfg)
    assert not (directory.parent / ".superseded").exists()
    execute(cfg)
    assert len(list((directory.parent / ".superseded").iterdir())) == 1


def test_a_process_waiting_for_a_run_that_is_set_aside_locks_the_new_folder(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    holder = take_lock(directory)

    def set_aside_and_release() -> None:
        time.sleep(0.3)
        directory.rename(tmp_path / "aside")
        holder.close()

    threading.Thread(target=set_aside_and_release).start()
    with take_lock(directory):
        assert is_held(directory)
        assert not is_held(tmp_path / "aside")


def test_a_run_finished_by_another_process_in_the_meantime_is_left_untouched(make_config: MakeConfig) -> None:
    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in run.directory.iterdir() if path.name != "lock"}

    execute(cfg := make_config())
    run = locate(cfg)
    before = files()
    with RunRecord(run.directory, run.digest, {}) as late:
        assert late.finished
    assert files() == before


def test_leftovers_of_a_killed_process_are_removed_when_the_run_is_opened(tmp_path: Path) -> None:
    for name in (".checkpoint.123", ".status.json.99", ".hidden"):
        (tmp_path / name).touch()
    with RunRecord(tmp_path, "digest", {}):
        assert {path.name for path in tmp_path.glob(".*")} == {".hidden"}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty status": lambda run: (run / "status.json").write_text(""),
    "status of the wrong type": lambda run: (run / "status.json").write_text("[]"),
    "no metrics": lambda run: (run / "metrics.jsonl").unlink(),
    "truncated metrics": lambda run: os.truncate(run / "metrics.jsonl", 100),
    "flipped metrics": lambda run: flip(run / "metrics.jsonl"),
    "extra metrics": lambda run: (run / "metrics.jsonl").open("a").write('{"step": 1, "val/top1": 99.0}\n'),
    "edited config": lambda run: (run / "config.yaml").write_text(
        (run / "config.yaml").read_text().replace("seed: 0", "seed: 7")
    ),
    "config of the wrong type": lambda run: (run / "config.yaml").write_text("- 1\n"),
    "no config": lambda run: (run / "config.yaml").unlink(),
    "truncated environment": lambda run: os.truncate(run / "environment.json", 9),
    "flipped checkpoint": lambda run: flip(max(run.glob("step-*.pt"))),
    "empty checkpoint": lambda run: max(run.glob("step-*.pt")).write_bytes(b""),
    "no last checkpoint": lambda run: max(run.glob("step-*.pt")).unlink(),
    "no parameter groups": lambda run: (run / "parameter_groups.json").unlink(),
}


def last_weights(directory: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in last_checkpoint(directory)["model"].items()}


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The runs folder of an undamaged run, which the first test that needs it executes; copy it, do not change it."""
    return f"run.runs_dir={tmp_path_factory.mktemp('undamaged')}"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_finished_run_with_a_damaged_record_is_redone_bit_for_bit(
    make_config: MakeConfig, undamaged: str, damage: str
) -> None:
    whole, cfg = make_config(undamaged), make_config()
    execute(whole)
    directory = locate(cfg).directory
    copytree(locate(whole).directory, directory)
    before, config = rows(directory), (directory / "config.yaml").read_text()
    weights = last_weights(directory)
    DAMAGES[damage](directory)
    execute(cfg)
    assert rows(directory) == before
    assert last_weights(directory) == weights
    assert (directory / "config.yaml").read_text() == config
    assert (directory / "parameter_groups.json").exists()
    assert find_damage(directory, status_of(directory)) is None


def test_without_git_the_commit_and_dirty_state_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = provenance.environment("digest")
    assert (found["git_sha"], found["git_dirty"]) == (None, None)


def test_truncated_or_flipped_example_losses_are_detected_as_damage(make_config: MakeConfig) -> None:
    directory = executed(make_config())
    status = status_of(directory)
    assert find_damage(directory, status) is None
    path = directory / "example_losses.npz"
    content, losses = path.read_bytes(), read_example_losses(directory)[1].tolist()
    for size in (0, 1, 30, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        assert find_damage(directory, status) == "example_losses.npz is damaged", size
    for place in range(0, len(content), len(content) // 60):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x21]) + content[place + 1 :])
        if find_damage(directory, status) is None:  # such as a flip in the date of a file in the archive
            assert read_example_losses(directory)[1].tolist() == losses, place
    path.unlink()
    assert find_damage(directory, status) == "example_losses.npz is damaged"
