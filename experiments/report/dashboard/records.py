"""The data that the dashboard shows: published studies, and groups of runs that belong to none."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from experiments.harness.checkpoint_files import checkpoints, step_of
from experiments.harness.errors import DataError, RunError
from experiments.harness.record import is_held, read_metrics
from experiments.report.labels import Summary, task_name
from experiments.report.rebuild import read_summary, skipped_if_damaged
from experiments.study.replicates import Replicate, read_replicates
from experiments.study.summary import study_folders

AXES = {"step": "step", "samples": "samples", "seconds": "training time, s"}
"""The x axes of the curves, each with its title."""
CURVE_PREFIXES = ("val/", "train/loss")
"""The metrics drawn as curves, in page order; W&B draws all others. Test metrics have one value per run."""
UNDER_WAY = ("running", "interrupted", "failed")


@dataclass(frozen=True)
class ShownRun:
    """The data of one run for a page, published or unfinished."""

    id: str
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    status: dict[str, Any]
    place: str
    """the id of the table row that a click on one of its points jumps to"""
    replicate: int | None = None
    """of a published study"""
    step: int = 0
    """of an unpublished run: the step it has reached, or would resume from"""
    written: str = ""
    """when an unpublished run last wrote a row of metrics, to the minute, UTC"""

    @property
    def optimizer(self) -> str:
        """Its optimizer's name."""
        return str(self.config["optimizer"]["name"])


def run_of(directory: Path) -> ShownRun:
    """The run recorded in ``directory``, "interrupted" if it has not ended and no process holds it. Raises DataError if
    the record is damaged.
    """
    try:
        config = yaml.safe_load((directory / "config.yaml").read_bytes())
        status = json.loads((directory / "status.json").read_bytes())
        rows = read_metrics(directory)
        saved = [step_of(path) for path in checkpoints(directory)]
        written = datetime.fromtimestamp((directory / "metrics.jsonl").stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M")
        whole = {"status", "sources_digest"} <= status.keys()
        whole &= {"task", "seed", "test"} <= config.keys() and isinstance(config["model"], dict)
        whole &= {"name"} <= config["data"].keys() & config["optimizer"].keys()
        whole &= {"steps", "batch_size"} <= config["train"].keys()
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RunError, yaml.YAMLError) as error:
        raise DataError(f"The record {directory} cannot be read: {error}") from error
    if not whole:
        raise DataError(f"The record {directory} is damaged: status.json or config.yaml lacks keys that every run has.")
    if status["status"] == "running" and not is_held(directory):
        status["status"] = "interrupted"
    # Rows are logged every few steps and a checkpoint may lie between two; an interrupted run resumes from it.
    logged = [int(row["step"]) for row in rows] if status["status"] != "interrupted" else []
    step = max([*saved, *logged], default=0)
    return ShownRun(directory.name, config, rows, status, f"run-{directory.name}", step=step, written=written)


def replicate_place(a: str, replicate: int) -> str:
    """The id of the table row for a replicate of optimizer ``a`` against the reference."""
    return f"replicate-{a}-{replicate}"


@dataclass(frozen=True)
class PublishedStudy:
    """A study in ``<results>/<task>/<scale>/<experiment>/``."""

    name: str
    """``<task>/<scale>/<experiment>``"""
    summary: Summary
    replicates: list[Replicate]

    @property
    def runs(self) -> list[ShownRun]:
        """The confirm runs; there are too many trials to show each."""
        others = [name for name in self.summary["optimizers"] if name != self.summary["reference"]]
        runs = [(each.number, run) for each in self.replicates for run in each.runs if run.phase == "confirm"]
        return [
            ShownRun(run.run_id, run.plain, run.rows, json.loads(run.status), place, number)
            for number, run in runs
            for place in [replicate_place(run.optimizer if run.optimizer in others else others[0], number)]
        ]


