"""The figures of a study: learning curves, learning-rate sweep, paired differences. Equal data give equal bytes."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.errors import DataError
from experiments.harness.record import read_metrics, read_status
from experiments.report.labels import Summary, metric_label, metric_of, metric_title, optimizer_name
from experiments.report.samples import sample_distances, sample_sheets
from experiments.report.style import figure_style

# Okabe and Ito's palette, which colour-blind readers can tell apart. An optimizer has its colour in every figure.
COLORS = {"lion": "#D55E00", "adamw": "#0072B2", "sgd": "#009E73", "adafactor": "#CC79A7"}
SPARE_COLORS = ("#E69F00", "#56B4E9", "#000000")
MARKERS = {"lion": "o", "adamw": "s"}


def draw(directory: Path, summary: Summary) -> list[str]:
    """Write the figures that the study has data for into ``directory``; returns their file names."""
    with figure_style():
        figures = {}
        if summary["comparisons"]:
            figures["learning-curves.png"] = learning_curves(directory, summary)
        if any(optimizer["trials_table"] for optimizer in summary["optimizers"].values()):
            figures["learning-rate-sweep.png"] = learning_rate_sweep(summary)
        for comparison in summary["comparisons"]:
            if comparison["primary"] and comparison["difference"]:
                name = f"paired-differences-{comparison['a']}-{comparison['b']}.png"
                figures[name] = paired_differences(summary, comparison)
        figures |= _sample_figures(directory, summary)
        for name, figure in figures.items():
            figure.savefig(directory / name, metadata={"Software": None})
    return list(figures)


def optimizer_colors(names: Iterable[str]) -> dict[str, str]:
    """A hex colour for each optimizer: its own, or a spare one in the order of ``names``."""
    spare = itertools.cycle(SPARE_COLORS)
    return {name: COLORS[name] if name in COLORS else next(spare) for name in names}


def _curves(directory: Path, summary: Summary, optimizer: str, metric: str) -> np.ndarray:
    """(step, value) of every complete confirm run: float ``[runs, points, 2]``; no runs where all diverged."""
    curves = []
    for run_id in summary["optimizers"][optimizer]["runs"]["confirm"]:
        status = read_status(directory / "runs" / run_id)
        if status is None:
            raise DataError(f"{directory} has a summary but no record of {run_id}: run the study again.")
        if status["status"] == "complete":
            rows = read_metrics(directory / "runs" / run_id)
            curves.append([(row["step"], row[metric]) for row in rows if metric in row])
    return np.array(curves)


def _sample_figures(directory: Path, summary: Summary) -> dict[str, Figure]:
    """What the optimizers' runs generated: images of their first seed, and the distances of all; none where a run of
    theirs has no images.
    """
    runs = {}
    for name, optimizer in summary["optimizers"].items():
        own = [directory / "runs" / run_id for run_id in optimizer["runs"]["confirm"]]
        complete = [run for run in own if (status := read_status(run)) and status["status"] == "complete"]
        runs[optimizer_name(name)] = [run for run in complete if (run / "samples.png").exists()]
    if not runs or not all(runs.values()):
        return {}
    names = dict.fromkeys(row["metric"] for row in summary["comparisons"] if row["metric"].startswith("samples/"))
    metrics = list(names)
    titles = [metric_title(metric) for metric in metrics]
    colors = {optimizer_name(name): color for name, color in optimizer_colors(summary["optimizers"]).items()}
    figures = {"samples.png": sample_sheets({name: own[0] for name, own in runs.items()})}
    if metrics:
        figures["sample-distances.png"] = sample_distances(runs, metrics, titles, colors)
    return figures


def learning_curves(directory: Path, summary: Summary) -> Figure:
    """Training loss and validation metric against the step: mean over the seeds, band of one standard deviation."""
    figure = Figure(figsize=(9, 3.4))
    panels = figure.subplots(1, 2)
    colors = optimizer_colors(summary["optimizers"])
    for axes, metric in zip(panels, ("train/loss", summary["validation_metric"]), strict=True):
        for name in summary["optimizers"]:
            curves = _curves(directory, summary, name, metric)
            label = f"{optimizer_name(name)} ({len(curves)} of {len(summary['seeds'])} seeds)"
            if not curves.size:
                axes.plot([], [], color=colors[name], label=label)
                continue
            steps, values = curves[0, :, 0], curves[:, :, 1]
            mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=1 if len(values) > 1 else 0)
            axes.plot(steps, mean, color=colors[name], label=label)
            axes.fill_between(steps, mean - deviation, mean + deviation, color=colors[name], alpha=0.2, linewidth=0)
        axes.set_xlabel("step")
        axes.set_title(metric_title(metric))
    panels[0].legend()
    return figure


def learning_rate_sweep(summary: Summary) -> Figure:
    """The validation metric of every tuning trial against its learning rate."""
    figure = Figure(figsize=(5.5, 3.4))
    axes = figure.subplots()
    colors = optimizer_colors(summary["optimizers"])
    for name, optimizer in summary["optimizers"].items():
        by_rate: dict[float, list[float]] = {}
        for trial in sorted(optimizer["trials_table"], key=lambda trial: (trial["lr"], trial["weight_decay"] or 0)):
            by_rate.setdefault(trial["lr"], []).append(np.nan if trial["value"] is None else trial["value"])
        # A column for each weight decay of a learning rate, so a line for each lr * weight_decay of the grid.
        lines = axes.plot(list(by_rate), list(by_rate.values()), color=colors[name], marker=MARKERS.get(name, "^"))
        lines[0].set_label(optimizer_name(name))
    _mark_diverged(axes, summary, colors)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_title(metric_title(summary["validation_metric"]))
    figure.legend(loc="outside lower center", ncols=len(summary["optimizers"]))
    return figure


def _mark_diverged(axes: Axes, summary: Summary, colors: dict[str, str]) -> None:
    """Crosses on the lower edge of the plot, which has no value for them."""
    for name, optimizer in summary["optimizers"].items():
        rates = [trial["lr"] for trial in optimizer["trials_table"] if trial["status"] == "diverged"]
        if rates:
            axes.plot(
                rates,
                [0.03] * len(rates),
                transform=axes.get_xaxis_transform(),
                color=colors[name],
                marker="x",
                linestyle="",
                label=f"{optimizer_name(name)}, diverged",
            )


def paired_differences(summary: Summary, comparison: dict[str, Any]) -> Figure:
    """The difference a - b of every seed with which both completed, and the mean with its 95 % interval."""
    a, b, difference = comparison["a"], comparison["b"], comparison["difference"]
    pairs = zip(summary["seeds"], comparison["per_seed"][a], comparison["per_seed"][b], strict=True)
    points = {seed: x - y for seed, x, y in pairs if x is not None and y is not None}
    low, high = difference["ci95"]
    color = optimizer_colors(summary["optimizers"])[a]
    positions = range(len(points))

    figure = Figure(figsize=(5.5, 3.4))
    axes = figure.subplots()
    axes.axhspan(-comparison["margin"], comparison["margin"], color="#eeeeee", label="margin of a tie")
    axes.axhline(0, color="#555555", linewidth=1)
    axes.plot(positions, list(points.values()), color=color, marker="o", linestyle="", label="one seed")
    axes.errorbar(
        [len(points)],
        [difference["mean"]],
        yerr=[[difference["mean"] - low], [high - difference["mean"]]],
        color="black",
        marker="D",
        capsize=4,
        label="mean, 95 % interval",
    )
    axes.set_xticks([*positions, len(points)], [*map(str, points), "mean"])
    axes.set_xlabel("seed")
    unit = metric_of(comparison["metric"]).difference_unit
    title = f"{optimizer_name(a)} - {optimizer_name(b)}: {metric_label(comparison['metric'])}"
    axes.set_title(f"{title}, {unit}" if unit else title)
    axes.set_ylabel(f"above 0: {optimizer_name(a if comparison['better'] == 'higher' else b)} is better")
    figure.legend(loc="outside lower center", ncols=3)
    return figure
