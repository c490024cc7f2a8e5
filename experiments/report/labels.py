"""Names and numbers as shown to readers: optimizers, tasks, and metrics with their declared labels."""

from collections.abc import Sequence
from typing import Any

from experiments.harness.metric import Metric, all_metrics, find
from experiments.study.in_steps import LEAST_PERCENT
from experiments.study.names import optimizer_name as optimizer_name
from experiments.study.names import significant as significant

Summary = dict[str, Any]
"""The content of a study's summary.json"""

MISSING = "n/a"

NO_P = "\N{EN DASH}"
"""instead of the p of a selection"""

TASKS = {"lit": "LiT", "finetuning": "fine-tuning"}

SPLITS = {"samples": "sample", "val": "validation", "test": "test", "train": "training", "flatness": "final"}


def verdict_name(summary: Summary, comparison: dict[str, Any]) -> str:
    """``AdamW``, ``tie``, ``undecided``, ``withheld``, ``no verdict``; with qualifications in brackets."""
    if not summary["declared"]:
        return f"no verdict: {summary['scale']}"
    if comparison["verdict"] is None:
        return "no verdict"
    notes = ["exploratory"] if comparison["exploratory"] else []
    notes += ["box-limited"] if any(comparison["box_limited"].values()) else []
    return optimizer_name(comparison["verdict"]) + (f" ({', '.join(notes)})" if notes else "")


def verdict_words(verdict: str | None) -> str:
    """A verdict within a sentence: ``a tie``, ``undecided``, ``withheld``, ``no verdict``, ``a win for AdamW``."""
    words = {None: "no verdict", "tie": "a tie", "undecided": "undecided", "withheld": "withheld"}
    return words.get(verdict) or f"a win for {optimizer_name(str(verdict))}"


def too_small(comparison: dict[str, Any]) -> str:
    """How likely it is that a winner's difference is too small to matter: ``is probably`` if it lies within the margin,
    ``may be`` if only the near end of its interval does. Otherwise empty, as without a winner, and for one that won
    because the other's runs diverged.
    """
    margin, difference = comparison["margin"], comparison["difference"]
    if comparison["verdict"] not in (comparison["a"], comparison["b"]) or any(comparison["diverged"].values()):
        return ""
    if margin is None or min(map(abs, difference["ci95"])) >= margin:
        return ""
    return "is probably" if abs(difference["mean"]) < margin else "may be"


def pair_name(comparison: dict[str, Any]) -> str:
    """``Lion - AdamW``."""
    return " - ".join(optimizer_name(comparison[side]) for side in "ab")


def dimension_label(space: dict[str, Any]) -> str:
    """The label of one dimension of a search space, from its entry in study.json."""
    name = str(space["name"])
    labels = {"rate": "peak learning rate", "memory": f"memory of {name.replace('betas', 'beta')}, steps"}
    return {**labels, "decay": "decay over the run"}.get(space["kind"], name)


def task_name(task: str) -> str:
    """``image_classification`` -> ``image classification``; ``lit`` -> ``LiT``; a user's own package, whose name has a
    dot, stays as it is.
    """
    return TASKS.get(task, task if "." in task else task.replace("_", " "))


def metric_of(name: str) -> Metric:
    """The declaration of ``test/top1``; a metric that no task declares keeps its recorded name."""
    if name == "flatness/increase":  # derived from what runs record (experiments/study/comparison.py)
        return Metric("increase of the training loss under weight noise", "lower")
    # Nobody asks for the direction of an undeclared one.
    return find(all_metrics(), name) or Metric(name.rpartition("/")[2], "lower")


def metric_label(name: str) -> str:
    """``test/top1`` -> ``test top-1 accuracy``."""
    split = name.partition("/")[0]
    return f"{SPLITS.get(split, split)} {metric_of(name).label}"


def metric_title(name: str) -> str:
    """``test/top1`` -> ``test top-1 accuracy, %``: the label of a column or an axis."""
    unit = metric_of(name).unit
    return f"{metric_label(name)}, {unit}" if unit else metric_label(name)


def titled(metric: str, better: str) -> str:
    """``test loss (lower is better)``."""
    return f"{metric_title(metric)} ({better} is better)"


def number(value: float | None, decimals: int, sign: str = "-") -> str:
    """A decimal number; ``sign="+"`` also writes a plus."""
    if value is None:
        return MISSING
    # Rounded first, so that -0.001 does not become -0.00.
    return f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"


def percent(share: float) -> str:
    """``0.0512`` -> ``5.1``."""
    return number(100 * share, 1)


def in_metric(value: float | None, metric: str, sign: str = "-") -> str:
    """A value or a difference with as many decimals as the metric is shown with."""
    return number(value, metric_of(metric).decimals, sign)


def amount(difference: float | None, metric: str) -> str:
    """A difference in a metric with its unit: ``-1.91 points``."""
    return f"{in_metric(difference, metric)} {metric_of(metric).difference_unit}".rstrip()


def interval(ends: tuple[float, float] | None, metric: str) -> str:
    """``-2.70 to -1.12``."""
    return MISSING if ends is None else f"{in_metric(ends[0], metric)} to {in_metric(ends[1], metric)}"


def probability(p: float | None) -> str:
    """Three decimals, or ``< 0.001``."""
    if p is None:
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def minutes(count: float) -> str:
    """``15 minutes``, ``1 minute``, ``less than 1 minute``; rounded."""
    whole = round(count)
    return f"{whole} minutes" if whole > 1 else "1 minute" if whole else "less than 1 minute"


