"""Checkpoints that survive a kill at any moment: written aside, read back, renamed; the name carries the digest."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from experiments.harness.averages import enter_training, evaluation_mode
from experiments.harness.errors import RunError
from experiments.harness.record import RunRecord
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
    for old in _checkpoints(directory)[:-keep]:
        old.unlink()


def load_checkpoint(directory: Path) -> dict[str, Any] | None:
    """The newest intact checkpoint, on the CPU, or None.

    One that is corrupt, or remembers more metrics than metrics.jsonl holds, is passed over, saying so.
    """
    metrics = directory / "metrics.jsonl"
    metrics_bytes = metrics.stat().st_size if metrics.exists() else 0
    for path in reversed(_checkpoints(directory)):
        if _digest(path) != path.stem.rsplit("-", 1)[1]:
            reason = "is corrupt"
        else:
            state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
            if state["metrics_bytes"] <= metrics_bytes:
                return state
            reason = "remembers more metrics than metrics.jsonl holds"
        print(f"The checkpoint {path} {reason}: falling back to the one before.", flush=True)
    return None


@dataclass
class TrainingState:
    """All that a run carries from one step to the next; randomness is not among it (see batches.py)."""

    model: nn.Module
    optimizer: Optimizer
    ema: AveragedModel | None
    clock: TrainingClock
    step: int = 0

    def evaluated_model(self) -> nn.Module:
        """The averaged weights if there are any."""
        return self.ema.module if self.ema else self.model

    def save(self, record: RunRecord, keep: int) -> None:
        """Write a checkpoint that also remembers how long metrics.jsonl is now.

        Its "model" is what is evaluated; what an optimizer with a training mode trains instead stands beside it.
        """
        with evaluation_mode(self.optimizer) as trained:
            saved = {
                "step": self.step,
                "train_s": self.clock.seconds,
                "metrics_bytes": record.metrics_bytes(),
                "model": self.model.state_dict(),
                "trained": trained,
                "optimizer": self.optimizer.state_dict(),
                "ema": self.ema.state_dict() if self.ema else None,
            }
            save_checkpoint(record.directory, self.step, saved, keep)

    def restore(self, saved: dict[str, Any]) -> None:
        """Become what was saved."""
        self.step, self.clock.seconds = saved["step"], saved["train_s"]
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        enter_training(self.optimizer, saved["trained"])
        if self.ema:
            self.ema.load_state_dict(saved["ema"])
