"""The page of results/training_step/<device>/: tables from its results.json.

python -m benchmarks.training_page   # rebuilds the pages of all devices
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.page import Results, where_and_with_what
from experiments.harness.provenance import ROOT
from experiments.report.labels import task_name
from experiments.report.tables import markdown_table

OURS, BARE = "this suite", "bare loop"
FOLDER = ROOT / "results/training_step"


def write_page(directory: Path) -> None:
    """Write README.md beside results.json."""
    results = json.loads((directory / "results.json").read_text())
    (directory / "README.md").write_text(page(results))


def times_table(results: Results) -> str:
    """Medians over the rounds, and their range."""
    rows = []
    for task, measured in results["tasks"].items():
        peer = _peer(measured["ms"])
        cells = [_median_and_range(measured["ms"][name], 1) for name in (OURS, BARE, peer)]
        rows.append([task_name(task), str(measured["batch_size"]), *cells[:2], f"{peer}: {cells[2]}"])
    return markdown_table(["step, ms", "batch", OURS, BARE, "its users' loop"], rows)


def speeds_table(results: Results) -> str:
    """Steps a second of this suite as multiples of the others', round by round."""
    rows = []
    for task, measured in results["tasks"].items():
        peer = _peer(measured["ms"])
        against = [
            _median_and_range([theirs / ours for ours, theirs in zip(measured["ms"][OURS], times, strict=True)], 2)
            for times in (measured["ms"][BARE], measured["ms"][peer])
        ]
        rows.append([task_name(task), against[0], f"{peer}: {against[1]}"])
    return markdown_table([f"speed of {OURS} /", BARE, "its users' loop"], rows)


def _peer(times_ms: Results) -> str:
    (name,) = times_ms.keys() - {OURS, BARE}
    return str(name)


def _median_and_range(values: Sequence[float], decimals: int) -> str:
    low, middle, high = (f"{value:.{decimals}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def page(results: Results) -> str:
    """Markdown."""
    return f"""# How long a training step takes: {results["device"]}

Each task's mini experiment, one thread. The loops train the same model on the same data in batches of one size, with
PyTorch's fused AdamW and the same clipping. The bare loop is PyTorch alone (images go through torchvision's transforms
and PyTorch's loader); beside it stands the loop that a task's users run: timm's, open_clip's `train_one_epoch`, the
`Trainer` of transformers, and the training example of diffusers. Only this suite's loop can resume with the same bits,
looks for a NaN in every step and at the optimizer's state in every logged one. Made by `make bench`.

Medians of {results["rounds"]} rounds, in which the loops took turns, with the range of all rounds in brackets.

{times_table(results)}

Above 1 this suite's loop is the faster one.

{speeds_table(results)}

{where_and_with_what(results)}"""


if __name__ == "__main__":
    for measured_file in sorted(FOLDER.glob("*/results.json")):
        write_page(measured_file.parent)
