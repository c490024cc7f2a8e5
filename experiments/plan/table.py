"""A plan, and the tables that show plans."""

from collections.abc import Iterable
from dataclasses import dataclass

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from experiments.harness.config import processes_on_node, runs_a_replicate
from experiments.plan.costs import TrainingMemory
from experiments.plan.utilisation import FAMILIES

LONGEST_LINE = 1_000
"""Characters; far beyond the longest line of a plan."""


@dataclass(frozen=True)
class Plan:
    """The cost of one run, and of the study that it belongs to."""

    cfg: DictConfig
    """of a run of the first contestant"""
    model: str
    parameters: int
    epochs: float | None
    """None if the config does not give the number of training samples"""
    flops_per_step: int
    """forward and backward pass of a global batch; a multiply-add counts as two"""
    tested: dict[str, int]
    """what a run with ``test`` computes besides training, such as sampling: operations over all evaluations, by name"""
    once: dict[str, int]
    """what is computed once and cached for all runs, such as a frozen tower's features: operations per input by name"""
    family: str
    """of the model, in utilisation.py"""
    minutes: int | None
    """of one replicate on two idle CPU cores; None if they are not known"""
    claim: str
    """the paper's claim about the two, and how many pairs would show it; empty if the paper makes none"""
    state_bytes: dict[str, int]
    """by optimizer"""
    checkpoint_bytes: dict[str, int]
    """by optimizer"""

    @property
    def samples(self) -> int:
        """Training samples of one run, counting repetitions."""
        return int(self.cfg.train.steps * self.cfg.train.batch_size)

    @property
    def replicates(self) -> int:
        """Of the study."""
        return max(1, self.cfg.study.replicates)

    @property
    def trials(self) -> int:
        """Per optimizer in each replicate."""
        return sum(self.cfg.study.stages)

    @property
    def runs(self) -> int:
        """In all replicates, search trials included."""
        return self.replicates * runs_a_replicate(self.cfg.study, len(self.state_bytes))

    @property
    def run_flops(self) -> int:
        """Floating point operations of one run's training."""
        return int(self.cfg.train.steps * self.flops_per_step)

    @property
    def study_flops(self) -> int:
        """Those of all runs. Search trials are not tested; runs of other lengths count as runs of this one."""
        tested_runs = self.runs - self.replicates * self.trials * len(self.state_bytes)
        return self.runs * self.run_flops + tested_runs * sum(self.tested.values())

    def hours(self, flops: float) -> float:
        """GPU-hours of an H100, at the utilisation assumed for the model's family."""
        return flops / FAMILIES[self.family].flops / 3600


