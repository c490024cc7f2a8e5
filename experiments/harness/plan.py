"""Estimate what an experiment would cost, without its data and without a GPU.

    python -m experiments.harness.plan image_classification experiment=image_classification/vit_b16_aug scale=paper

The estimate covers model, parameters, samples, floating point operations, hours, memory, and checkpoints. With
``experiment=image_classification/paper``, the name of a scale, it is a table of all of the paper's cells. A task
supports this through its module ``models``: ``meta_model(cfg)`` returns its model on the meta device,
``meta_loss(model, cfg, samples)`` the loss of that many samples on the model's device, and ``samples_per_epoch(cfg)``
is None if the config does not say. Optional are ``besides_training(cfg)``, a list of Passes (passes.py), and
``meta_evaluation(model, cfg)``, the forward pass of an evaluator's batch; without it, evaluation is taken to need a
forward pass of a micro-batch.

Not counted: the losses of held-out data and the networks that judge samples, which are a few per cent of training.
"""

import importlib
import sys
from dataclasses import dataclass
from functools import partial
from types import ModuleType

from hydra.errors import HydraException
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from experiments.harness.config import check, composed, configs_of, processes_on_node, resolved, runs_a_replicate, typed
from experiments.harness.costs import forward_operations, optimizer_bytes, training_operations
from experiments.harness.errors import ConfigError, SuiteError
from experiments.harness.explained import cells, explained
from experiments.harness.memory import TrainingMemory, training_memory
from experiments.harness.metric import find, metrics_of
from experiments.harness.sources import ROOT, task_name, task_package
from experiments.harness.utilisation import FAMILIES, family_of


@dataclass(frozen=True)
class Plan:
    """The cost of one run, and of the study that it belongs to."""

    model: str
    parameters: int
    steps: int
    batch_size: int
    epochs: float | None
    """None if the config does not give the number of training samples"""
    flops_per_step: int
    """forward and backward pass of a global batch; a multiply-add counts as two"""
    tested: dict[str, int]
    """what a run that is tested computes besides, such as sampling, in all its evaluations: operations by name"""
    once: dict[str, int]
    """what is computed once and cached for all runs, such as a frozen tower's features: operations per input by name"""
    family: str
    """of the model, in utilisation.py"""
    replicates: int
    trials: int
    """per optimizer in each replicate"""
    runs: int
    """in all replicates of a study of Lion against its reference, search trials included"""
    on_gpu: bool
    """whether its runs use a GPU"""
    gpus: int
    """processes of one run, with a GPU each"""
    share: float
    """of a GPU, that one process has"""
    shards: int
    """over how many of them a model is sharded"""
    minutes: int | None
    """of one replicate on two idle CPU cores; None if they are not known"""
    claim: str
    """the paper's claim about the two, and how many pairs would show it; empty if the paper makes none"""
    state_bytes: dict[str, int]
    """by optimizer"""
    checkpoint_bytes: dict[str, int]
    """by optimizer"""
    kept: int
    """checkpoints of a run"""

    @property
    def samples(self) -> int:
        """Training samples of one run, counting repetitions."""
        return self.steps * self.batch_size

    @property
    def run_flops(self) -> int:
        """Floating point operations of one run's training."""
        return self.steps * self.flops_per_step

    @property
    def study_flops(self) -> int:
        """Those of all runs. Search trials are not tested; runs of other lengths count as runs of this one."""
        tested_runs = self.runs - self.replicates * self.trials * len(self.state_bytes)
        return self.runs * self.run_flops + tested_runs * sum(self.tested.values())

    def hours(self, flops: float) -> float:
        """GPU-hours of an H100, at the utilisation assumed for the model's family."""
        return flops / FAMILIES[self.family].flops / 3600