def megabytes(count: float | None, decimals: int = 3) -> str:
    """Bytes as MB (10^6 bytes)."""
    return MISSING if count is None else f"{count / 1e6:,.{decimals}f}"


def replicates(summary: Summary, comparison: dict[str, Any]) -> str:
    """``11 of 11``: the number of replicates with a difference, out of those declared."""
    return f"{len(differences(summary, comparison)[0])} of {summary['declared'] or len(summary['replicates'])}"


def ranges(numbers: Sequence[int]) -> str:
    """``0 to 3, 11``, for increasing numbers."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def steps_words(percent: float) -> str:
    """``12 % fewer``, ``0.3 % more``, ``at least 900 % more``."""
    words = f"{abs(percent):.{int(abs(percent) < 1)}f} % {'fewer' if percent >= 0 else 'more'}"
    return f"at least {words}" if percent <= LEAST_PERCENT else words


def steps_interval(ends: Sequence[float]) -> str:
    """``28 % fewer to 77 % more``: from the end with the fewest steps."""
    return " to ".join(map(steps_words, sorted(ends, reverse=True)))


def regime_line(summary: Summary) -> str:
    """``Model: ConvNet, 0.24 M parameters; training: batch 64, 500 steps (0.71 epochs); ...``, without a full stop."""
    line = "; ".join(f"{heading}: {fact}" for heading, fact in summary["regime"].items())
    return line[:1].upper() + line[1:]


def mean_difference(comparison: dict[str, Any]) -> float | None:
    """Mean of a - b over the pairs (one is enough); None if no pair is left."""
    mean = comparison["mean"]
    return mean and mean[comparison["a"]] - mean[comparison["b"]]


def selected(comparison: dict[str, Any]) -> str:
    """``7 of 8`` if a comparison lacks replicates because a run diverged in them; otherwise empty. The numbers of the
    others describe a selection, so a reader must see this wherever they stand.
    """
    pairs = list(zip(*(comparison["per_replicate"][comparison[side]] for side in "ab"), strict=True))
    left = sum(None not in pair for pair in pairs)
    return f"{left} of {len(pairs)}" if left < len(pairs) else ""


def marked(cell: str, comparison: dict[str, Any]) -> str:
    """``in 7 of 8: +0.0015`` for a cell of a selection; other cells, and those without a number, as they are."""
    of = selected(comparison)
    return f"in {of}: {cell}" if of and cell != MISSING else cell


def steps_cell(comparison: dict[str, Any]) -> str:
    """``4 % fewer (8 % fewer to 1 % more)``: the steps that a needs for the same result as b, with the 95 % interval if
    there is one.
    """
    if (steps := comparison["steps_percent"]) is None:
        return MISSING
    within = f" ({steps_interval(steps['ci95'])})" if steps["ci95"] else ""
    return marked(steps_words(steps["mean"]) + within, comparison)


def result_cells(comparison: dict[str, Any]) -> tuple[str, str, str, str]:
    """The means of a and b, their difference and its 95 % interval, without the mark of a selection."""
    metric, mean, difference = (comparison[key] for key in ("metric", "mean", "difference"))
    mean_a, mean_b = (in_metric(mean and mean[comparison[side]], metric) for side in "ab")
    within = interval(difference and difference["ci95"], metric)
    return mean_a, mean_b, in_metric(mean_difference(comparison), metric, "+"), within


def deciding(summary: Summary) -> list[dict[str, Any]]:
    """The comparison by the deciding metric of each optimizer with the reference."""
    return [row for row in summary["comparisons"] if row["primary"]]


def values(summary: Summary, comparison: dict[str, Any]) -> dict[int, tuple[float | None, float | None]]:
    """The values of a and b in each replicate, reproductions last; None where a run diverged."""
    a, b = comparison["a"], comparison["b"]
    pairs = zip(comparison["per_replicate"][a], comparison["per_replicate"][b], strict=True)
    counted = dict(zip(summary["replicates"], pairs, strict=True))
    return counted | {row["replicate"]: (row[a], row[b]) for row in comparison["reproductions"]}


def differences(summary: Summary, comparison: dict[str, Any]) -> tuple[dict[int, float], dict[int, float]]:
    """The difference a - b of each replicate that has one: those that count, and reproductions."""
    found = {n: x - y for n, (x, y) in values(summary, comparison).items() if x is not None and y is not None}
    counted = {n: found.pop(n) for n in summary["replicates"] if n in found}
    return counted, found


def margin_words(summary: Summary, comparison: dict[str, Any]) -> str:
    """``0.0211 nats (what 10 % fewer steps cost)``; empty if nothing can count as a tie."""
    if comparison["margin"] is None:
        return ""
    percent = summary["margin_percent"]
    of_steps = f" (what {percent:g} % fewer steps cost)" if percent is not None else ""
    return f"{amount(comparison['margin'], comparison['metric'])}{of_steps}"


def better_side(row: dict[str, Any]) -> str | None:
    """The optimizer that the 95 % interval of a metric shows to be better; None if the interval contains 0."""
    low, high = row["difference"]["ci95"]
    if low <= 0 <= high:
        return None
    return str(row["a"] if (low > 0) == (row["better"] == "higher") else row["b"])
