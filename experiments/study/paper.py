"""The published numbers of results/paper.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from experiments.harness.errors import ConfigError
from experiments.study.statistics import Better


@dataclass(frozen=True)
class PaperCell:
    """One published number for each optimizer; results/paper.yaml explains ``trust`` and the units."""

    values: Mapping[str, float]
    """by optimizer"""
    better: Better
    source: str
    trust: str
    """exact, good, digitised or unverified"""
    uncertainty: float | None = None
    """half width, in the metric's units; digitised values only"""


def paper_cell(path: Path, key: str, metric: str) -> PaperCell | None:
    """What the paper reports for ``metric`` (``top1``, or as a run records it: ``test/top1``) in the cell
    ``key = "<task>.<cell>"`` of the file at ``path``; None where it reports no such metric.

    Raises ConfigError for a cell that the file does not hold.
    """
    cells: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))["cells"]
    task, _, name = key.partition(".")
    if name not in cells.get(task, {}):
        known = ", ".join(f"{task}.{cell}" for cell in cells.get(task, {})) or "its tasks are " + ", ".join(cells)
        raise ConfigError(f"study.paper={key} is no cell of {path.name}: {known}.")
    entry = cells[task][name]["metrics"].get(metric.rpartition("/")[2])
    return PaperCell(**entry) if entry else None
