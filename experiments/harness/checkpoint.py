"""Checkpoints that survive a kill at any moment: written to a temporary file, read back, then renamed to their
digest.
"""

import hashlib
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from experiments.harness.averages import enter_training, evaluation_mode
from experiments.harness.errors import ConfigError, RunError
from experiments.harness.record import RunRecord, metrics_sha256
from experiments.harness.timing import TrainingClock


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _checkpoints(directory: Path) -> list[Path]:
    """Oldest first; names are step-<8 digits>-<16 hex>.pt."""
    return sorted(directory.glob("step-*.pt"))


def save_checkpoint(directory: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Write ``state`` (tensors and plain data) as the newest checkpoint and delete all but the last ``keep``."""
    aside = directory / f".checkpoint.{os.getpid()}"
    try:
        with aside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        torch.load(aside, weights_only=True, mmap=True, map_location="cpu")
        aside.rename(directory / f"step-{step:08d}-{_digest(aside)}.pt")
    except (OSError, RuntimeError) as error:  # PyTorch's writer turns a full disk into a RuntimeError
        aside.unlink(missing_ok=True)
        raise RunError(
            f"The checkpoint of step {step} cannot be written to {directory} ({error}). Make room on the disk and run "
            "the same command again: it continues from the checkpoint before."
        ) from error
    except pickle.UnpicklingError as error:
        aside.unlink()
        raise ConfigError(
            "The optimizer's state holds more than tensors and plain data, which is all that a checkpoint may contain "
            f"({_first_line(error)}): let it keep a tensor or a Python number, such as float(x)."
        ) from error
    for old in _checkpoints(directory)[:-keep]:
        old.unlink()


def load_checkpoint(directory: Path, sources_digest: str | None = None) -> dict[str, Any] | None:
    """The newest intact checkpoint, on the CPU, or None.

    A checkpoint that is corrupt, that does not match metrics.jsonl, or whose sources differ from ``sources_digest`` (if
    given) is skipped with a message. Raises RunError for one that holds pickled objects.
    """
    path = directory / "metrics.jsonl"
    metrics = path.read_bytes() if path.exists() else b""
    for path in reversed(_checkpoints(directory)):
        if _digest(path) != path.stem.rsplit("-", 1)[1]:
            reason = "is corrupt"
        else:
            try:
                state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
            except pickle.UnpicklingError as error:
                raise RunError(
                    f"The checkpoint {path} holds objects that only unsafe unpickling would load, which this suite "
                    f"never does (weights_only=True; {_first_line(error)}): delete it."
                ) from error
            if sources_digest not in (None, state.get("sources_digest")):
                reason = "was made by different source code"
            elif hashlib.sha256(metrics[: state["metrics_bytes"]]).hexdigest() != state.get("metrics_sha256"):
                reason = "does not match metrics.jsonl"
            else:
                return state
        print(f"The checkpoint {path} {reason}: falling back to the previous one.", flush=True)
    return None


def drop_checkpoints_after(directory: Path, step: int) -> None:
    """Delete the checkpoints that ``load_checkpoint`` skipped; otherwise they would stay the newest ones."""
    for path in _checkpoints(directory):
        if int(path.name.split("-")[1]) > step:
            path.unlink()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


@dataclass
class TrainingState:
    """Everything that a run carries from one step to the next, which does not include randomness (see batches.py)."""

    model: nn.Module
    optimizer: Optimizer
    ema: AveragedModel | None
    clock: TrainingClock
    step: int = 0

    def evaluated_model(self) -> nn.Module:
        """The averaged weights if there are any."""
        return self.ema.module if self.ema else self.model

    def save(self, record: RunRecord, keep: int) -> None:
        """Write a checkpoint that also remembers the sources and the current content of metrics.jsonl.

        "model" holds the weights that are evaluated; "trained" those that an optimizer with modes trains instead.
        """
        with evaluation_mode(self.optimizer) as trained:
            saved = {
                "step": self.step,
                "sources_digest": record.digest,
                "train_s": self.clock.seconds,
                "metrics_bytes": record.metrics_bytes(),
                "metrics_sha256": metrics_sha256(record.directory),
                "model": self.model.state_dict(),
                "trained": trained,
                "optimizer": self.optimizer.state_dict(),
                "ema": self.ema.state_dict() if self.ema else None,
            }
            save_checkpoint(record.directory, self.step, saved, keep)

    def restore(self, saved: dict[str, Any]) -> None:
        """Restore the saved state."""
        self.step, self.clock.seconds = saved["step"], saved["train_s"]
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        enter_training(self.optimizer, saved["trained"])
        if self.ema:
            self.ema.load_state_dict(saved["ema"])
