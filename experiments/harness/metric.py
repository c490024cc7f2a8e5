"""What a metric is: a task declares each of its metrics once, in the table METRICS of its module ``metrics``.

The table is what a study goes by for the direction and a report for words and digits, so neither can contradict it.
Nothing here imports torch.
"""

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from experiments.harness.sources import ROOT, task_package

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Metric:
    """One metric, by the last part of the name under which runs record it: ``top1`` of ``test/top1``."""

    label: str
    better: Better
    decimals: int = 4
    unit: str = ""
    splits: tuple[str, ...] = ("val", "test")
    """those that it is measured on: the first part of the recorded name"""
    sets: str = ""
    """a key of the config's ``data``: the metric is measured on each set that stands there, and the set's name stands
    before its own (``_top1`` becomes ``cifar100_top1``)"""

    @property
    def difference_unit(self) -> str:
        """Differences of percentages are points."""
        return "points" if self.unit == "%" else self.unit


def percent(label: str, **more: Any) -> Metric:
    """A share of what is right, in percent."""
    return Metric(label, "higher", decimals=2, unit="%", **more)


LOSS = Metric("loss", "lower", splits=("train", "val", "test"))
"""Of every task"""
CALIBRATED_LOSS = Metric("loss at the best temperature", "lower")
"""Of classifiers; the temperature is fitted on the validation split. See experiments/metrics/calibration.py"""
CALIBRATION_ERROR = Metric("calibration error", "lower", decimals=2, unit="%")
FLATNESS = {
    "perturbed_loss": Metric("training loss under weight noise", "lower", splits=("flatness",)),
    "train_loss": Metric("training loss", "lower", splits=("flatness",)),
}
"""Of every run that measures them (``flatness.draws``)"""


def metrics_of(task: str) -> Mapping[str, Metric]:
    """All metrics of a task, ours or a user's own."""
    own: Mapping[str, Metric] = importlib.import_module(f"{task_package(task)}.metrics").METRICS
    return {"loss": LOSS, **FLATNESS, **own}


def worst(task: str, name: str) -> float:
    """What stands for a metric of a run that diverged: infinity, on the side that is worse."""
    declared = find(metrics_of(task), name)
    return -math.inf if declared and declared[0].better == "higher" else math.inf


def find(metrics: Mapping[str, Metric], name: str) -> tuple[Metric, str] | None:
    """The metric that a run records as ``name`` (``test/cifar100_top1``), and the set in its name (``cifar100``), if it
    is measured on sets. None for one that nobody declared.
    """
    last = name.rpartition("/")[2]
    if last in metrics and not metrics[last].sets:
        return metrics[last], ""
    for ending, metric in metrics.items():
        if metric.sets and last.endswith(ending) and last != ending:
            of_set = last.removesuffix(ending)
            return replace(metric, label=f"{of_set} {metric.label}"), of_set
    return None


@cache
def all_metrics() -> Mapping[str, Metric]:
    """Those of all tasks, for reports; no two tasks mean different things by one name."""
    tasks = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/metrics.py"))
    return {name: metric for task in tasks for name, metric in metrics_of(task).items()}
