"""The tables of a study's searches, in Markdown: their spaces and their winners."""

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from experiments.report.labels import MISSING, Summary, dimension_label, optimizer_name, significant
from experiments.report.tables import markdown_table


def spaces_table(summary: Summary) -> str:
    """The search spaces, and where in them the winners lie."""
    rows = []
    for name, optimizer in summary["optimizers"].items():
        for space in summary["spaces"].get(name, []):
            values = [value[space["name"]] for value in optimizer["values"] if value]
            from_zero = "0, " if space["zero"] else ""
            spread = at_edge = MISSING
            if values:
                spread = f"{significant(median(values))} ({significant(min(values))} to {significant(max(values))})"
                at_edge = "**yes: box-limited**" if space["name"] in optimizer["box_limited"] else "no"
            bounds = f"{from_zero}{significant(space['low'])} to {significant(space['high'])}"
            rows.append([optimizer_name(name), dimension_label(space), bounds, spread, at_edge])
    head = ["optimizer", "dimension", "range", "winners: median (lowest to highest)", "many at an edge"]
    return markdown_table(head, rows)


def winners_table(summary: Summary) -> str:
    """The winner of every search."""
    arguments = dict.fromkeys(
        key
        for optimizer in summary["optimizers"].values()
        for settings in optimizer["winners"]
        for key, value in (settings or {}).items()
        if isinstance(value, float | list)
    )
    rows = [
        [str(replicate), *_winner_cells(name, settings, arguments)]
        for name, optimizer in summary["optimizers"].items()
        for replicate, settings in zip(summary["replicates"], optimizer["winners"], strict=False)
    ]
    return markdown_table(["replicate", "optimizer", *arguments], rows)


def _winner_cells(name: str, settings: Mapping[str, Any] | None, arguments: Iterable[str]) -> list[str]:
    who = optimizer_name(name) if settings else f"{optimizer_name(name)}: all trials diverged"
    return [who, *(_argument((settings or {}).get(key)) for key in arguments)]


def _argument(value: Any) -> str:
    if value is None:
        return MISSING
    return ", ".join(f"{each:g}" for each in value) if isinstance(value, list) else f"{value:.4g}"
