import hashlib
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.harness.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from experiments.harness.checkpoint_files import digest_of, step_of
from experiments.harness.entry import execute
from experiments.harness.errors import ConfigError, RunError
from tests.conftest import MakeConfig, executed, rows


def state(step: int) -> dict:
    return {**remembering(b""), "step": step, "weights": torch.arange(2000.0) + step}


def remembering(metrics: bytes, sources_digest: str = "ours") -> dict:
    sha256 = hashlib.sha256(metrics).hexdigest()
    return {"metrics_bytes": len(metrics), "metrics_sha256": sha256, "sources_digest": sources_digest}


def steps(directory: Path) -> list[int]:
    return [step_of(path) for path in sorted(directory.glob("step-*.pt"))]


def loaded(directory: Path) -> dict[str, Any]:
    found = load_checkpoint(directory)
    assert found is not None
    return found


def test_only_the_last_k_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        save_checkpoint(tmp_path, step, state(step), keep=2)
    assert steps(tmp_path) == [15, 20]
    assert torch.equal(loaded(tmp_path)["weights"], state(20)["weights"])


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_corrupt_checkpoint_falls_back_to_the_previous_one_with_a_message(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (5, 10):
        save_checkpoint(tmp_path, step, state(step), keep=2)
    newest = max(tmp_path.glob("step-*.pt"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"flip": bytes(content), "cut": bytes(content[:-100]), "empty": b""}[damage])
    assert loaded(tmp_path)["step"] == 5
    assert f"The checkpoint {newest} is corrupt: falling back to the previous one." in capsys.readouterr().out


@pytest.mark.parametrize("metrics", [b'{"step": 1}\n{"ste', b'{"step": 2}\n{"step": 3}\n', b""])
def test_a_checkpoint_that_does_not_match_the_metrics_file_is_skipped(tmp_path: Path, metrics: bytes) -> None:
    save_checkpoint(tmp_path, 5, state(5), keep=2)
    save_checkpoint(tmp_path, 10, {**state(10), **remembering(b'{"step": 1}\n{"step": 3}\n')}, keep=2)
    (tmp_path / "metrics.jsonl").write_bytes(metrics)
    assert loaded(tmp_path)["step"] == 5


def test_a_checkpoint_made_by_other_sources_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path, 5, state(5), keep=2)
    save_checkpoint(tmp_path, 10, {**state(10), **remembering(b"", "theirs")}, keep=2)
    newest = newest_checkpoint(tmp_path, "ours")
    assert newest is not None
    assert step_of(newest) == 5
    assert "was made by different source code: falling back" in capsys.readouterr().out


def test_a_run_with_only_corrupt_checkpoints_ends_the_same_and_keeps_only_new_ones(make_config: MakeConfig) -> None:
    cfg = make_config("run.checkpoint_every=2", "run.keep_checkpoints=1")
    directory = executed(cfg)
    before = rows(directory)
    (newest,) = directory.glob("step-*.pt")
    newest.rename(directory / "step-99999999-0123456789abcdef.pt")
    (directory / "status.json").unlink()
    execute(cfg)
    assert rows(directory) == before
    assert steps(directory) == [cfg.train.steps]


def test_optimizer_state_that_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="state holds more than tensors and plain data"):
        save_checkpoint(tmp_path, 5, {**state(5), "optimizer": {"state": {0: {"gain": np.float64(1)}}}}, keep=2)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_and_the_previous_checkpoint_survives(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, state(5), keep=2)
    child = os.fork()
    if child == 0:  # a limit on file sizes can only be lowered, so this is done in a separate process
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            save_checkpoint(tmp_path, 10, state(10), keep=2)
        except RunError as error:
            os._exit(7 if "cannot be written" in str(error) and "same command again" in str(error) else 8)
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert [path.name for path in tmp_path.iterdir()] == [path.name for path in tmp_path.glob("step-00000005-*.pt")]


def test_a_checkpoint_that_needs_unsafe_unpickling_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "owned"),))

    path = tmp_path / "step-00000005-x.pt"
    torch.save({"step": 5, "metrics_bytes": 0, "payload": Payload()}, path)
    path.rename(tmp_path / f"step-00000005-{digest_of(path)}.pt")
    with pytest.raises(RunError, match=r"holds objects that only unsafe unpickling would load.*delete it"):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "owned").exists()
