"""Run records for the dashboard's tests: runs that belong to no published study."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.harness.record import RunRecord

BATCH_SIZE, SECONDS_A_STEP = 128, 0.25
LION = {"name": "lion", "lr": 1e-3}


def write_record(
    directory: Path,
    optimizer: dict[str, Any] = LION,
    *,
    seed: int = 0,
    test: bool = True,
    status: str = "complete",
    rows: list[dict[str, float]] | None = None,
    steps: int = 200,
    digest: str = "abcdef0123456789",
    data: str = "cifar10",
) -> None:
    """A run record with config, environment, status and metrics; training rows every 10 steps, evaluations every 25."""
    if rows is None:
        rows = [{"step": step, "train/loss": 2.3 - step / 200} for step in range(10, 101, 10)]
        rows += [{"step": step, "val/top1": step / 4} for step in range(25, 101, 25)]
        rows.sort(key=lambda row: row["step"])
    for row in rows:
        row["samples"] = row["step"] * BATCH_SIZE
        if "train/loss" in row:
            row["time/train_s"] = row["step"] * SECONDS_A_STEP
            row["optimizer/update_norm"] = 0.01
    config = {
        "task": directory.parent.name if directory.parent.name != "runs" else "image_classification",
        "data": {"name": data, "fingerprint": "f" * 16},
        "model": {"_target_": "experiments.image_classification.convnet.ConvNet"},
        "optimizer": optimizer,
        "seed": seed,
        "test": test,
        "train": {"steps": steps, "batch_size": BATCH_SIZE},
    }
    with RunRecord(directory, digest, config) as record:
        for row in rows:
            record.append(row)
        record.set_status(status)


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Lock a run like the process that trains it."""
    with (directory / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
