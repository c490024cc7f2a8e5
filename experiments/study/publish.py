"""Publish a study from runs/ to results/: one file per finished replicate, and a description of the study."""

import ctypes
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from experiments.harness.damage import find_damage
from experiments.harness.errors import RunError, SuiteError
from experiments.harness.files import write_aside
from experiments.harness.record import read_example_losses
from experiments.study.course import Course, PlannedRun
from experiments.study.identity import check_folder
from experiments.study.replicates import (
    Replicate,
    ReplicateRun,
    read_replicate,
    replicate_path,
    replicate_paths,
    write_replicate,
)
from experiments.study.search import Space
from experiments.study.summary import SCHEMA, SUMMARY_SCHEMA
from experiments.study.sweep import Study

AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""From fcntl.h and linux/fs.h."""


@contextmanager
def publishing(study: Study, command: str) -> Iterator[Path]:
    """Yield a folder with study.json, samples and all replicates, the earlier ones and those just run, for the block to
    add pages and figures. Afterwards the folder replaces ``study.results`` atomically; if anything fails,
    ``study.results`` is left unchanged.

    ``command`` is the command that adds a replicate.
    """
    target = study.results
    target.parent.mkdir(parents=True, exist_ok=True)
    aside, old = (target.parent / f".{target.name}.{kind}" for kind in ("partial", "old"))
    with _held(target.parent):
        if old.exists() and not target.exists():
            old.rename(target)  # killed between two renames, on a file system without an atomic exchange
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
    """A lock, so that studies of a task are published one at a time; the system releases it when its holder dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_records(study: Study, command: str, directory: Path) -> None:
    for name in ("replicates", "samples"):
        if (study.results / name).exists():
            shutil.copytree(study.results / name, directory / name)
    directory.mkdir(exist_ok=True)
    for course in study.courses:
        write_replicate(replicate_path(directory, course.number), _replicate(course))
    first = read_replicate(replicate_paths(directory)[0])
    for course in study.courses:
        if course.number == first.number:
            _copy_samples(course, directory)
    described = {**_declared(study, command), "regime": _regime(study.config, first.environment)}
    write_aside(directory / "study.json", json.dumps(described, indent=1, allow_nan=False) + "\n")


def published_summary(study: Study) -> dict[str, Any] | None:
    """The published summary of a study, if publishing it again would change nothing: no run was made, and its folder
    describes it as it is now. None otherwise, and if the folder is damaged.
    """
    if study.courses:
        return None
    try:
        described: dict[str, Any] = json.loads((study.results / "study.json").read_bytes())
        summary: dict[str, Any] = json.loads((study.results / "summary.json").read_bytes())
        declared = json.loads(json.dumps(_declared(study, described["command"])))  # other words for the same study
        declared["study"]["numbers"] = described["study"]["numbers"]  # which replicates were asked for last
        return summary if {**described, **declared} == described and summary["schema"] == SUMMARY_SCHEMA else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _declared(study: Study, command: str) -> dict[str, Any]:
    steps = study.config["train"]["steps"]
    return {
        "schema": SCHEMA,
        "task": study.config["task"],
        "scale": study.config["scale"],
        "experiment": study.name,
        "command": command,
        "study": study.settings,
        "identity": study.identity,
        "spaces": {name: _described(space, steps) for name, space in study.spaces.items() if space},
    }


def _replicate(course: Course) -> Replicate:
    runs = tuple(_published(run) for run in course.runs)
    environments = [json.loads((run.directory / "environment.json").read_bytes()) for run in course.runs]
    first = environments[0]
    for run, environment in zip(course.runs, environments, strict=True):
        environment["sources_digest"] = environment["sources_digest"].partition("-")[0]  # shared by all optimizers
        for key in ("hardware", "packages", "sources_digest"):
            if environment[key] != first[key]:
                raise SuiteError(
                    f"Replicate {course.number} is inconsistent: {run.directory} was made with {key} "
                    f"{environment[key]}, its first run with {first[key]}. A replicate must be run in one environment; "
                    "FRESH=1 runs it again."
                )
    return Replicate(course.number, first, course.nuisance, runs)


def _published(run: PlannedRun) -> ReplicateRun:
    directory = run.directory
    if damage := find_damage(directory, run.status()):
        raise RunError(f"The record of {directory} is damaged ({damage}). Rerun the same command to repair it.")
    # Only for the runs that give the difference; per-example values of others are not used.
    by_example = run.phase in ("confirm", "headline") and run.status()["status"] == "complete"
    metric, losses = read_example_losses(directory) if by_example else ("", np.zeros(0))
    return ReplicateRun(
        run_id=directory.name,
        optimizer=run.optimizer,
        phase=run.phase,
        stage=run.stage,
        trial=run.trial,
        length=run.length,
        seed=run.seed,
        unit=run.unit,
        config=json.dumps(yaml.safe_load((directory / "config.yaml").read_bytes())),
        status=(directory / "status.json").read_text(),
        metrics=(directory / "metrics.jsonl").read_text(),
        parameter_groups=(directory / "parameter_groups.json").read_text(),
        example_metric=metric,
        example_losses=tuple(losses.tolist()),
    )


def _copy_samples(course: Course, directory: Path) -> None:
    """Copy the samples of each optimizer's first confirm run, if the task generates any."""
    shutil.rmtree(directory / "samples", ignore_errors=True)
    for run in reversed(course.confirmation):
        if run.phase == "confirm" and (run.directory / "samples.png").exists():
            (directory / "samples").mkdir(exist_ok=True)
            shutil.copyfile(run.directory / "samples.png", directory / "samples" / f"{run.optimizer}.png")


def _described(space: Space, steps: int) -> list[dict[str, Any]]:
    """One entry for each coordinate of a point, with a readable name."""
    arguments = [dimension.argument for dimension in space.dimensions]
    described = []
    for number, dimension in enumerate(space.dimensions):
        several = arguments.count(dimension.argument) > 1
        place = f" {number - arguments.index(dimension.argument) + 1}" if several else ""
        described.append({"name": f"{dimension.argument}{place}", **asdict(dimension.within(steps))})
    return described


def _regime(config: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": environment["model"]["name"],
        "parameters": environment["model"]["trained_parameters"],
        "batch_size": config["train"]["batch_size"],
        "tokens_per_sample": config.get("context_length"),
        "steps": config["train"]["steps"],
        "train_samples": environment["model"]["train_samples"],
    }


def _swap_in(aside: Path, target: Path, old: Path) -> None:
    """Exchange ``aside`` and ``target`` in one atomic operation."""
    if not target.exists():
        aside.rename(target)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, bytes(aside), AT_FDCWD, bytes(target), RENAME_EXCHANGE):
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(code, os.strerror(code), str(target))
        # The file system cannot exchange folders (NFS): for a moment, the old folder has another name.
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        aside.rename(target)
        shutil.rmtree(old)
