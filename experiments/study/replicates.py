"""The published replicates of a study: one Parquet file per replicate, one row per run."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from experiments.harness.errors import DataError

Phase = Literal["search", "confirm", "headline", "length"]
"""search: a tuning trial; confirm: the winner on a fresh seed; headline: the trial that is best by
study.headline_metric on a fresh seed, if it is another one; length: the reference's winner at another length"""

METADATA = b"lion_replicate"
COLUMNS = {
    "run_id": pa.string(),
    "optimizer": pa.string(),
    "phase": pa.string(),
    "stage": pa.int16(),
    "trial": pa.int16(),
    "length": pa.float64(),
    "seed": pa.int64(),
    "unit": pa.list_(pa.float64()),
    "config": pa.string(),
    "status": pa.string(),
    "metrics": pa.string(),
    "parameter_groups": pa.string(),
    "example_metric": pa.string(),
    "example_losses": pa.list_(pa.float32()),
}


@dataclass(frozen=True)
class ReplicateRun:
    """One run of a replicate, with everything in its record."""

    run_id: str
    optimizer: str
    phase: Phase
    stage: int
    """of a trial, from 1; otherwise 0"""
    trial: int
    """number of the trial of this optimizer in this replicate, from 1 over all stages; otherwise 0"""
    length: float
    """the run's steps, as a multiple of the experiment's"""
    seed: int
    unit: tuple[float, ...]
    """position of the hyperparameters in the optimizer's search space, each from 0 to 1; empty without a search"""
    config: str
    """JSON: the part of the config that decides the result, whose hash is in ``run_id``"""
    status: str
    """JSON: its status.json"""
    metrics: str
    """its metrics.jsonl, byte for byte"""
    parameter_groups: str
    """JSON: its parameter_groups.json"""
    example_metric: str = ""
    """the metric recorded per test example, as ``test/<name>``, in a confirm run; otherwise empty"""
    example_losses: tuple[float, ...] = ()
    """its value for each example; their mean is the metric"""

    @cached_property
    def plain(self) -> dict[str, Any]:
        """The content of ``config``."""
        plain: dict[str, Any] = json.loads(self.config)
        return plain

    @cached_property
    def rows(self) -> list[dict[str, float]]:
        """The rows of metrics.jsonl."""
        return [json.loads(line) for line in self.metrics.splitlines()]

    @cached_property
    def diverged(self) -> bool:
        """Whether the run diverged; published runs are complete or diverged."""
        return bool(json.loads(self.status)["status"] == "diverged")

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) of every evaluation."""
        return [(int(row["step"]), row[metric]) for row in self.rows if metric in row]

    def last(self, metric: str) -> float | None:
        """The last value; None if the run diverged, or if the value was too large to be written."""
        curve = self.curve(metric)
        return None if self.diverged or not curve else curve[-1][1]


@dataclass(frozen=True)
class Replicate:
    """The searches of all optimizers under one draw of the shared settings, and their winners on fresh seeds."""

    number: int
    environment: Mapping[str, Any]
    """environment.json of its runs: versions, hardware, digest of the sources"""
    nuisance: Mapping[str, Any]
    """what was drawn for this replicate, the same for all optimizers, by config key"""
    runs: tuple[ReplicateRun, ...]

    def of(self, optimizer: str, phase: Phase) -> list[ReplicateRun]:
        """The runs of one optimizer and phase, in the order in which they were requested."""
        return [run for run in self.runs if run.optimizer == optimizer and run.phase == phase]


def replicate_path(directory: Path, number: int) -> Path:
    """The file of a replicate in a study's published folder."""
    return directory / "replicates" / f"{number}.parquet"


def write_replicate(path: Path, replicate: Replicate) -> None:
    """Write the file; equal replicates give equal bytes."""
    columns = {
        name: pa.array([getattr(run, name) for run in replicate.runs], type=kind) for name, kind in COLUMNS.items()
    }
    about = {
        "schema": 2,
        "number": replicate.number,
        "environment": replicate.environment,
        "nuisance": replicate.nuisance,
    }
    table = pa.table(columns).replace_schema_metadata({METADATA: json.dumps(about, sort_keys=True).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd", compression_level=9)


def read_replicate(path: Path) -> Replicate:
    """The replicate in a file. Raises DataError, naming the file, if it is damaged or not a replicate."""
    try:
        table = pq.ParquetFile(path).read()  # read_table imports pandas
        about = json.loads((table.schema.metadata or {})[METADATA])
        rows = table.select(list(COLUMNS)).to_pylist()
        for row in rows:
            row |= {key: tuple(value) for key, value in row.items() if isinstance(value, list)}
        runs = tuple(ReplicateRun(**row) for row in rows)
        return Replicate(about["number"], about["environment"], about["nuisance"], runs)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"The replicate {path} cannot be read: {error}") from error


def replicate_paths(directory: Path) -> list[Path]:
    """The files of all replicates published in a study's folder, sorted by number."""
    paths = [path for path in (directory / "replicates").glob("*.parquet") if re.fullmatch(r"\d+", path.stem)]
    return sorted(paths, key=lambda path: int(path.stem))


def read_replicates(directory: Path) -> list[Replicate]:
    """All replicates published in a study's folder, sorted by number."""
    return [read_replicate(path) for path in replicate_paths(directory)]


def numbers_of(text: str) -> Sequence[int]:
    """``3`` or ``0-3`` as replicate numbers; ValueError for anything else."""
    if not (found := re.fullmatch(r"(\d+)(?:-(\d+))?", text)):
        raise ValueError(f"{text!r} is neither a number nor a range such as 0-3.")
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first:
        raise ValueError(f"{text!r} ends before it begins.")
    return range(first, last + 1)