def show(planned: Plan, used: TrainingMemory) -> Table:
    """The plan as two columns."""
    table = Table(show_header=False, box=None)
    assumed, train, run = FAMILIES[planned.family], planned.cfg.train, planned.cfg.run
    on_gpu, gpus = run.device != "cpu", processes_on_node(run.gpus) * run.nodes

    def cost(flops: int, more: str = "") -> str:
        return f"{flops:.3g}" + on_gpu * f" ({hours_words(planned.hours(flops))}{more})"

    several = (gpus > 1) * f", on {gpus} {hours_words(planned.hours(planned.run_flops) / gpus)}"
    rows: list[tuple[str, str]] = [
        ("model", planned.model),
        ("parameters", f"{planned.parameters / 1e6:.2f} M"),
        ("steps", f"{train.steps:,} of {train.batch_size:,} samples"),
        ("samples", f"{planned.samples:,}" + (f" ({planned.epochs:.1f} epochs)" if planned.epochs else "")),
        ("FLOPs per step", f"{planned.flops_per_step:.3g}"),
        ("FLOPs per run", cost(planned.run_flops, several)),
        *((f"FLOPs of {name}, per run", cost(flops)) for name, flops in planned.tested.items()),
        *(
            (f"FLOPs of {name}, once", f"per million inputs {cost(10**6 * flops)}")
            for name, flops in planned.once.items()
        ),
        ("runs", f"{planned.runs}: {runs_words(planned)}"),
        ("FLOPs of all runs", cost(planned.study_flops)),
        *(
            [("hours of an H100", f"assuming {assumed.share:.2g} of its peak ({planned.family}; {assumed.source})")]
            if on_gpu
            else []
        ),
        *([("time on two CPU cores", time_words(planned, planned.minutes))] if planned.minutes else []),
        *([("the paper's claim", planned.claim)] if planned.claim else []),
        ("weights, gradients", per_gpu(8 * planned.parameters, run.shards)),
        *((f"state of {name}", per_gpu(size, run.shards)) for name, size in planned.state_bytes.items()),
        ("kept for the backward pass", f"{mebibytes(used.saved)} per micro-batch"),
        *((f"peak with {name}", peak_words(used, name) + on_gpu * ", on a GPU") for name in used.peak),
        *([("runs on a GPU of 80 GB", str(used.runs))] if on_gpu else []),
        *(
            (f"checkpoint with {name}", disk_words(size, run.keep_checkpoints))
            for name, size in planned.checkpoint_bytes.items()
        ),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def time_words(planned: Plan, minutes: int) -> str:
    """``15 minutes per replicate, 20 s per run (two at a time), 2.0 h in all``."""
    seconds = 2 * 60 * minutes / (planned.runs / planned.replicates)
    hours = planned.replicates * minutes / 60
    return f"{minutes} minutes per replicate, {seconds:.0f} s per run (two at a time), {hours:.1f} h in all"


def hours_words(hours: float) -> str:
    """``0.021 h``, or ``1,234 h``."""
    return f"{hours:.2g} h" if hours < 9.5 else f"{hours:,.0f} h"


def peak_words(used: TrainingMemory, optimizer: str) -> str:
    """The larger of the peaks of training and evaluation, and the other."""
    training, evaluation = used.peak[optimizer], used.evaluation[optimizer]
    if evaluation > training:
        return f"{mebibytes(evaluation)} in evaluation, {mebibytes(training)} in training"
    return f"{mebibytes(training)} in training, {mebibytes(evaluation)} in evaluation"


def disk_words(checkpoint: int, kept: int) -> str:
    """``12 MiB, 24 MiB on disk per run (36 MiB while one is written)``."""
    sizes = (mebibytes(each * checkpoint) for each in (1, kept, kept + 1))
    return "{}, {} on disk per run ({} while one is written)".format(*sizes)


def per_gpu(count: int, shards: int) -> str:
    """The share of one GPU in these bytes: ``0.47 MiB``, or ``0.24 MiB on each of 2 GPUs``."""
    return mebibytes(count) if shards == 1 else f"{mebibytes(-(-count // shards))} on each of {shards} GPUs"


def mebibytes(count: int) -> str:
    """Bytes as MiB, with two digits below 10: ``0.47 MiB``."""
    mebi = count / 2**20
    return f"{mebi:.2g} MiB" if mebi < 9.5 else f"{mebi:,.0f} MiB"


def runs_words(planned: Plan) -> str:
    """The composition of a study's runs."""
    *first, last = planned.state_bytes
    names = f"{', '.join(first)} and {last}" if first else last
    others = planned.runs // planned.replicates - planned.trials * len(planned.state_bytes)
    if not planned.trials:
        return f"{planned.replicates} replicates of {others} ({names})"
    return f"{planned.replicates} replicates of {planned.trials} trials each of {names}, and {others} on fresh seeds"


def show_cells(plans: Iterable[tuple[str, Plan]]) -> Table:
    """The plans of the paper's cells, by name, one per row."""
    title = "The paper's cells; hours of an H100, assuming a share of its peak"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, min_width=len(title))
    table.add_column("CELL=", no_wrap=True, overflow="fold")
    # In two lines, so that the table fits into a terminal of 80 characters; in a narrower one, a number is continued
    # on the next line rather than cut.
    for column in ("M\nparameters", "steps", "batch", "of\npeak", "h per\nrun", "runs", "h in\ntotal"):
        table.add_column(column, justify="right", overflow="fold")
    for name, planned in plans:
        per_run = planned.run_flops + sum(planned.tested.values())  # no cell of the paper is searched
        train = planned.cfg.train
        size = f"{planned.parameters / 1e6:,.1f}", f"{train.steps:,}", f"{train.batch_size:,}"
        hours = f"{planned.hours(per_run):,.1f}", str(planned.runs), f"{planned.hours(planned.study_flops):,.0f}"
        table.add_row(name, *size, f"{FAMILIES[planned.family].share:.2g}", *hours)
    return table


def print_table(table: Table) -> None:
    """Print a table within a terminal's width; into a file or a pipe, which have none, every row as one line."""
    console = Console()
    if console.is_terminal:
        console.print(table)
        return
    console.width = console.measure(table, options=console.options.update(max_width=LONGEST_LINE)).maximum
    with console.capture() as drawn:
        console.print(table)
    for line in drawn.get().splitlines():
        print(line.rstrip())