def plan(task: str, overrides: list[str]) -> Plan:
    """The cost of the experiment that ``overrides`` describe: those of a run's command line, without ``optimizer``."""
    cfg = composed(task, overrides)
    meta = _meta(task)
    contestants = {name: composed(task, [*overrides, f"optimizer={name}"]) for name in ("lion", cfg.study.reference)}
    for contestant in contestants.values():
        check(resolved(contestant))
    own = typed(cfg)
    model = meta.meta_model(own)
    samples = 2  # batch norm needs more than one
    averages = cfg.train.ema_decay is not None
    both = {name: optimizer_bytes(model, each.optimizer, averages) for name, each in contestants.items()}
    flops, convolutions = training_operations(model, lambda: meta.meta_loss(model, own, samples))
    passes = meta.besides_training(own) if hasattr(meta, "besides_training") else []
    per_sample = {
        each.name: forward_operations(model, partial(each.forward, model, samples)) // samples for each in passes
    }
    epoch = meta.samples_per_epoch(own)
    return Plan(
        model=str(cfg.model.get("model_name") or cfg.model.get("_target_") or type(model).__name__),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        steps=cfg.train.steps,
        batch_size=cfg.train.batch_size,
        epochs=cfg.train.steps * cfg.train.batch_size / epoch if epoch else None,
        flops_per_step=flops // samples * cfg.train.batch_size,
        tested={each.name: each.count * per_sample[each.name] for each in passes if each.count is not None},
        once={each.name: per_sample[each.name] for each in passes if each.count is None and per_sample[each.name]},
        family=family_of(model, convolutions),
        replicates=max(1, cfg.study.replicates),
        trials=sum(cfg.study.stages),
        runs=max(1, cfg.study.replicates) * runs_a_replicate(cfg.study, len(contestants)),
        on_gpu=cfg.run.device != "cpu",
        gpus=processes_on_node(cfg.run.gpus) * cfg.run.nodes,
        share=min(1, cfg.run.gpus) or 1,
        shards=cfg.run.shards,
        minutes=cfg.run.minutes if all(each.startswith(("experiment=", "scale=")) for each in overrides) else None,
        claim=claim_words(cfg),
        state_bytes={name: state for name, (state, _) in both.items()},
        checkpoint_bytes={name: checkpoint for name, (_, checkpoint) in both.items()},
        kept=cfg.run.keep_checkpoints,
    )


def memory(task: str, overrides: list[str], planned: Plan) -> TrainingMemory:
    """The memory that the runs of this plan take on a GPU."""
    meta = _meta(task)
    cfg = typed(composed(task, overrides))
    evaluation = getattr(
        meta, "meta_evaluation", lambda model, cfg: meta.meta_loss(model, cfg, cfg.train.micro_batch_size)
    )
    return training_memory(cfg, meta.meta_model(cfg), meta.meta_loss, evaluation, planned.state_bytes)


def _meta(task: str) -> ModuleType:
    name = f"{task_package(task)}.models"
    module = None
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise  # an import inside it failed
    if module is None or not hasattr(module, "meta_loss"):
        raise ConfigError(
            f"A plan of {task} needs a module {name} with meta_model, meta_loss and samples_per_epoch; "
            "experiments/image_classification/models.py is an example."
        )
    return module


def claim_words(cfg: DictConfig) -> str:
    """The paper's claim, and the pairs needed to show it for several spreads of their differences, not yet known."""
    from experiments.study.paper import claim_of, paper_cell  # the only upward import
    from experiments.study.statistics import pairs_needed

    metric = cfg.study.primary_metric
    published = paper_cell(ROOT / "results/paper.yaml", cfg.study.paper, metric) if cfg.study.paper else None
    if published is None or not {"lion", cfg.study.reference} <= published.values.keys():
        return ""
    values = published.values
    claimed = values["lion"] - values[cfg.study.reference]
    declared = find(metrics_of(cfg.task), metric)
    in_percent = declared is not None and declared[0].unit == "%"
    if claim_of(published, "lion", cfg.study.reference, None, percent=in_percent, margin=None).kind == "tie":
        return f"{claimed:+.3g} in {metric} ({published.source}), no more than its precision or noise: a tie"
    spreads = ", ".join(f"{pairs_needed(1, share)} at {abs(claimed) * share:.2g}" for share in (0.5, 1, 2))
    return f"{claimed:+.3g} in {metric} ({published.source}); pairs needed, by their standard deviation: {spreads}"


