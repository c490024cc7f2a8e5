"""Sections of docs/statistics.md that look at the committed studies: what pairing brought, and A/A between seeds."""

from collections.abc import Mapping
from statistics import fmean, median, stdev
from typing import Any

from experiments.report.labels import Summary, metric_title, number, optimizer_name, percent
from experiments.report.tables import markdown_table
from experiments.study.simulation import shares, split_seeds_verdicts

NONE_COMMITTED = "No study is committed yet that could show it; `make reproduce` makes them."


def primary_comparisons(studies: Mapping[str, Summary]) -> list[tuple[str, dict[str, Any]]]:
    """Folder and comparison of everything that has a verdict by an interval."""
    return [
        (folder, comparison)
        for folder, summary in studies.items()
        for comparison in summary["comparisons"]
        if comparison["primary"] and comparison["difference"]
    ]


def pairing_section(studies: Mapping[str, Summary]) -> list[str]:
    """How much smaller pairing made the variance of the difference in each study."""
    rows, ratios = [], []
    for folder, comparison in primary_comparisons(studies):
        a, b, ratio = comparison["a"], comparison["b"], comparison["difference"]["variance_ratio"]
        if ratio is None:
            continue
        ratios.append(ratio)
        pairs = zip(comparison["per_seed"][a], comparison["per_seed"][b], strict=True)
        both = [(x, y) for x, y in pairs if x is not None and y is not None]
        difference_std = stdev(x - y for x, y in both)
        rows.append(
            [
                f"{folder}: {optimizer_name(a)} - {optimizer_name(b)}",
                metric_title(comparison["metric"]),
                str(len(both)),
                *(f"{stdev(side):.3g}" for side in zip(*both, strict=True)),
                f"{difference_std:.3g}",
                number(ratio, 2),
                number(comparison["margin"] / difference_std, 2),
            ]
        )
    if not rows:
        return ["## What pairing brought", NONE_COMMITTED]
    below = sum(ratio < 1 for ratio in ratios)
    answer = (
        f"**Pairing made the variance of the difference {median(ratios):.2f} times smaller in the median of "
        f"{len(ratios)} committed comparisons ({min(ratios):.2f} to {max(ratios):.2f}; in {below} it made it larger).**"
    )
    head = ["study", "metric", "pairs", "SD of the first", "SD of the second", "SD of the paired difference"]
    reading = (
        "The ratio is (variance of the first + variance of the second) / variance of the paired difference; 1 means "
        "that the two runs of a seed have nothing in common. It is itself uncertain with so few seeds. The last column "
        "says where a study stands in the tables by margin above."
    )
    table = markdown_table([*head, "variance ratio", "margin / SD of the difference"], rows)
    return ["## What pairing brought", answer, table, reading]


def identical_seeds_section(studies: Mapping[str, Summary]) -> list[str]:
    """The suite's verdict on committed runs of one optimizer, dealt out to two sides."""
    rows: dict[str, list[str]] = {}  # by label: the reference of several comparisons is one set of runs
    winners = {}
    for folder, comparison in primary_comparisons(studies):
        for side in (comparison["a"], comparison["b"]):
            values = [value for value in comparison["per_seed"][side] if value is not None]
            if len(values) >= 4:
                label = f"{folder}: {optimizer_name(side)}"
                share = shares(split_seeds_verdicts(values, comparison["margin"], comparison["better"]))
                written = [percent(share[name]) for name in ("winner", "tie", "undecided")]
                rows[label] = [label, str(len(values)), f"{stdev(values):.3g}", *written]
                winners[label] = share["winner"]
    title = "## A/A: one optimizer against itself in the committed studies"
    if not rows:
        return [title, NONE_COMMITTED]
    answer = (
        f"**Where the runs of one optimizer are dealt out to two sides of equal size in every possible way, a winner "
        f"is named in {percent(fmean(winners.values()))} % of the splits on average over {len(winners)} sets of runs "
        f"({percent(min(winners.values()))} to {percent(max(winners.values()))} %).**"
    )
    reading = (
        "The sides differ in their seeds only, so that every winner is false. Splits of a few runs share most of them: "
        "the shares of one set scatter far around the 5 % or less of many sets. On the same seed the difference is "
        "exactly 0, which a test of the training loop shows (tests/study/test_study.py)."
    )
    head = ["runs", "seeds", "SD over seeds", "splits: winner, %", "tie, %", "undecided, %"]
    return [title, answer, markdown_table(head, list(rows.values())), reading]
