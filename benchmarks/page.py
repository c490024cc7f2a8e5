"""The page of results/optimizer_step/<device>/: tables and a figure from its results.json.

python -m benchmarks.page   # rebuilds the pages of all devices
"""

import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.harness.provenance import ROOT
from experiments.report.style import figure_style
from experiments.report.tables import markdown_table

BASELINE = "AdamW, fused"
OURS, ADAMW, PEERS = "#D55E00", "#0072B2", "#666666"
FOLDER = ROOT / "results/optimizer_step"
Results = dict[str, Any]


def write_page(directory: Path) -> None:
    """Write README.md and step-time.png beside results.json."""
    results = json.loads((directory / "results.json").read_text())
    (directory / "README.md").write_text(page(results))
    with figure_style():
        figure(results).savefig(directory / "step-time.png", metadata={"Software": None})


def median_ms(results: Results, model: str, name: str) -> float:
    """Of all steps of a contestant."""
    return statistics.median(results["models"][model]["step_ms"][name])


def times_table(results: Results) -> str:
    """Median, and the middle half of all steps."""
    head = [f"{model}, {measured['parameters'] / 1e6:.1f} M" for model, measured in results["models"].items()]
    rows = []
    for name in results["bytes_per_parameter"]:
        cells = []
        for measured in results["models"].values():
            low, middle, high = statistics.quantiles(measured["step_ms"][name], n=4)
            cells.append(f"{middle:.1f} ({low:.1f} to {high:.1f})")
        rows.append([name, *cells])
    return markdown_table(["step, ms", *head], rows)


def ratios_table(results: Results) -> str:
    """Medians as multiples of BASELINE's, and the memory that a step takes beside its operands."""
    memory_model = results["memory_model"]
    parameter_bytes = 4 * results["models"][memory_model]["parameters"]
    rows = []
    for name, extra_bytes in results["extra_bytes"].items():
        ratios = [median_ms(results, model, name) / median_ms(results, model, BASELINE) for model in results["models"]]
        rows.append([name, *(f"{ratio:.2f}" for ratio in ratios), f"{100 * extra_bytes / parameter_bytes:.1f} %"])
    return markdown_table([f"step / step of {BASELINE}", *results["models"], f"extra memory ({memory_model})"], rows)


def bandwidth_table(results: Results) -> str:
    """The bytes that a step has to move, by its median time, as a share of what a copy moves."""
    rows = []
    for name, bytes_per_parameter in results["bytes_per_parameter"].items():
        cells = []
        for model, measured in results["models"].items():
            gb_per_s = bytes_per_parameter * measured["parameters"] / median_ms(results, model, name) / 1e6
            cells.append(f"{100 * gb_per_s / statistics.median(measured['copy_gb_per_s']):.0f} %")
        rows.append([name, str(bytes_per_parameter), *cells])
    return markdown_table(["share of the copy's bandwidth", "bytes a parameter", *results["models"]], rows)


def page(results: Results) -> str:
    """Markdown."""
    models = results["models"]
    steps = [len(times) for measured in models.values() for times in measured["step_ms"].values()]
    first_s, again_s = results["compile_s"]
    copies = [rate for measured in models.values() for rate in measured["copy_gb_per_s"]]
    copy = f"{statistics.median(copies):.1f} GB/s (the median of all rounds; {min(copies):.1f} to {max(copies):.1f})"
    return f"""# How long an optimizer's step takes: {results["device"]}

This suite's back ends are called Lion. Parameters and gradients are float32, and so is the momentum unless it says
otherwise; weight decay is 0.1. Made by `make bench-optimizer`.

![Median step time of every optimizer over the parameters of every model.](step-time.png)

Medians of {min(steps)} to {max(steps)} steps, in brackets their middle half. All optimizers took turns in
{results["rounds"]} rounds, in one process, with {results["threads"]} threads. No step compiles anything: the
constructor of the fused Lion does, in {1e3 * first_s:.0f} ms, and in later processes takes {1e3 * again_s:.0f} ms.

{times_table(results)}

{ratios_table(results)}

Extra memory is the peak during a step beside parameters, gradients and state, as a share of the parameters.

At the least a step moves 20 bytes a parameter for Lion (read p, g, m; write p, m), 16 with a bfloat16 momentum, and 28
for AdamW. A copy of 1 GiB moved {copy}, reads and writes together.
A CPU reads what a copy overwrites, too, which is not counted here, and a step has read it anyway: on a CPU the limit
lies at 150 % of a copy.

{bandwidth_table(results)}

{where_and_with_what(results)}"""


def where_and_with_what(results: Results) -> str:
    """A benchmark's machine, versions and commit, as the last section of its page."""
    environment = results["environment"]
    hardware = environment["hardware"]
    machine = f"{hardware['cpu']}, {hardware['cpu_count']} cores, {hardware['memory_gib']} GiB, {hardware['system']}"
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    commit = environment["git_sha"][:10] + (" with changes" if environment["git_dirty"] else "")
    return f"""## Where and with what

{machine}. Python {environment["python"]}, {versions}. Commit {commit}.
"""


def figure(results: Results) -> Figure:
    """A panel for each model, a bar for each optimizer."""
    names = list(results["bytes_per_parameter"])[::-1]
    colors = [OURS if name.startswith("Lion") else ADAMW if name.startswith("AdamW") else PEERS for name in names]
    drawn = Figure(figsize=(2 + 2.3 * len(results["models"]), 0.5 + 0.27 * len(names)))
    panels = drawn.subplots(1, len(results["models"]), sharey=True, squeeze=False)[0]
    for axes, model in zip(panels, results["models"], strict=True):
        times = [median_ms(results, model, name) for name in names]
        axes.barh(names, times, color=colors)
        axes.axvline(median_ms(results, model, BASELINE), color=ADAMW, linestyle=":")
        axes.set_title(model)
        axes.set_xlabel("median step, ms")
        axes.grid(axis="y", visible=False)
    return drawn


if __name__ == "__main__":
    for measured in sorted(FOLDER.glob("*/results.json")):
        write_page(measured.parent)
