"""Generated images of several runs side by side, and how far they were from real ones during training.

    python -m experiments.report.samples run=runs/diffusion/<run> run=runs/diffusion/<run> out=samples.png

For runs with a samples.png (tasks that evaluate the split "samples"). Sample i has the same noise in every run, so what
differs between two columns is the networks.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from experiments.harness.errors import RunError
from experiments.harness.record import read_metrics
from experiments.report.style import figure_style

COUNT = "samples/num_samples"
BOUNDS = {"_floor": ("real images", ":"), "_noise": ("noise", "--")}
"""Distances that frame the others, by the end of their names."""
HEIGHT = 1.0
"""inches of a row of images"""


def sampled_steps(run: Path) -> list[int]:
    """The steps at which a run generated images."""
    return [int(row["step"]) for row in read_metrics(run) if COUNT in row]


def sample_sheets(runs: Mapping[str, Path]) -> Figure:
    """The samples.png of each run, by its title, in columns; a row for each point of training."""
    steps = sampled_steps(next(iter(runs.values())))
    sheets = {}
    for title, run in runs.items():
        with Image.open(run / "samples.png") as image:
            sheets[title] = np.asarray(image)
    height, width, _ = next(iter(sheets.values())).shape
    row_height = height / len(steps)
    figure = Figure(figsize=(len(sheets) * HEIGHT * width / row_height + 0.8, HEIGHT * len(steps) + 0.4))
    for axes, (title, sheet) in zip(figure.subplots(1, len(sheets), squeeze=False)[0], sheets.items(), strict=True):
        axes.imshow(sheet, interpolation="nearest")
        axes.set_title(title)
        axes.set_xticks([])
        axes.set_yticks([row_height * (place + 0.5) for place in range(len(steps))], [f"step {step}" for step in steps])
        axes.grid(False)
        axes.label_outer()
    return figure


def sample_distances(
    runs: Mapping[str, Sequence[Path]], metrics: Sequence[str], titles: Sequence[str], colors: Mapping[str, str]
) -> Figure:
    """Each of ``metrics`` against the step, of each group of runs its mean and a band of one standard deviation; with
    the distances of real images and of noise where they were recorded.
    """
    figure = Figure(figsize=(4.5 * len(metrics), 3.4))
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric, title in zip(panels, metrics, titles, strict=True):
        for name, group in runs.items():
            records = [[row for row in read_metrics(run) if metric in row] for run in group]
            values = np.array([[row[metric] for row in rows] for rows in records])
            steps, mean = [row["step"] for row in records[0]], values.mean(0)
            deviation = values.std(0, ddof=1 if len(values) > 1 else 0)
            axes.plot(steps, mean, color=colors[name], label=name)
            axes.fill_between(steps, mean - deviation, mean + deviation, color=colors[name], alpha=0.2, linewidth=0)
        for end, (label, line) in BOUNDS.items():
            if metric + end in records[0][0]:
                axes.axhline(records[0][0][metric + end], color="#555555", linestyle=line, label=label)
        axes.set_xlabel("step")
        axes.set_title(title)
    panels[0].legend()
    return figure


def main(arguments: Sequence[str]) -> None:
    """``arguments`` are ``run=<directory>``, once or more, and ``out=<file>``."""
    runs = [Path(argument.removeprefix("run=")) for argument in arguments if argument.startswith("run=")]
    out = [Path(argument.removeprefix("out=")) for argument in arguments if argument.startswith("out=")]
    if not runs or len(out) != 1 or len(runs) + 1 != len(arguments):
        sys.exit("usage: python -m experiments.report.samples run=<directory> [run=<directory> ...] out=<file>.png")
    try:
        for run in runs:
            if not (run / "samples.png").exists():
                raise RunError(f"{run} has no samples.png: it is no run with train.sample_every that was tested.")
        with figure_style():
            sample_sheets({run.name: run for run in runs}).savefig(out[0])
    except RunError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
