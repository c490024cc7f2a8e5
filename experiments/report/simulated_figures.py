"""The figures of docs/statistics.md. Equal numbers give equal bytes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from experiments.report.figures import SPARE_COLORS
from experiments.report.style import figure_style

VERDICT_COLORS = {"winner": SPARE_COLORS[0], "undecided": "#dddddd", "tie": SPARE_COLORS[1]}


def draw_verdicts(path: Path, margins: Sequence[float], shares: Mapping[int, Sequence[Mapping[str, float]]]) -> None:
    """What identical optimizers get, by number of pairs: the share of each verdict at each margin."""
    with figure_style():
        figure = Figure(figsize=(9, 3.2))
        panels = figure.subplots(1, len(shares), sharey=True)
        for axes, (n, at_margins) in zip(panels, shares.items(), strict=True):
            heights = [[100 * share[name] for share in at_margins] for name in VERDICT_COLORS]
            axes.stackplot(margins, heights, labels=VERDICT_COLORS, colors=VERDICT_COLORS.values())
            axes.set_xlim(margins[0], margins[-1])
            axes.set_ylim(0, 100)
            axes.set_title(f"{n} pairs")
            axes.set_xlabel("margin / standard deviation")
        panels[0].set_ylabel("% of studies")
        panels[-1].legend(loc="lower right", frameon=True)
        figure.savefig(path, metadata={"Software": None})


def draw_power(path: Path, effects: Sequence[float], power: Mapping[int, Sequence[float]]) -> None:
    """How often a real difference gets its winner, by number of pairs."""
    with figure_style():
        figure = Figure(figsize=(5.5, 3.4))
        axes = figure.subplots()
        for n, shares in power.items():
            axes.plot(effects, [100 * share for share in shares], marker=".", label=f"{n} pairs")
        axes.set_xlabel("true difference / standard deviation")
        axes.set_ylabel("% of studies that name the winner")
        axes.set_ylim(0, 100)
        figure.legend(loc="outside right upper")
        figure.savefig(path, metadata={"Software": None})
