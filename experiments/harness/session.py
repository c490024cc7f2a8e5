"""The objects that one process of a run works with: built before its first step, or restored from a checkpoint."""

import importlib
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel

from experiments.harness.accelerator import make_accelerator, seed_generators
from experiments.harness.arithmetic import describe_arithmetic
from experiments.harness.averages import enter_training
from experiments.harness.batch_norm import SharedStatistics
from experiments.harness.batches import MicroBatches
from experiments.harness.checkpoint import TrainingState, drop_checkpoints_after
from experiments.harness.config import Config
from experiments.harness.errors import ConfigError
from experiments.harness.limits import check_shared_evenly
from experiments.harness.optimizer import build_optimizer, decay_groups, scale_initial_weights
from experiments.harness.record import RunRecord
from experiments.harness.run import Run
from experiments.harness.seeds import derive_seed
from experiments.harness.sharding import prepare
from experiments.harness.source_code import task_package
from experiments.harness.task import Task
from experiments.harness.timing import TrainingClock
from experiments.harness.tracking import Tracker

log = logging.getLogger(__name__)


@dataclass
class Session:
    """A run in this process."""

    cfg: Config
    directory: Path
    record: RunRecord | None
    """None except in the main process"""
    tracker: Tracker
    accelerator: Accelerator
    task: Task
    dataset: MicroBatches
    micro_batches: range
    """this process's share of the micro-batches of a step"""
    state: TrainingState
    model: nn.Module
    """the state's, wrapped to compute gradients over all processes"""
    statistics: SharedStatistics
    warned: set[str] = field(default_factory=set)
    """metrics that a warning was about"""

    def warn_once(self, metric: str, sentence: str) -> None:
        """Log a warning, unless there was one about this metric before."""
        if self.record and metric not in self.warned:
            log.warning(sentence)
        self.warned.add(metric)

    def write(self, values: dict[str, float]) -> None:
        """Append a row of metrics to the run's record, and to W&B."""
        if self.record:
            # Metrics that decide about divergence have been checked; other values that overflow are left out.
            finite = {name: value for name, value in values.items() if math.isfinite(value)}
            for name in values.keys() - finite.keys():
                self.warn_once(name, f"{name} is {values[name]} at step {self.state.step}: such values are left out.")
            step = self.state.step
            row = {"step": step, "samples": step * self.cfg.train.batch_size, **finite}
            self.record.append(row)
            self.tracker.log(row)


def set_up(run: Run, record: RunRecord | None, tracker: Tracker) -> Session:
    """Select the device and build everything that a run needs before its first step."""
    cfg = run.cfg
    accelerator = make_accelerator(cfg)
    device, processes = accelerator.device, accelerator.num_processes
    micro_batches = cfg.train.batch_size // cfg.train.micro_batch_size
    check_shared_evenly(micro_batches, processes, f"{processes} processes")  # which a launcher may have started
    mine = range(accelerator.process_index, micro_batches, processes)

    task: Task = importlib.import_module(f"{task_package(cfg.task)}.task").build(cfg, run.data)
    check_evaluators(task, cfg.task)
    seed_generators(derive_seed(cfg.seed, "init"))
    bare_model = task.model()
    scale_initial_weights(bare_model, cfg.train.init_scale)
    described: Any = cfg.model  # a dict, unless the task describes its models by a dataclass
    name = (isinstance(described, dict) and described.get("model_name")) or type(bare_model).__name__
    model = prepare(bare_model, accelerator, cfg.run.shards)
    optimizer = build_optimizer(bare_model, cfg.optimizer)
    ema = AveragedModel(bare_model) if cfg.train.ema_decay is not None else None
    state = TrainingState(bare_model, optimizer, ema, TrainingClock(device))
    if record:
        record.write_parameter_groups(decay_groups(bare_model))
        record.add_environment("arithmetic", **describe_arithmetic(device))
        trained = sum(parameter.numel() for parameter in bare_model.parameters() if parameter.requires_grad)
        record.add_environment("model", name=name, trained_parameters=trained, train_samples=task.num_train)
        if device.type == "cuda":
            record.add_environment("hardware", gpu=torch.cuda.get_device_name(device), gpu_count=processes)

    dataset = MicroBatches(task.batch, task.num_train, cfg.seed, cfg.train)
    statistics = SharedStatistics(bare_model, accelerator)
    return Session(cfg, run.directory, record, tracker, accelerator, task, dataset, mine, state, model, statistics)


def check_evaluators(task: Task, name: str) -> None:
    """Raise ConfigError unless a task measures what a study decides by."""
    for split, what in (("val", "chooses hyperparameters"), ("test", "decides which optimizer is better")):
        if split not in task.evaluators:
            raise ConfigError(f"The task {name} has no evaluator {split!r}, which {what}: add it to its evaluators.")


def resume(session: Session, digest: str) -> None:
    """Continue from the newest checkpoint that source code with this ``digest`` has written, or from the start, and cut
    the run's record back to it.
    """
    state, record = session.state, session.record
    saved = state.load(session.directory, digest, session.accelerator)
    if saved:
        state.restore(saved)
        if record:
            steps = session.cfg.train.steps
            print(f"{session.directory.name}: continuing from step {state.step} of {steps}", flush=True)
    else:
        enter_training(state.optimizer, [])
    if record:
        drop_checkpoints_after(session.directory, state.step)
        session.tracker.skip(rows=record.cut_back(saved["metrics_bytes"] if saved else 0))
