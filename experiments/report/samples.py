"""Compare generated images of several runs, and plot their distance from real ones over training.

    python -m experiments.report.samples run=runs/diffusion/<run> run=runs/diffusion/<run> out=samples.png

For runs with a samples.png (tasks that evaluate the split "samples"). Sample i has the same noise in every run, so two
columns differ only by their networks.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from experiments.harness.errors import RunError
from experiments.harness.explained import one_sentence
from experiments.harness.record import read_metrics
from experiments.report.style import figure_style, save

COUNT = "samples/num_samples"
BOUNDS = {"_floor": ("real images", ":"), "_noise": ("noise", "--")}
"""Reference distances, by the suffix of their names."""
HEIGHT = 0.6
"""of a row of images, in inches"""


def sampled_steps(rows: Sequence[Mapping[str, float]]) -> list[int]:
    """The steps at which a run generated images, from its rows."""
    return [int(row["step"]) for row in rows if COUNT in row]


def sample_sheets(sheets: Mapping[str, Path], steps: Sequence[int]) -> Figure:
    """The samples.png of each run as one column under its title; a row per step, and one of real images."""
    images, labels = {}, [f"step {step}" for step in steps]
    for title, path in sheets.items():
        with Image.open(path) as image:
            images[title] = np.asarray(image)
            is_last_real = image.info.get("last row") == "real"  # older sheets have none
    if is_last_real:
        labels.append("real")
    height, width, _ = next(iter(images.values())).shape
    row_height = height / len(labels)
    figure = Figure(figsize=(len(images) * HEIGHT * width / row_height + 0.8, HEIGHT * len(labels) + 0.6))
    for axes, (title, sheet) in zip(figure.subplots(1, len(images), squeeze=False)[0], images.items(), strict=True):
        axes.imshow(sheet, interpolation="nearest")
        axes.set_title(title)
        axes.set_xticks([])
        axes.set_yticks([row_height * (place + 0.5) for place in range(len(labels))], labels)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.grid(False)
        axes.label_outer()
    return figure


def sample_distances(
    records: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], titles: Mapping[str, str], colors: Mapping[str, str]
) -> Figure:
    """Each metric of ``titles`` against the step: for each group of runs (given by their rows) the mean and a band of
    one standard deviation, or, if images were generated only once, each run next to its group's mean. The distances of
    real images and of noise are drawn where recorded.
    """
    figure = Figure(figsize=(4.5 * len(titles), 3.6))
    panels = figure.subplots(1, len(titles), squeeze=False)[0]
    for axes, (metric, title) in zip(panels, titles.items(), strict=True):
        for place, (name, group) in enumerate(records.items()):
            measured = [[row for row in rows if metric in row] for rows in group]
            values = np.array([[row[metric] for row in rows] for rows in measured])
            steps, mean = [row["step"] for row in measured[0]], values.mean(0)
            deviation = values.std(0, ddof=1 if len(values) > 1 else 0)
            if len(steps) > 1:
                axes.plot(steps, mean, color=colors[name], marker=".", label=name)
                axes.fill_between(steps, mean - deviation, mean + deviation, color=colors[name], alpha=0.2, linewidth=0)
            else:
                axes.plot([place - 0.15] * len(values), values[:, 0], color=colors[name], marker=".", linestyle="")
                axes.errorbar(place, mean, yerr=deviation, color=colors[name], marker="o", capsize=4, label=name)
        for end, (label, line) in BOUNDS.items():
            if (bound := measured[0][0].get(metric + end)) is not None:
                axes.axhline(bound, color="#555555", linestyle=line)
                axes.annotate(
                    label, (1, bound), (0, 2), ("axes fraction", "data"), "offset points", ha="right", color="#555555"
                )
        if len(steps) > 1:
            axes.set_xlabel("step")
        else:
            axes.set_xticks(range(len(records)), list(records))
            axes.set_xlim(-0.5, len(records))
            axes.set_xlabel(f"after {int(steps[0])} steps")
        axes.set_title(title)
    if len(steps) > 1:
        panels[0].legend()
    return figure


def main(arguments: Sequence[str]) -> None:
    """``arguments`` are one or more ``run=<directory>``, and ``out=<file>``. Raises RunError if a run has no images."""
    runs = [Path(argument.removeprefix("run=")) for argument in arguments if argument.startswith("run=")]
    out = [Path(argument.removeprefix("out=")) for argument in arguments if argument.startswith("out=")]
    if not runs or len(out) != 1 or len(runs) + 1 != len(arguments):
        sys.exit("usage: python -m experiments.report.samples run=<directory> [run=<directory> ...] out=<file>.png")
    for run in runs:
        if not (run / "samples.png").exists():
            raise RunError(f"{run} has no samples.png: it needs a run with train.sample_every and test=true.")
    with figure_style():
        sheets = {run.name: run / "samples.png" for run in runs}
        save(sample_sheets(sheets, sampled_steps(read_metrics(runs[0]))), out[0])


if __name__ == "__main__":
    with one_sentence():
        main(sys.argv[1:])
