"""Estimate what an experiment would cost, without its data and without a GPU.

    python -m experiments.plan image_classification experiment=image_classification/vit_b16_aug scale=paper

The contestants are the experiment's own, or those of ``optimizer=lion,lion_8bit,adamw``.

The estimate covers model, parameters, samples, floating point operations, hours, memory, and checkpoints. With
``experiment=image_classification/paper``, it is a table of all of the paper's cells. A task supports this through its
module ``models``: ``meta_model(cfg)`` returns its model on the meta device, and ``meta_loss(model, cfg, samples)`` the
loss of that many samples on the model's device. Optional are ``samples_per_epoch(cfg)``, the number of training
samples, or None if this config does not give it; ``besides_training(cfg)``, a list of Passes (harness/task.py); and
``meta_evaluation(model, cfg)``, the forward pass of an evaluator's batch; without it, evaluation is assumed to need the
forward pass of a micro-batch.

Not counted: the losses of held-out data and the networks that judge samples, which are a few per cent of training.
"""

import importlib
from functools import partial
from importlib.util import find_spec
from types import ModuleType

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from experiments.harness.composition import composed, configs_of
from experiments.harness.config import resolved, typed
from experiments.harness.errors import ConfigError
from experiments.harness.explained import cells
from experiments.harness.metric import is_percent
from experiments.harness.run import check_whole
from experiments.harness.source_code import ROOT, task_package
from experiments.plan.costs import (
    TrainingMemory,
    forward_operations,
    optimizer_bytes,
    training_memory,
    training_operations,
)
from experiments.plan.table import Plan, print_table, show, show_cells
from experiments.plan.utilisation import family_of
from experiments.study.paper import claim_of, paper_cell
from experiments.study.statistics import pairs_needed
from experiments.study.sweep import split_sweep


def plan(task: str, overrides: list[str]) -> Plan:
    """The cost of the experiment that ``overrides`` describe: those of a study's command line. Its contestants are
    those of an ``optimizer=lion,lion_8bit`` or else the experiment's own, and study.reference.
    """
    meta = _meta(task)
    named, others = _split(overrides)
    declared = composed(task, others).study
    names = [*dict.fromkeys([*(named or declared.contestants), declared.reference])]
    contestants = {name: composed(task, [*others, f"optimizer={name}"]) for name in names}
    for contestant in contestants.values():
        check_whole(resolved(contestant))
    cfg = contestants[names[0]]
    own = typed(cfg)
    model = meta.meta_model(own)
    samples = 2  # batch norm needs more than one
    averages = cfg.train.ema_decay is not None
    sizes = {name: optimizer_bytes(model, each.optimizer, averages) for name, each in contestants.items()}
    flops, convolutions = training_operations(model, lambda: meta.meta_loss(model, own, samples))
    passes = meta.besides_training(own) if hasattr(meta, "besides_training") else []
    per_sample = {
        each.name: forward_operations(model, partial(each.forward, model, samples)) // samples for each in passes
    }
    epoch = meta.samples_per_epoch(own) if hasattr(meta, "samples_per_epoch") else None
    return Plan(
        cfg=cfg,
        model=str(cfg.model.get("model_name") or cfg.model.get("_target_") or type(model).__name__),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        epochs=cfg.train.steps * cfg.train.batch_size / epoch if epoch else None,
        flops_per_step=flops // samples * cfg.train.batch_size,
        tested={each.name: each.count * per_sample[each.name] for each in passes if each.count is not None},
        once={each.name: per_sample[each.name] for each in passes if each.count is None and per_sample[each.name]},
        family=family_of(model, convolutions),
        minutes=cfg.run.minutes if all(each.startswith(("experiment=", "scale=")) for each in overrides) else None,
        claim=claim_words(cfg) if "lion" in names else "",
        state_bytes={name: state for name, (state, _) in sizes.items()},
        checkpoint_bytes={name: checkpoint for name, (_, checkpoint) in sizes.items()},
    )


def _split(overrides: list[str]) -> tuple[list[str], list[str]]:
    """The contestants that the overrides name, if any, and the other overrides."""
    of_optimizer = [override for override in overrides if override.partition("=")[0] == "optimizer"]
    contestants, _ = split_sweep(OverridesParser.create().parse_overrides(of_optimizer))
    return contestants, [override for override in overrides if override not in of_optimizer]


def memory(task: str, overrides: list[str], planned: Plan) -> TrainingMemory:
    """The memory that the runs of this plan take on a GPU."""
    meta = _meta(task)
    cfg = typed(composed(task, _split(overrides)[1]))
    evaluation = getattr(
        meta, "meta_evaluation", lambda model, cfg: meta.meta_loss(model, cfg, cfg.train.micro_batch_size)
    )
    return training_memory(cfg, meta.meta_model(cfg), meta.meta_loss, evaluation, planned.state_bytes)


def _meta(task: str) -> ModuleType:
    name = f"{task_package(task)}.models"
    module = importlib.import_module(name) if find_spec(name) else None
    if module is None or not hasattr(module, "meta_loss"):
        raise ConfigError(
            f"A plan of {task} needs a module {name} with meta_model and meta_loss; "
            "experiments/image_classification/models.py is an example."
        )
    return module


def claim_words(cfg: DictConfig) -> str:
    """The paper's claim, and the pairs needed to show it for several spreads of their differences, not yet known."""
    metric = cfg.study.primary_metric
    published = paper_cell(cfg.study.paper, metric) if cfg.study.paper else None
    if published is None or not {"lion", cfg.study.reference} <= published.values.keys():
        return ""
    values = published.values
    claimed = values["lion"] - values[cfg.study.reference]
    in_percent = is_percent(cfg.task, metric)
    if claim_of(published, "lion", cfg.study.reference, None, percent=in_percent, margin=None).kind == "tie":
        return f"{claimed:+.3g} in {metric} ({published.source}), no more than its precision or noise: a tie"
    spreads = ", ".join(f"{pairs_needed(1, share)} at {abs(claimed) * share:.2g}" for share in (0.5, 1, 2))
    return f"{claimed:+.3g} in {metric} ({published.source}); pairs needed, by their standard deviation: {spreads}"


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
        print_table(show(planned, memory(task, overrides, planned)))
    else:
        others = [override for override in overrides if override not in given]
        files = cells(sorted((ROOT / "conf/experiment" / task).glob("*.yaml")))
        plans = ((file.stem, plan(task, [*others, f"experiment={task}/{file.stem}"])) for file in files)
        print_table(show_cells(plans))
