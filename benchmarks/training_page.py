"""The page in results/training_step/<device>/: tables of its results.json.

python -m benchmarks.training_page   # rebuild the pages of all devices
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.record import Results, where_and_with_what
from experiments.harness.source_code import ROOT
from experiments.report.labels import task_name
from experiments.report.tables import markdown_table

OURS, BARE = "this suite", "bare loop"
FOLDER = ROOT / "results/training_step"


def write_page(directory: Path) -> None:
    """Write README.md next to results.json."""
    results = json.loads((directory / "results.json").read_text())
    (directory / "README.md").write_text(page(results))


def times_table(results: Results) -> str:
    """Medians over the rounds, with their range."""
    rows = []
    for task, measured in results["tasks"].items():
        peer = _peer(measured["ms"])
        cells = [_median_and_range(measured["ms"][name], 1) for name in (OURS, BARE, peer)]
        rows.append([task_name(task), str(measured["batch_size"]), *cells[:2], f"{peer}: {cells[2]}"])
    return markdown_table(["step, ms", "batch", OURS, BARE, "users' loop"], rows)


def speeds_table(results: Results) -> str:
    """This suite's steps per second as a multiple of the other loops', compared round by round."""
    rows = []
    for task, measured in results["tasks"].items():
        peer = _peer(measured["ms"])
        against = [
            _median_and_range([theirs / ours for ours, theirs in zip(measured["ms"][OURS], times, strict=True)], 2)
            for times in (measured["ms"][BARE], measured["ms"][peer])
        ]
        rows.append([task_name(task), against[0], f"{peer}: {against[1]}"])
    return markdown_table([f"speed of {OURS} /", BARE, "users' loop"], rows)


def _peer(times_ms: Results) -> str:
    (name,) = times_ms.keys() - {OURS, BARE}
    return str(name)


def _median_and_range(values: Sequence[float], decimals: int) -> str:
    low, middle, high = (f"{value:.{decimals}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def page(results: Results) -> str:
    """The page as Markdown."""
    clock = "elapsed times" if results["scale"] == "gpu" else "CPU times, which leave out what other processes take"
    return f"""# How long a training step takes: {results["device"]}

The tasks' `{results["scale"]}` experiments, on one thread. The loops train the same model on the same data with the
same batch size, precision and clipping, using PyTorch's fused AdamW. The bare loop is plain PyTorch (images go through
torchvision's transforms and PyTorch's loader). The users' loop is the one that a task's users would run: timm's,
open_clip's `train_one_epoch`, transformers' `Trainer`, or diffusers' training example. Only this suite's loop can
resume bit for bit, uses deterministic algorithms alone, checks every step for NaN, and inspects the optimizer's state
at every logged step. Made by `make bench`.

Medians of {results["rounds"]} rounds, in which the loops took turns, with the range over all rounds in parentheses;
{clock}.

{times_table(results)}

Above 1, this suite's loop is the faster one.

{speeds_table(results)}

{where_and_with_what(results)}"""


if __name__ == "__main__":
    for measured_file in sorted(FOLDER.glob("*/results.json")):
        write_page(measured_file.parent)
