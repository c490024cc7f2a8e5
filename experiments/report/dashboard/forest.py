"""A forest plot of all studies: each difference in units of its margin, as positions in per cent of the axis width.

On the axis, right means that the first optimizer is better, whether a low or a high value of its metric is better.
Signs could contradict those of the differences, so ticks have none; the texts give each difference as its page does.
"""

import math
from collections.abc import Sequence
from typing import Any

from experiments.report.dashboard.records import PublishedStudy
from experiments.report.figures import optimizer_colors
from experiments.report.labels import (
    Summary,
    amount,
    deciding,
    interval,
    metric_label,
    number,
    optimizer_name,
    pair_name,
    task_name,
    verdict_name,
)
from experiments.study.statistics import sign_of

FARTHEST = 8.0
"""The axis shows at most this many margins to either side; intervals beyond it end at its edge, with an arrow."""
_OTHERS = ("the first", "the second")


def forest(studies: Sequence[PublishedStudy]) -> dict[str, Any]:
    """A row for each optimizer that a study compares with its reference, by the deciding metric. A comparison that
    cannot be placed on the axis says why instead.
    """
    found = [(study, row) for study in studies for row in deciding(study.summary)]
    placed = [ends for _, row in found if isinstance(ends := _in_margins(row), tuple)]
    reach = min(FARTHEST, max([2.5, *(abs(end) for ends in placed for end in ends)]))
    sides = [dict.fromkeys(optimizer_name(row[side]) for _, row in found) for side in "ab"]
    every = 1 if reach < 4 else 2
    last = math.floor(reach / every)
    return {
        "rows": [_row(study, row, reach) for study, row in found],
        "sides": [next(iter(names)) if len(names) == 1 else other for names, other in zip(sides, _OTHERS, strict=True)],
        "ticks": [(str(abs(at)), _place(at, reach)) for at in range(-every * last, every * last + 1, every)],
        "tie": (_place(-1, reach), _place(1, reach)),
    }


def _in_margins(row: dict[str, Any]) -> tuple[float, float, float] | str:
    """Low end, mean and high end, above 0 if the first optimizer is better; or why there are none."""
    if lost := {name: count for name, count in row["diverged"].items() if count}:
        divergences = ", ".join(f"{optimizer_name(name)} in {count}" for name, count in lost.items())
        return f"confirm runs diverged: {divergences} of {len(row['per_replicate'][row['a']])}"
    if row["difference"] is None:
        return "one replicate: no interval"
    if not row["margin"]:
        return "no margin: longer runs are no better"
    sign = sign_of(row["better"])
    low, high = sorted(sign * end / row["margin"] for end in row["difference"]["ci95"])
    return low, sign * row["difference"]["mean"] / row["margin"], high


def _place(value: float, reach: float) -> float:
    return round(50 + 50 * max(-1.0, min(1.0, value / reach)), 2)


def _row(study: PublishedStudy, row: dict[str, Any], reach: float) -> dict[str, Any]:
    summary: Summary = study.summary
    winner = row["verdict"] if row["verdict"] in (row["a"], row["b"]) else None
    shown = {
        "study": study,
        "task": f"{task_name(summary['task'])}, {summary['data']['name']}",
        "pair": pair_name(row),
        "metric": f"{metric_label(row['metric'])}, {row['better']} is better",
        "verdict": verdict_name(summary, row),
        "color": optimizer_colors(summary["optimizers"])[winner] if winner else None,
        "exploratory": row["exploratory"],
    }
    ends = _in_margins(row)
    if isinstance(ends, str):
        return shown | {"why": ends}
    (low, mean, high), difference, metric = ends, row["difference"], row["metric"]
    return shown | {
        "why": None,
        "told": f"{amount(difference['mean'], metric)} ({interval(difference['ci95'], metric)})",
        "hover": f"{number(abs(mean), 1)} margins in favour of {optimizer_name(row['a'] if mean > 0 else row['b'])}; "
        f"the margin is {amount(row['margin'], metric)}",
        "low": _place(low, reach),
        "mean": _place(mean, reach),
        "high": _place(high, reach),
        "beyond": (low < -reach, high > reach),
    }