def show(planned: Plan, used: TrainingMemory) -> Table:
    """The plan as two columns."""
    table = Table(show_header=False, box=None)
    assumed = FAMILIES[planned.family]

    def cost(flops: int, more: str = "") -> str:
        return f"{flops:.3g}" + planned.on_gpu * f" ({hours_words(planned.hours(flops))}{more})"

    several = (planned.gpus > 1) * f", on {planned.gpus} {hours_words(planned.hours(planned.run_flops) / planned.gpus)}"
    rows: list[tuple[str, str]] = [
        ("model", planned.model),
        ("parameters", f"{planned.parameters / 1e6:.2f} M"),
        ("steps", f"{planned.steps:,} of {planned.batch_size:,} samples"),
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
            if planned.on_gpu
            else []
        ),
        *([("time on two CPU cores", time_words(planned, planned.minutes))] if planned.minutes else []),
        *([("the paper's claim", planned.claim)] if planned.claim else []),
        ("weights, gradients", per_gpu(8 * planned.parameters, planned.shards)),
        *((f"state of {name}", per_gpu(size, planned.shards)) for name, size in planned.state_bytes.items()),
        ("kept for the backward pass", f"{mebibytes(used.saved)} per micro-batch"),
        *((f"peak with {name}", peak_words(used, name) + planned.on_gpu * ", on a GPU") for name in used.peak),
        *([("runs on a GPU of 80 GB", str(used.runs))] if planned.on_gpu else []),
        *(
            (f"checkpoint with {name}", disk_words(size, planned.kept))
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
    names = " and ".join(planned.state_bytes)
    others = planned.runs // planned.replicates - planned.trials * len(planned.state_bytes)
    if not planned.trials:
        return f"{planned.replicates} replicates of {others} ({names})"
    return f"{planned.replicates} replicates of {planned.trials} trials each of {names}, and {others} on fresh seeds"


def show_cells(task: str, overrides: list[str]) -> Table:
    """The paper's cells, one per row."""
    table = Table(
        title="The paper's cells; hours of an H100, assuming a share of its peak", title_justify="left", box=None
    )
    table.add_column("CELL=", no_wrap=True)
    for column in ("M parameters", "steps x batch", "of peak", "h per run", "runs", "h in total"):
        table.add_column(column, justify="right")
    for file in cells(sorted((ROOT / "conf/experiment" / task).glob("*.yaml"))):
        planned = plan(task, [*overrides, f"experiment={task}/{file.stem}"])
        per_run = planned.run_flops + sum(planned.tested.values())  # no cell of the paper is searched
        length, share = f"{planned.steps:,} x {planned.batch_size:,}", f"{FAMILIES[planned.family].share:.2g}"
        hours = f"{planned.hours(per_run):,.1f}", str(planned.runs), f"{planned.hours(planned.study_flops):,.0f}"
        table.add_row(file.stem, f"{planned.parameters / 1e6:,.1f}", length, share, *hours)
    return table


def main(task: str, overrides: list[str]) -> None:
    """Print the plan of one experiment, or of all of the paper's cells if ``overrides`` name no existing experiment.

    Raises ConfigError if there is no such task, or if its module ``models`` lacks what a plan needs.
    """
    configs_of(task)
    given = [override for override in overrides if override.startswith("experiment=")]
    is_there = all((ROOT / "conf" / "experiment" / f"{one.partition('=')[2]}.yaml").exists() for one in given)
    scales = [f"{task}/{path.stem}" for path in (ROOT / "conf/scale").glob("*.yaml")]
    if is_there or given[0].partition("=")[2] not in scales:
        planned = plan(task, overrides)
        Console().print(show(planned, memory(task, overrides, planned)))
    else:
        Console().print(show_cells(task, [override for override in overrides if override not in given]))


if __name__ == "__main__":
    if len(sys.argv) < 2 or "=" in sys.argv[1]:
        sys.exit("usage: python -m experiments.harness.plan <task> [key=value ...]")
    try:
        main(task_name(sys.argv[1]), sys.argv[2:])
    except (SuiteError, HydraException) as error:
        print(f"error: {explained(error) if isinstance(error, HydraException) else error}", file=sys.stderr)
        sys.exit(2)
