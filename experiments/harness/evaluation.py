"""Evaluate a run's model: the same numbers whatever the batch size and the number of processes."""

import math
from collections.abc import Set
from typing import Any

import torch
from accelerate.utils import broadcast
from torch import nn

from experiments.harness.accelerator import seed_generators
from experiments.harness.averages import (
    STATISTICS_SAMPLES,
    estimating_statistics,
    evaluation_mode,
    has_modes,
    tracked_layers,
)
from experiments.harness.batches import to_device
from experiments.harness.errors import ConfigError, Diverged
from experiments.harness.seeds import derive_seed
from experiments.harness.session import Session
from experiments.harness.sharding import whole
from experiments.harness.task import Evaluator


def evaluate(session: Session, due: Set[str]) -> None:
    """Run the evaluators whose ``when`` is among those that are ``due``."""
    for split, evaluator in session.task.evaluators.items():
        if evaluator.when in due:
            _evaluate(session, split, evaluator)


def _evaluate(session: Session, split: str, evaluator: Evaluator) -> None:
    """Run an evaluator and write its metrics, its files, and the loss of each example if it has them. Raises Diverged
    if the split's loss, the validation or the primary metric is not finite, ConfigError if a metric is missing.
    """
    study = session.cfg.study
    with evaluation_mode(session.state.optimizer):
        sums = _sums(session, evaluated_model(session), evaluator)
    row = {f"{split}/{name}": value for name, value in evaluator.metrics(sums).items()}
    named = (study.validation_metric, study.primary_metric, *study.secondary_metrics)
    for name in [name for name in named if name.partition("/")[0] == split and name not in row]:
        sentence = f"The study names {name}, which is not among the metrics of this run: {', '.join(row)}."
        if name in (study.validation_metric, study.primary_metric):
            raise ConfigError(sentence)
        session.warn_once(name, sentence)
    for name in (f"{split}/loss", study.validation_metric, study.primary_metric):
        if name in row and not math.isfinite(row[name]):
            raise Diverged(session.state.step, name)
    session.write(row)
    if session.record and evaluator.example_losses:
        session.record.write_example_losses(*evaluator.example_losses(sums))
    if session.record and evaluator.write_files:
        evaluator.write_files(session.directory, session.state.step)


def evaluated_model(session: Session) -> nn.Module:
    """The model that is evaluated: with averaged weights if the run keeps any, and batch norm statistics to match."""
    evaluated = session.state.evaluated()
    averaged = session.state.ema or has_modes(session.state.optimizer)
    if averaged and (layers := tracked_layers(session.state.model)):
        train = session.cfg.train
        with estimating_statistics(evaluated, layers), session.accelerator.autocast():
            for number in range(-(-STATISTICS_SAMPLES // train.micro_batch_size)):
                seed_generators(derive_seed(session.cfg.seed, "statistics", number))
                key = session.dataset.key(*divmod(number, train.batch_size // train.micro_batch_size))
                batch = session.dataset[key]
                session.task.loss(evaluated, to_device(batch, session.accelerator.device))
    return evaluated


def _sums(session: Session, model: nn.Module, evaluator: Evaluator) -> dict[str, Any]:
    """The evaluator's sums over all processes."""
    accelerator = session.accelerator
    if accelerator.num_processes > 1:  # a user's model may have updated them from its own micro-batches
        for buffer in model.buffers():
            broadcast(buffer)
    training = model.training
    model.eval()
    with whole(model), torch.no_grad(), accelerator.autocast():
        sums = evaluator.sums(model, accelerator.process_index, accelerator.num_processes)
    model.train(training)
    return {name: accelerator.reduce(value, "sum").tolist() for name, value in sums.items()}
