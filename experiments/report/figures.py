"""The figures of a study: paired differences, learning curves, generated images. Equal data give equal bytes."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.report.labels import (
    Summary,
    deciding,
    differences,
    metric_of,
    optimizer_name,
    pair_name,
    selected,
    titled,
)
from experiments.report.samples import sample_distances, sample_sheets, sampled_steps
from experiments.report.search_figures import ease_of_tuning, settings_scatter
from experiments.report.style import figure_style, save, subject
from experiments.study.replicates import Replicate

# Okabe and Ito's palette, which colour-blind readers can tell apart. An optimizer has its colour in every figure.
COLORS = {"lion": "#D55E00", "adamw": "#0072B2", "sgd": "#009E73", "adafactor": "#CC79A7"}
SPARE_COLORS = ("#E69F00", "#56B4E9", "#777777")
ON_DARK = {"#0072B2": "#3D9BE0", "#56B4E9": "#B0E0FF", "#777777": "#A0A0A0"}
"""Brighter versions for the dashboard's dark theme; the other colours have enough contrast in both."""


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


def _sample_figures(
    directory: Path, summary: Summary, replicates: Sequence[Replicate], colors: dict[str, str]
) -> dict[str, Figure]:
    """Images that the confirm runs generated: the first run's images and the distances of all; empty if an optimizer
    has none.
    """
    sheets = {name: directory / "samples" / f"{name}.png" for name in summary["optimizers"]}
    if not all(sheet.exists() for sheet in sheets.values()):
        return {}
    records = {
        optimizer_name(name): [run.rows for each in replicates for run in each.of(name, "confirm") if not run.diverged]
        for name in sheets
    }
    if not all(records.values()):
        return {}
    steps = sampled_steps(next(iter(records.values()))[0])
    figures = {"samples.png": sample_sheets({optimizer_name(name): sheet for name, sheet in sheets.items()}, steps)}
    titles = {
        row["metric"]: titled(row["metric"], row["better"])
        for row in summary["comparisons"]
        if row["metric"].startswith("samples/")
    }
    if titles:
        by_name = {optimizer_name(name): color for name, color in colors.items()}
        figures["sample-distances.svg"] = sample_distances(records, titles, by_name)
    for figure in figures.values():
        figure.suptitle(subject(summary))
    return figures
