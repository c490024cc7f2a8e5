"""Names and numbers as a reader sees them: optimizers, tasks, and metrics as their declarations have them."""

from typing import Any

from experiments.harness.metric import Metric, all_metrics, find

Summary = dict[str, Any]
"""The content of a study's summary.json"""

MISSING = "n/a"

OPTIMIZERS = {
    "lion": "Lion",
    "adamw": "AdamW",
    "nadam": "NAdam",
    "radam": "RAdam",
    "amsgrad": "AMSGrad",
    "adabelief": "AdaBelief",
    "adafactor": "Adafactor",
    "sgd": "SGD",
    "signum_b9": "Signum, β 0.9",
    "signum_b99": "Signum, β 0.99",
    "cautious_lion": "Cautious Lion",
}
TASKS = {"lit": "LiT", "finetuning": "fine-tuning"}


SPLITS = {"samples": "sample", "val": "validation", "test": "test", "train": "training", "flatness": "final"}


def optimizer_name(name: str) -> str:
    """``adamw`` -> ``AdamW``; an optimizer that is not listed keeps its own name."""
    return OPTIMIZERS.get(name, name)


def verdict_name(summary: Summary, comparison: dict[str, Any]) -> str:
    """``AdamW``, ``tie``, ``undecided``; ``tie (exploratory)`` after a look at the results that was not declared."""
    if comparison["verdict"] is None:
        return MISSING
    return optimizer_name(comparison["verdict"]) + (" (exploratory)" if summary["looks"]["exploratory"] else "")


def task_name(task: str) -> str:
    """``image_classification`` -> ``image classification``; ``lit`` -> ``LiT``."""
    return TASKS.get(task, task.replace("_", " "))


def metric_of(name: str) -> Metric:
    """How ``test/top1`` is written; one that no task declares, under its recorded name."""
    found = find(all_metrics(), name)
    return found[0] if found else Metric(name.rpartition("/")[2], "lower")  # its direction is asked of none


def metric_label(name: str) -> str:
    """``test/top1`` -> ``test top-1 accuracy``."""
    split = name.partition("/")[0]
    return f"{SPLITS.get(split, split)} {metric_of(name).label}"


def metric_title(name: str) -> str:
    """``test/top1`` -> ``test top-1 accuracy, %``: the head of a column or an axis."""
    unit = metric_of(name).unit
    return f"{metric_label(name)}, {unit}" if unit else metric_label(name)


def number(value: float | None, decimals: int, sign: str = "-") -> str:
    """A decimal number; ``sign="+"`` writes the plus too."""
    if value is None:
        return MISSING
    # The rounded value decides, so that -0.001 does not become -0.00.
    return f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"


def percent(share: float) -> str:
    """``0.0512`` -> ``5.1``."""
    return number(100 * share, 1)


def amount(difference: float | None, metric: str) -> str:
    """A difference in a metric with its unit: ``-1.91 points``."""
    written = metric_of(metric)
    return f"{number(difference, written.decimals)} {written.difference_unit}".rstrip()


def interval(ends: tuple[float, float] | None, decimals: int) -> str:
    """``-2.70 to -1.12``."""
    return MISSING if ends is None else f"{number(ends[0], decimals)} to {number(ends[1], decimals)}"


def scientific(value: float | None) -> str:
    """``0.00178`` -> ``1.78e-3``: learning rates, three digits."""
    if value is None:
        return MISSING
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def three_digits(value: float | None) -> str:
    """``0.31623`` -> ``0.316``: weight decays."""
    return MISSING if value is None else f"{value:.3g}"


def probability(p: float | None) -> str:
    """Three decimals, or ``< 0.001``."""
    if p is None:
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def megabytes(count: float | None) -> str:
    """Bytes as MB (10^6 bytes), three decimals."""
    return MISSING if count is None else f"{count / 1e6:,.3f}"


def means(comparison: dict[str, Any]) -> tuple[float | None, float | None]:
    """Means of a and b over the pairs; None for both where no pair is left."""
    if comparison["mean"] is None:
        return None, None
    return comparison["mean"][comparison["a"]], comparison["mean"][comparison["b"]]


def pairs(summary: Summary, comparison: dict[str, Any]) -> str:
    """``7 of 8``: the seeds with which both runs completed."""
    both = zip(comparison["per_seed"][comparison["a"]], comparison["per_seed"][comparison["b"]], strict=True)
    return f"{sum(None not in pair for pair in both)} of {len(summary['seeds'])}"


def mean_difference(comparison: dict[str, Any]) -> float | None:
    """Mean of a - b over the pairs, of which there may be a single one; None where no pair is left."""
    mean_a, mean_b = means(comparison)
    return None if mean_a is None or mean_b is None else mean_a - mean_b
