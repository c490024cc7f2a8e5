"""Checkpoints that survive a kill at any moment: written to a temporary file, read back, renamed to their digest."""

import hashlib
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from experiments.harness.averages import enter_training, evaluation_mode
from experiments.harness.checkpoint_files import checkpoint_name, checkpoints, is_whole, remove, step_of
from experiments.harness.errors import ConfigError, RunError, first_line
from experiments.harness.low_bit import load_saved_state, saved_state
from experiments.harness.record import RunRecord, metrics_sha256
from experiments.harness.sharded_files import read_outline, read_sharded, read_shards, write_shards
from experiments.harness.sharding import is_sharded
from experiments.harness.timing import TrainingClock


def save_checkpoint(directory: Path, step: int, state: dict[str, Any], keep: int, sharded: bool = False) -> None:
    """Write ``state`` (tensors and plain data) as the newest checkpoint and delete all but the last ``keep``. If
    ``sharded``, all processes of the run must call this; otherwise only one of them.
    """
    aside = directory / f".checkpoint.{step}"
    main = not sharded or dist.get_rank() == 0
    try:
        (write_shards if sharded else _write)(aside, state)
        if main:
            aside.rename(directory / checkpoint_name(step, aside))
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        if main and aside.exists():
            remove(aside)
        if isinstance(error, pickle.UnpicklingError):
            raise ConfigError(
                "The optimizer's state holds more than tensors and plain data, which is all that a checkpoint may "
                f"contain ({first_line(error)}): keep a tensor or a Python number there instead, such as float(x)."
            ) from error
        raise RunError(  # PyTorch's writer reports a full disk as a RuntimeError
            f"The checkpoint of step {step} cannot be written to {directory} ({error}). Make room on the disk and run "
            "the same command again: it continues from the previous checkpoint."
        ) from error
    if main:
        for old in checkpoints(directory)[:-keep]:
            remove(old)
    if sharded:
        # Hashing in the main process may take long, and the group of all processes has a longer timeout.
        dist.barrier()


def _write(path: Path, state: dict[str, Any]) -> None:
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    torch.load(path, weights_only=True, mmap=True, map_location="cpu")


def newest_checkpoint(directory: Path, sources_digest: str | None = None) -> Path | None:
    """The newest intact checkpoint.

    A checkpoint that is corrupt, that does not match metrics.jsonl, or whose sources differ from ``sources_digest`` (if
    given) is skipped with a message. Raises RunError for one that holds pickled objects.
    """
    path = directory / "metrics.jsonl"
    metrics = path.read_bytes() if path.exists() else b""
    for path in reversed(checkpoints(directory)):
        if not is_whole(path):
            reason = "is corrupt"
        else:
            try:
                state = read_outline(path)["state"] if path.is_dir() else _read(path)
            except pickle.UnpicklingError as error:
                raise RunError(
                    f"The checkpoint {path} holds objects that only unsafe unpickling would load, which this suite "
                    f"never does (weights_only=True; {first_line(error)}): delete it."
                ) from error
            if sources_digest not in (None, state.get("sources_digest")):
                reason = "was made by different source code"
            elif hashlib.sha256(metrics[: state["metrics_bytes"]]).hexdigest() != state.get("metrics_sha256"):
                reason = "does not match metrics.jsonl"
            else:
                return path
        print(f"The checkpoint {path} {reason}: falling back to the previous one.", flush=True)
    return None


def load_checkpoint(directory: Path) -> dict[str, Any] | None:
    """The content of ``newest_checkpoint``, with unsharded tensors on the CPU, or None."""
    path = newest_checkpoint(directory)
    return None if path is None else read_checkpoint(path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of the checkpoint, with unsharded tensors on the CPU."""
    if path.is_dir():
        return read_shards(path, lambda name, like: torch.empty_like(like, device="cpu"))
    return _read(path)


def _read(path: Path) -> dict[str, Any]:
    # Mapped, so that the processes of a run share one copy in memory; the mapping is private, so writing is safe.
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    return state


def drop_checkpoints_after(directory: Path, step: int) -> None:
    """Delete the checkpoints that ``newest_checkpoint`` skipped; otherwise they would count as the newest forever."""
    for path in checkpoints(directory):
        if step_of(path) > step:
            remove(path)


@dataclass
class TrainingState:
    """Everything a run carries from one step to the next. Random numbers depend only on seed and step (batches.py)."""

    model: nn.Module
    optimizer: Optimizer
    ema: AveragedModel | None
    clock: TrainingClock
    step: int = 0

    def evaluated(self) -> nn.Module:
        """The averaged weights if there are any."""
        return self.ema.module if self.ema else self.model

    def save(self, record: RunRecord | None, directory: Path, keep: int) -> None:
        """Write a checkpoint that also identifies the sources and the current content of metrics.jsonl, which the main
        process takes from its ``record``. If the model is sharded, the other processes write their parts.

        "model" holds the weights that are evaluated; "trained", those that an optimizer with modes trains instead.
        """
        sharded = is_sharded(self.model)
        if not (record or sharded):
            return
        with evaluation_mode(self.optimizer) as trained:
            saved = {
                "step": self.step,
                "train_s": self.clock.seconds,
                "model": self.model.state_dict(),
                "trained": trained,
                "optimizer": saved_state(self.optimizer),
                "ema": self.ema.state_dict() if self.ema else None,
            }
            if record:
                saved["sources_digest"] = record.digest
                saved["metrics_bytes"] = record.metrics_bytes()
                saved["metrics_sha256"] = metrics_sha256(directory)
            save_checkpoint(directory, self.step, saved, keep, sharded)

    def load(self, directory: Path, sources_digest: str, accelerator: Accelerator) -> dict[str, Any] | None:
        """The newest checkpoint's content, for ``restore``, or None. The main process chooses it for all."""
        newest = newest_checkpoint(directory, sources_digest) if accelerator.is_main_process else None
        (newest,) = broadcast_object_list([newest])
        if newest is None:
            return None
        if is_sharded(self.model):
            return read_sharded(newest, self.model, self.optimizer)
        return read_checkpoint(newest)

    def restore(self, saved: dict[str, Any]) -> None:
        """Restore the saved state."""
        self.step, self.clock.seconds = saved["step"], saved["train_s"]
        self.model.load_state_dict(saved["model"])
        load_saved_state(self.optimizer, saved["optimizer"])
        enter_training(self.optimizer, saved["trained"])
        if self.ema:
            self.ema.load_state_dict(saved["ema"])
