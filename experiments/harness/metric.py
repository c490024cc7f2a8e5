"""Declarations of metrics: a task declares each of its metrics once, in the table METRICS of its module ``config``.

Studies take a metric's direction from this table, and reports its label and digits, so they cannot disagree.
Nothing here imports torch.
"""

import importlib
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, get_args

from experiments.harness.errors import ConfigError
from experiments.harness.source_code import our_tasks, task_package

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Metric:
    """One metric. Its key is the last part of its recorded name: ``top1`` for ``test/top1``."""

    label: str
    better: Better
    decimals: int = 4
    unit: str = ""
    splits: tuple[str, ...] = ("val", "test")
    """the splits it is measured on, which are the first part of the recorded name"""
    sets: str = ""
    """a key of the config's ``data``: the metric is measured on each of the sets under that key, and the set's name is
    prepended to its own (``_top1`` becomes ``cifar100_top1``)"""
    of_set: str = ""
    """that set, once ``find`` has found it in a recorded name"""

    def __post_init__(self) -> None:
        if self.better not in get_args(Better):
            raise ConfigError(f"The metric {self.label!r} has better={self.better!r}: it must be higher or lower.")

    @property
    def difference_unit(self) -> str:
        """The unit of a difference: percentages differ by points."""
        return "points" if self.unit == "%" else self.unit


def percent(label: str, **more: Any) -> Metric:
    """A metric in percent for which higher is better."""
    return Metric(label, "higher", decimals=2, unit="%", **more)


LOSS = Metric("loss", "lower", splits=("train", "val", "test"))
"""Every task has it."""
CALIBRATED_LOSS = Metric("loss after temperature scaling", "lower")
"""For classifiers; the temperature is fitted on the validation split. See experiments/metrics/classification.py"""
CALIBRATION_ERROR = Metric("calibration error", "lower", decimals=2, unit="%")
FLATNESS = {
    "perturbed_loss": Metric("training loss under weight noise", "lower", splits=("flatness",)),
    "train_loss": Metric("training loss", "lower", splits=("flatness",)),
}
"""For every run that measures them (``flatness.draws``)"""


def metrics_of(task: str) -> Mapping[str, Metric]:
    """All metrics of a task, ours or a user's own."""
    own: Mapping[str, Metric] = importlib.import_module(f"{task_package(task)}.config").METRICS
    shared = {"loss": LOSS, **FLATNESS}
    if twice := sorted(shared.keys() & own.keys()):
        raise ConfigError(f"METRICS of the task {task} redefines {twice[0]}, which every task has: leave it out.")
    return {**shared, **own}


def worst(task: str, name: str) -> float:
    """The value that represents a metric of a diverged run: infinity or minus infinity, whichever is worse."""
    declared = find(metrics_of(task), name)
    return -math.inf if declared and declared.better == "higher" else math.inf


def is_percent(task: str, name: str) -> bool:
    """Whether a task declares a metric, and in percent."""
    declared = find(metrics_of(task), name)
    return declared is not None and declared.unit == "%"


def find(metrics: Mapping[str, Metric], name: str) -> Metric | None:
    """The metric recorded as ``name`` (``test/cifar100_top1``); None if it is not declared."""
    last = name.rpartition("/")[2]
    if last in metrics and not metrics[last].sets:
        return metrics[last]
    for ending, metric in metrics.items():
        if metric.sets and last.endswith(ending) and last != ending:
            of_set = last.removesuffix(ending)
            return replace(metric, label=f"{of_set} {metric.label}", of_set=of_set)
    return None


@cache
def all_metrics() -> dict[str, Metric]:
    """The metrics of all our tasks, for reports; no name means different things in two tasks."""
    return {name: metric for task in our_tasks() for name, metric in metrics_of(task).items()}


def know_metrics_of(task: str) -> None:
    """Add the metrics of a user's own task to those that reports know, if its package can be imported."""
    if task not in our_tasks():
        with suppress(ModuleNotFoundError):
            for name, metric in metrics_of(task).items():
                all_metrics().setdefault(name, metric)
