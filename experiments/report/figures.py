"""The figures of a study: paired differences, learning curves, its searches, generated images. Equal data give equal
bytes.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.report.labels import (
    Summary,
    deciding,
    differences,
    dimension_label,
    metric_of,
    metric_title,
    optimizer_name,
    pair_name,
    selected,
    significant,
    titled,
)
from experiments.report.samples import sample_distances, sample_sheets, sampled_steps
from experiments.report.style import figure_style, save, subject
from experiments.study.replicates import Replicate

# Okabe and Ito's palette, which colour-blind readers can tell apart. An optimizer has its colour in every figure.
COLORS = {"lion": "#D55E00", "adamw": "#0072B2", "sgd": "#009E73", "adafactor": "#CC79A7"}
SPARE_COLORS = ("#E69F00", "#56B4E9", "#777777")
ON_DARK = {"#0072B2": "#3D9BE0", "#56B4E9": "#B0E0FF", "#777777": "#A0A0A0"}
"""Brighter versions for the dashboard's dark theme; the other colours have enough contrast in both."""
SHOWN = 0.75
"""The share of trials that the axis of a scatter plot covers; very bad values would flatten the rest."""
MOST_TICKS = 5


def draw(directory: Path, summary: Summary, replicates: Sequence[Replicate]) -> list[str]:
    """Write the figures that the study has data for into ``directory``; returns their file names."""
    counting = [each for each in replicates if each.number in summary["replicates"]]
    colors = optimizer_colors(summary["optimizers"])
    with figure_style():
        figures = {}
        for row in deciding(summary):
            if row["difference"]:
                figures[f"paired-differences-{row['a']}-{row['b']}.svg"] = paired_differences(summary, row, colors)
        found = [each[-1:] for optimizer in summary["optimizers"].values() for each in optimizer["best_so_far"]]
        if any(value is not None for best in found for value in best):
            figures["ease-of-tuning.svg"] = ease_of_tuning(summary, colors)
            figures["settings.png"] = settings_scatter(summary, counting, colors)
        figures["learning-curves.svg"] = learning_curves(summary, counting, colors)
        figures |= _sample_figures(directory, summary, counting, colors)
        for name, figure in figures.items():
            save(figure, directory / name)
    return list(figures)


def optimizer_colors(names: Iterable[str]) -> dict[str, str]:
    """A hex colour for each optimizer: its own, or a spare one in the order of ``names``."""
    spare = itertools.cycle(SPARE_COLORS)
    return {name: COLORS[name] if name in COLORS else next(spare) for name in names}


def paired_differences(summary: Summary, comparison: dict[str, Any], colors: dict[str, str]) -> Figure:
    """The difference a - b of every replicate in which both completed, the mean with its 95 % interval, and the
    prediction interval for a new replicate. The margin is drawn behind the mean only: a tie is about the 90 % interval
    of the mean, not about single replicates.
    """
    a, b, difference = comparison["a"], comparison["b"], comparison["difference"]
    points, new = differences(summary, comparison)
    mean, (low, high) = difference["mean"], difference["ci95"]
    figure = Figure(figsize=(7, 3.6))
    axes = figure.subplots()
    points_style: dict[str, Any] = {"color": colors[a], "marker": "o", "linestyle": ""}
    for end in comparison["prediction95"]:
        axes.axhline(end, color="#888888", linestyle="--", linewidth=1)
    axes.plot([], [], color="#888888", linestyle="--", linewidth=1, label="95 % prediction interval for a replicate")
    axes.axhline(0, color="#555555", linewidth=1)
    axes.plot(range(len(points)), list(points.values()), label="replicate", **points_style)
    at = len(points)
    if comparison["margin"] is not None:
        margin = comparison["margin"]
        axes.fill_between(
            [at - 0.4, at + 0.4], -margin, margin, color="#e4e4e4", label="tie: 90 % interval of the mean inside"
        )
        style: dict[str, Any] = {"color": "black", "linewidth": 4, "solid_capstyle": "butt"}  # other caps go beyond it
        axes.plot([at, at], difference["ci90"], label="90 % interval of the mean", **style)
    ends = [[mean - low], [high - mean]]
    axes.errorbar([at], [mean], yerr=ends, color="black", fmt="D", capsize=4, label="mean, 95 % interval")
    if new:
        places = range(at + 1, at + 1 + len(new))
        axes.plot(places, list(new.values()), fillstyle="none", label="reproduction", **points_style)
    axes.set_xticks(range(at + 1 + len(new)), [*map(str, points), "mean", *map(str, new)])
    axes.set_xlabel("replicate")
    of = f"\nin {selected(comparison)} replicates: a run diverged in the others" if selected(comparison) else ""
    metric = titled(comparison["metric"], comparison["better"])
    axes.set_title(f"{subject(summary)}\n{pair_name(comparison)}: {metric}{of}")
    unit = metric_of(comparison["metric"]).difference_unit
    better = f"above 0: {optimizer_name(a if comparison['better'] == 'higher' else b)} is better"
    axes.set_ylabel(f"{unit}, {better}" if unit else better)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def learning_curves(summary: Summary, replicates: Sequence[Replicate], colors: dict[str, str]) -> Figure:
    """Validation metric and training loss of the winners' confirm runs against the step: mean and a band of one
    standard deviation over all of them.
    """
    figure = Figure(figsize=(9, 3.6))
    panels = figure.subplots(1, 2)
    shown = {summary["validation_metric"]: summary["validation_better"], "train/loss": "lower"}
    for axes, (metric, better) in zip(panels, shown.items(), strict=True):
        for name in summary["optimizers"]:
            runs = [run for each in replicates for run in each.of(name, "confirm")]
            curves = np.array([run.curve(metric) for run in runs if not run.diverged])
            label = f"{optimizer_name(name)} ({len(curves)} of {len(runs)} runs)"
            if not curves.size:
                axes.plot([], [], color=colors[name], label=label)
                continue
            steps, values = curves[0, :, 0], curves[:, :, 1]
            mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=1 if len(values) > 1 else 0)
            axes.plot(steps, mean, color=colors[name], label=label)
            axes.fill_between(steps, mean - deviation, mean + deviation, color=colors[name], alpha=0.2, linewidth=0)
        axes.set_xlabel("step")
        axes.set_title(titled(metric, better))
    panels[0].legend()
    figure.suptitle(subject(summary))
    return figure


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


def _sample_figures(
    directory: Path, summary: Summary, replicates: Sequence[Replicate], colors: dict[str, str]
) -> dict[str, Figure]:
    """Images that the confirm runs generated: the first run's images and the distances of all; empty if an optimizer
    has none.
    """
    sheets, records = {}, {}
    for name in summary["optimizers"]:
        sheets[optimizer_name(name)] = directory / "samples" / f"{name}.png"
        runs = [run for each in replicates for run in each.of(name, "confirm") if not run.diverged]
        records[optimizer_name(name)] = [run.rows for run in runs]
    if not (all(sheet.exists() for sheet in sheets.values()) and all(records.values())):
        return {}
    steps = sampled_steps(next(iter(records.values()))[0])
    figures = {"samples.png": sample_sheets(sheets, steps)}
    titles = {row["metric"]: titled(row["metric"], row["better"]) for row in summary["comparisons"]}
    if titles := {metric: title for metric, title in titles.items() if metric.startswith("samples/")}:
        by_name = {optimizer_name(name): color for name, color in colors.items()}
        figures["sample-distances.svg"] = sample_distances(records, titles, by_name)
    for figure in figures.values():
        figure.suptitle(subject(summary))
    return figures
