"""From runs/ to results/: the records of a study's runs without their checkpoints, and what the study was."""

import ctypes
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.harness.damage import find_damage
from experiments.harness.errors import RunError
from experiments.harness.record import write_aside
from experiments.study.identity import check_folder
from experiments.study.looks import looks_at
from experiments.study.plan import at_edge
from experiments.study.summary import write_summary
from experiments.study.sweep import Contestant, Study

RECORD_FILES = ("config.yaml", "metrics.jsonl", "status.json", "environment.json", "parameter_groups.json")
AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of fcntl.h and linux/fs.h."""


@contextmanager
def publishing(study: Study, command: str) -> Iterator[Path]:
    """A folder with study.json, runs/<run id>/ and summary.json, to which the block adds pages and figures; afterwards
    it takes the place of ``study.results``, whole or, if anything goes wrong, not at all.

    ``command`` is what a reader types to make the study again.
    """
    target = study.results
    target.parent.mkdir(parents=True, exist_ok=True)
    aside, old = (target.parent / f".{target.name}.{kind}" for kind in ("partial", "old"))
    with _held(target.parent):
        if old.exists() and not target.exists():
            old.rename(target)  # a process was killed where it could not exchange the two at once
        check_folder(target, study.identity)
        shutil.rmtree(aside, ignore_errors=True)
        try:
            _write_records(study, command, aside)
            yield aside
            _swap_in(aside, target, old)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Publish one study of a task at a time; the system lets go when a holder dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_records(study: Study, command: str, directory: Path) -> None:
    for contestant in study.contestants:
        for run in [*(run for runs in contestant.tuning.values() for run in runs), *contestant.confirmation]:
            copied = directory / "runs" / run.directory.name
            copied.mkdir(parents=True, exist_ok=True)
            for name in RECORD_FILES:
                shutil.copyfile(run.directory / name, copied / name)
            if damage := find_damage(copied, run.status()):
                raise RunError(
                    f"The record of {run.directory} is damaged ({damage}). The same command computes its end again."
                )
            if (run.directory / "samples.png").exists():
                shutil.copyfile(run.directory / "samples.png", copied / "samples.png")
    config = study.config
    description: dict[str, Any] = {
        "schema": 1,
        "task": config["task"],
        "scale": config["scale"],
        "experiment": study.name,
        "command": command,
        "study": study.settings,
        "contestants": {contestant.name: _described(contestant) for contestant in study.contestants},
        "identity": study.identity,
        "sources_digest": study.suite_digest,
    }
    description["looks"] = looks_at(study.results.parent, description)
    write_aside(directory / "study.json", json.dumps(description, indent=1) + "\n")
    write_summary(directory)


def _swap_in(aside: Path, target: Path, old: Path) -> None:
    """Put ``aside`` in the place of ``target`` in one step of the file system; what was there lies aside then."""
    if not target.exists():
        aside.rename(target)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, bytes(aside), AT_FDCWD, bytes(target), RENAME_EXCHANGE):
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(code, os.strerror(code), str(target))
        # A file system that cannot exchange, such as NFS: for a moment the old folder has another name.
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        aside.rename(target)
        shutil.rmtree(old)


def _described(contestant: Contestant) -> dict[str, Any]:
    assert contestant.winner is not None
    return {
        "tuning": [
            {"lr": point.lr, "weight_decay": point.weight_decay, "runs": [run.directory.name for run in runs]}
            for point, runs in contestant.tuning.items()
        ],
        "winner": {"lr": contestant.winner.lr, "weight_decay": contestant.winner.weight_decay},
        "at_grid_edge": at_edge(contestant.winner, list(contestant.tuning)),
        "confirmation": [run.directory.name for run in contestant.confirmation],
    }
