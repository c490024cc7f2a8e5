"""Figures of a study's searches: how quickly each optimizer was tuned, and where its trials and winners lie."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.report.labels import Summary, dimension_label, metric_title, optimizer_name, significant, titled
from experiments.report.style import subject
from experiments.study.replicates import Replicate

SHOWN = 0.75
"""The share of trials that the axis of a scatter plot covers; very bad values would flatten the rest."""
MOST_TICKS = 5


def ease_of_tuning(summary: Summary, colors: Mapping[str, str]) -> Figure:
    """The best validation value after k trials: median over the replicates, with a band for the middle half."""
    figure = Figure(figsize=(7, 3.6))
    axes = figure.subplots()
    drawn = []
    for name, optimizer in summary["optimizers"].items():
        found = np.array(optimizer["best_so_far"], dtype=float)  # [replicates, trials], nan while all have diverged
        trials = np.flatnonzero(np.isfinite(found).all(axis=0))
        if not trials.size:
            axes.plot([], [], color=colors[name], label=f"{optimizer_name(name)}: every trial of a replicate diverged")
            continue
        low, middle, high = np.percentile(found[:, trials], (25, 50, 75), axis=0)
        axes.plot(trials + 1, middle, color=colors[name], label=optimizer_name(name), drawstyle="steps-post")
        axes.fill_between(trials + 1, low, high, color=colors[name], alpha=0.2, linewidth=0, step="post")
        drawn += [low[1:], high[1:]]
    if drawn and (values := np.concatenate(drawn)).size:
        room = 0.05 * np.ptp(values) or 0.05 * abs(values[0]) or 1.0  # a single value has no range
        axes.set_ylim(values.min() - room, values.max() + room)
    for end in itertools.accumulate(summary["stages"][:-1]):
        axes.axvline(end + 0.5, color="#888888", linestyle=":")
    axes.plot([], [], color="#888888", linestyle=":", label="next stage")
    axes.set_xlabel("trials")
    best = f"best {metric_title(summary['validation_metric'])} so far ({summary['validation_better']} is better)"
    axes.set_title(f"{subject(summary)}\n{best}")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def settings_scatter(summary: Summary, replicates: Sequence[Replicate], colors: Mapping[str, str]) -> Figure:
    """The validation value of every trial against each dimension of its search space, one row per optimizer. Diverged
    trials are drawn in a separate band on the worse side.
    """
    spaces = summary["spaces"]
    figure = Figure(figsize=(2.6 * max(map(len, spaces.values())), 2.7 * len(spaces)))
    grid = figure.subplots(len(spaces), max(map(len, spaces.values())), squeeze=False, sharey=True)
    metric, is_lower = summary["validation_metric"], summary["validation_better"] == "lower"
    runs = [run for each in replicates for run in each.runs if run.phase == "search"]
    values = np.array([value for run in runs if (value := run.last(metric)) is not None])
    if not values.size:
        return figure
    winners = [found[-1] for name in spaces for found in summary["optimizers"][name]["best_so_far"]]
    ends = shown_ends(values, [value for value in winners if value is not None], is_lower)
    room = ends[1] - ends[0] or 1.0
    side = 1 if is_lower else -1  # diverged trials lie above, if lower values are better
    best, worst = ends[::side]
    band = sorted((worst + side * 0.08 * room, worst + side * 0.2 * room))
    for row, (name, space) in zip(grid, spaces.items(), strict=True):
        trials = [(run.unit, run.last(metric)) for run in runs if run.optimizer == name]
        optimizer = summary["optimizers"][name]
        found = zip(optimizer["positions"], (best[-1] for best in optimizer["best_so_far"]), strict=True)
        marked = [(position, value) for position, value in found if position and value is not None]
        style: dict[str, Any] = {"color": colors[name], "linestyle": "", "markersize": 4}
        for axes in row[len(space) :]:
            axes.set_visible(False)
        for column, (axes, dimension) in enumerate(zip(row, space, strict=False)):
            axes.axhspan(*band, color="#f3d9d9", label="diverged")
            if known := [(unit[column], value) for unit, value in trials if value is not None]:
                x, y = zip(*known, strict=True)
                axes.plot(x, np.clip(y, *ends), marker=".", alpha=0.5, label="trial (worst at the edge)", **style)
            if lost := [unit[column] for unit, value in trials if value is None]:
                axes.plot(lost, [float(np.mean(band))] * len(lost), marker="x", **style)
            if marked:
                x, y = zip(*((position[column], value) for position, value in marked), strict=True)
                axes.plot(x, y, color="black", marker="*", linestyle="", markersize=7, label="winner of a replicate")
            _label(axes, dimension)
        row[0].set_ylabel(optimizer_name(name))
    grid[0][0].set_ylim(*sorted((best - side * 0.1 * room, worst + side * 0.2 * room)))
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.suptitle(f"{subject(summary)}: {titled(metric, summary['validation_better'])}")
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def shown_ends(values: Sequence[float] | np.ndarray, winners: Sequence[float], is_lower: bool) -> tuple[float, float]:
    """The range that the axis of a scatter plot of trials covers: the best share SHOWN of them, and all winners."""
    low, high = np.quantile(values, (0, SHOWN) if is_lower else (1 - SHOWN, 1)).tolist()
    return min(low, *winners), max(high, *winners)


def position_ticks(space: Mapping[str, Any]) -> dict[float, str]:
    """Tick labels by position in a dimension of a search space: 1, 2 and 5 of every decade if they are few enough,
    otherwise whole decades, or every second one, third one and so on. A space within less gets both of its ends.
    """
    zero, low, high = space["zero"], space["low"], space["high"]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ladders = [[float(f"{first}e{decade}") for decade in decades for first in (1, 2, 5)]]
    ladders += [[float(f"1e{decade}") for decade in decades if decade % every == 0] for every in range(1, len(decades))]
    inside = [[value for value in ladder if low / 1.001 < value < high * 1.001] for ladder in ladders]
    values = next((ladder for ladder in inside if 2 <= len(ladder) <= MOST_TICKS), [low, high])
    at = {zero + (1 - zero) * math.log(value / low, high / low): significant(value) for value in values}
    if not zero:
        return at
    # A label at the low end would overlap that of 0.
    return {zero / 2: "0", **{position: label for position, label in at.items() if position > 1.5 * zero}}


def _label(axes: Axes, space: dict[str, Any]) -> None:
    if space["zero"]:
        axes.axvspan(0, space["zero"], color="#e4e4e4", zorder=0)  # below the band of what diverged
    ticks = position_ticks(space)
    axes.set_xticks(list(ticks), list(ticks.values()), fontsize=8)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(dimension_label(space), fontsize=8)