@dataclass(frozen=True)
class OpenStudy:
    """Runs under ``runs/<task>/`` that belong to no published study, with the same model, data set and sources. A run's
    record does not say which study asked for it, since several may share it.
    """

    name: str
    """``<task>-<8 hex digits>``"""
    title: str
    runs: list[ShownRun]

    @property
    def states(self) -> dict[str, int]:
        """How many runs are in each state."""
        return dict(sorted(Counter(run.status["status"] for run in self.runs).items()))

    @property
    def is_finished(self) -> bool:
        """Whether all of its runs have a result."""
        return not self.states.keys() & set(UNDER_WAY)


def published_studies(results: Path) -> list[PublishedStudy]:
    """Every study under ``results``, sorted by name."""
    studies = []
    for directory in study_folders(results):
        with skipped_if_damaged("Left out"):
            name = directory.relative_to(results).as_posix()
            studies.append(PublishedStudy(name, read_summary(directory), read_replicates(directory)))
    return studies


def open_studies(runs: Path, published: Iterable[PublishedStudy]) -> list[OpenStudy]:
    """The groups of unpublished runs under ``runs``, sorted by name."""
    # A published run that is started over with different sources (FRESH=1) keeps its id, and counts as open again.
    known = {
        (run.run_id, json.loads(run.status)["sources_digest"])
        for study in published
        for replicate in study.replicates
        for run in replicate.runs
    }
    groups: dict[tuple[str, str], list[ShownRun]] = {}
    for path in sorted(runs.glob("*/*/status.json")):
        with skipped_if_damaged("Left out"):
            run = run_of(path.parent)
            if (run.id, run.status["sources_digest"]) not in known:
                sources, _, _ = run.status["sources_digest"].partition("-")
                shared = [run.config["data"]["name"], _model(run.config), sources]
                digest = hashlib.sha256(json.dumps(shared).encode()).hexdigest()
                groups.setdefault((run.config["task"], digest[:8]), []).append(run)
    studies = []
    for (task, digest), group in sorted(groups.items()):
        config = group[0].config
        steps = f"{config['train']['steps']} steps of {config['train']['batch_size']}"
        facts = ", ".join(filter(None, [config["data"]["name"], _model(config), steps]))
        studies.append(OpenStudy(f"{task}-{digest}", f"{task_name(task)}: {facts}", group))
    return studies


def _model(config: dict[str, Any]) -> str:
    return str(config["model"].get("_target_", "")).rpartition(".")[2]


def curve_metrics(runs: Iterable[ShownRun], wanted: Sequence[str] | None = None) -> list[str]:
    """The metrics for which any of the runs has a curve, in page order: all with CURVE_PREFIXES, or those in
    ``wanted``.
    """
    names = dict.fromkeys(name for run in runs for row in run.rows for name in row)
    if wanted is not None:
        return [name for name in dict.fromkeys(wanted) if name in names]
    return [name for prefix in CURVE_PREFIXES for name in names if name.startswith(prefix)]


def columns(rows: Sequence[dict[str, float]], metrics: Iterable[str]) -> dict[str, list[float | None]]:
    """The rows of a run as one list for each axis of AXES and each metric that occurs, None where a row lacks it.

    Only training rows record the training time. The seconds of an evaluation are interpolated linearly between them
    (0 s at step 0), and None after the last one: for an unfinished run they are not yet recorded.
    """
    steps, seconds = [0.0], [0.0]
    for row in rows:
        if "time/train_s" in row:
            steps.append(row["step"])
            seconds.append(row["time/train_s"])
    at_rows = np.interp([row["step"] for row in rows], steps, seconds, right=np.nan)
    return {
        "step": [row["step"] for row in rows],
        "samples": [row["samples"] for row in rows],
        "seconds": [None if np.isnan(value) else _six_digits(value) for value in at_rows],
        **{
            name: [_six_digits(row[name]) if name in row else None for row in rows]
            for name in metrics
            if any(name in row for row in rows)
        },
    }


def _six_digits(value: float) -> float:
    # Finer than a chart can show; all digits would double the size of a page.
    return float(f"{value:.6g}")
