"""The training loop: every run of every task is one call of ``train``."""

import importlib
import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as ProgressTask
from rich.text import Text
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from experiments.harness.arithmetic import describe_arithmetic
from experiments.harness.averages import (
    STATISTICS_SAMPLES,
    enter_training,
    estimating_statistics,
    evaluation_mode,
    has_modes,
    tracked_layers,
)
from experiments.harness.batches import MicroBatches, micro_batch_loader
from experiments.harness.checkpoint import TrainingState, drop_checkpoints_after
from experiments.harness.config import Config
from experiments.harness.divergence import Diverged, FiniteWatch
from experiments.harness.errors import ConfigError
from experiments.harness.flatness import measure_flatness
from experiments.harness.initial_scale import scale_initial_weights
from experiments.harness.interrupt import EXIT_CODE, stop_requests
from experiments.harness.optimizer import build_optimizer, decay_groups, state_bytes
from experiments.harness.process import compile_and_warm_up, make_accelerator, seed_generators
from experiments.harness.record import RunRecord
from experiments.harness.schedule import lr_factor
from experiments.harness.seeds import derive_seed
from experiments.harness.sharding import clip_gradients, more_to_come, prepare, whole
from experiments.harness.sources import task_package
from experiments.harness.task import Task
from experiments.harness.timing import PeakMemory, StepTimer, TrainingClock
from experiments.harness.tracking import Tracker
from lion import measure_step


def train(cfg: Config, data: Any, directory: Path, digest: str, record: RunRecord | None, tracker: Tracker) -> None:
    """Train to the last step, from the newest checkpoint if there is one, and evaluate.

    ``digest`` identifies the source code. ``record`` writes to the run's ``directory``; only the main process of a
    distributed run has one, the others get None.
    Raises Diverged, or SystemExit after saving if a signal asked it to stop; anything else is a SuiteError or a bug.
    """
    # ------------------------------------------------------------------------------------------------------- set-up
    accelerator = make_accelerator(cfg)
    device, processes = accelerator.device, accelerator.num_processes
    micro_batches = cfg.train.batch_size // cfg.train.micro_batch_size
    if micro_batches % processes:
        raise ConfigError(
            f"{micro_batches} micro-batches a step (train.batch_size / train.micro_batch_size) cannot be shared evenly "
            f"by {processes} processes: choose a smaller train.micro_batch_size."
        )
    mine = range(accelerator.process_index, micro_batches, processes)

    task: Task = importlib.import_module(f"{task_package(cfg.task)}.task").build(cfg, data)
    seed_generators(derive_seed(cfg.seed, "init"))
    bare_model = task.model()
    scale_initial_weights(bare_model, cfg.train.init_scale)
    name = cfg.model.get("model_name") or type(bare_model).__name__
    model = prepare(bare_model, accelerator, cfg.run.shards)
    optimizer = build_optimizer(bare_model, cfg.optimizer)
    ema = None
    if cfg.train.ema_decay is not None:
        ema = AveragedModel(bare_model)
    state = TrainingState(bare_model, optimizer, ema, TrainingClock(device))
    if record:
        record.write_parameter_groups(decay_groups(bare_model))
        record.add_environment("arithmetic", **describe_arithmetic(device))
        trained = sum(parameter.numel() for parameter in bare_model.parameters() if parameter.requires_grad)
        record.add_environment("model", name=name, trained_parameters=trained, train_samples=task.num_train)
        if device.type == "cuda":
            record.add_environment("hardware", gpu=torch.cuda.get_device_name(device), gpu_count=processes)

    # ------------------------------------------------------------------------------------------------------- resume
    saved = state.load(directory, digest, accelerator)
    if saved:
        state.restore(saved)
        if record:
            print(f"{directory.name}: continuing from step {state.step} of {cfg.train.steps}", flush=True)
    else:
        enter_training(optimizer, [])
    if record:
        drop_checkpoints_after(directory, state.step)
        tracker.skip(rows=record.cut_back(saved["metrics_bytes"] if saved else 0))

    def write(row: dict[str, float]) -> None:
        if record:
            # Metrics that decide about divergence were checked before; another value that overflows is left out.
            finite = {name: value for name, value in row.items() if math.isfinite(value)}
            row = {"step": state.step, "samples": state.step * cfg.train.batch_size, **finite}
            record.append(row)
            tracker.log(row)

    def evaluated_model() -> nn.Module:
        evaluated = state.evaluated_model()
        if (ema or has_modes(optimizer)) and (layers := tracked_layers(bare_model)):
            with estimating_statistics(evaluated, layers), accelerator.autocast():
                for number in range(-(-STATISTICS_SAMPLES // cfg.train.micro_batch_size)):
                    seed_generators(derive_seed(cfg.seed, "statistics", number))
                    task.loss(evaluated, to_device(dataset[divmod(number, micro_batches)], device))
        return evaluated

    def evaluate(split: str) -> None:
        with evaluation_mode(optimizer):
            sums = evaluate_split(task, evaluated_model(), split, accelerator)
        metrics = task.metrics(sums)
        row = {f"{split}/{name}": value for name, value in metrics.items()}
        if split == "val" and cfg.study.validation_metric not in row:
            raise ConfigError(
                f"study.validation_metric={cfg.study.validation_metric} is not among the metrics of this run: "
                f"{', '.join(row)}."
            )
        for name in (f"{split}/loss", cfg.study.validation_metric, cfg.study.primary_metric):
            if name in row and not math.isfinite(row[name]):
                raise Diverged(state.step, name)
        write(row)
        if split == "test" and record:
            record.write_example_losses(*task.example_losses(sums))

    # --------------------------------------------------------------------------------------------------------- loop
    cfg = cast(Config, OmegaConf.to_object(cfg))  # a look-up takes OmegaConf 25 us, and every step has 27
    dataset = MicroBatches(task.batch, task.num_train, cfg.seed, cfg.train)
    batches = iter(
        micro_batch_loader(dataset, state.step, accelerator.process_index, processes, cfg.run.num_workers, device)
    )
    if cfg.train.compile:
        model = compile_and_warm_up(model, task, accelerator, cfg)
    watch, step_timer, memory = FiniteWatch(accelerator), StepTimer(device), PeakMemory(device)

    with progress_bar(cfg.train.batch_size, accelerator.is_main_process) as progress, stop_requests() as stop:
        bar = progress.add_task(directory.name, total=cfg.train.steps, completed=state.step)
        memory.start()
        state.clock.start()
        while state.step < cfg.train.steps:
            # Gradients of the mean loss over the global batch.
            lr = cfg.optimizer["lr"] * lr_factor(state.step, cfg.train.steps, cfg.schedule)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad()
            loss = torch.zeros((), device=device)
            for g in mine:
                batch = to_device(next(batches), device)
                seed_generators(derive_seed(cfg.seed, "forward", state.step, g))  # dropout, noise, timesteps
                with nullcontext() if g == mine[-1] else more_to_come(model, accelerator):
                    micro_loss = task.loss(model, batch) / len(mine)
                    accelerator.backward(micro_loss)
                loss += micro_loss.detach()
            grad_norm = clip_gradients(model, cfg.train.clip_norm, accelerator)

            # A loss or gradient that is not finite is never logged, evaluated or saved, and on a CPU never applied.
            done = state.step + 1
            last = done == cfg.train.steps
            logs = last or done % cfg.train.log_every == 0
            evaluates = last or done % cfg.train.evaluate_every == 0
            samples = cfg.test and cfg.train.sample_every is not None and (last or done % cfg.train.sample_every == 0)
            stops = (logs or processes == 1) and any_process(accelerator, stop.is_set())
            saves = last or stops or done % cfg.run.checkpoint_every == 0
            watch.observe(done, loss, grad_norm)
            if device.type == "cpu" or logs or evaluates or samples or saves:
                watch.check()

            # Update.
            if logs:
                memory.stop()  # before measure_step, which also keeps a copy of the weights
                health = measure_step(optimizer)
                if health["nonfinite_state"]:
                    raise Diverged(done, "the optimizer's state")
            else:
                with step_timer:
                    optimizer.step()
            if ema:
                assert cfg.train.ema_decay is not None
                with evaluation_mode(optimizer):
                    update_average(ema, bare_model, cfg.train.ema_decay)
            state.step = done
            progress.update(bar, completed=done)
            if not (logs or evaluates or samples or saves):
                continue

            # The training clock does not run below.
            state.clock.stop()
            if not logs:
                memory.stop()
            if logs:
                row = {"train/loss": accelerator.reduce(loss, "mean").item(), "train/grad_norm": grad_norm.item()}
                row |= {"train/lr": lr, **{f"optimizer/{name}": value for name, value in health.items()}}
                row |= {"cost/state_bytes": state_bytes(optimizer), "cost/peak_bytes": memory.bytes}
                write(row | {"time/train_s": state.clock.seconds, **step_timer.take_median_ms()})
            if evaluates:
                evaluate("val")
            if samples:
                evaluate("samples")
                if record:
                    task.write_samples(directory, state.step)
            if saves:
                state.save(record, directory, cfg.run.keep_checkpoints)
            if stops and not last:
                print(f"{directory.name}: asked to stop, saved at step {done} of {cfg.train.steps}", flush=True)
                sys.exit(EXIT_CODE)
            memory.start()
            state.clock.start()

    # --------------------------------------------------------------------------------------------------------- test
    if cfg.test:
        evaluate("test")
        if cfg.flatness.draws:
            with evaluation_mode(optimizer):
                final = evaluated_model()

                def train_loss() -> float:
                    return task.metrics(evaluate_split(task, final, "train", accelerator))["loss"]

                write(measure_flatness(final, train_loss, cfg))
    if record:
        record.add_environment("arithmetic", frozen_outputs=task.frozen_outputs)


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch on the device."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


@torch.no_grad()
def update_average(average: AveragedModel, model: nn.Module, decay: float) -> None:
    """An exponential moving average of the parameters, and the newest buffers.

    The same bits as ``average.update_parameters``, which sends its counter to the GPU in every step and waits for it.
    """
    ours: list[Tensor] = list(average.module.parameters())
    theirs: list[Tensor] = list(model.parameters())
    if average.n_averaged:
        torch._foreach_lerp_(ours, theirs, 1 - decay)
    else:
        torch._foreach_copy_(ours, theirs)
    for our_buffer, their_buffer in zip(average.module.buffers(), model.buffers(), strict=True):
        our_buffer.copy_(their_buffer)
    average.n_averaged += 1


def any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is set in any process of the run; every process gets the same answer."""
    if accelerator.num_processes == 1:
        return flag  # without waiting for the GPU
    return bool(accelerator.gather(torch.tensor(flag, device=accelerator.device)).any().item())


def evaluate_split(task: Task, model: nn.Module, split: str, accelerator: Accelerator) -> dict[str, Any]:
    """The task's sums over a whole split, divided among the processes; they add up, so no batch size matters."""
    if accelerator.num_processes > 1:  # each process has batch norm statistics from its own micro-batches
        for buffer in model.buffers():
            broadcast(buffer)
    training = model.training
    model.eval()
    with whole(model), torch.no_grad(), accelerator.autocast():
        sums = task.evaluate(model, split, accelerator.process_index, accelerator.num_processes)
    model.train(training)
    return {name: accelerator.reduce(value, "sum").tolist() for name, value in sums.items()}


class StepRate(ProgressColumn):
    """Samples per second."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self._batch_size = batch_size

    def render(self, task: ProgressTask) -> Text:
        """The rate estimated by rich, in samples per second."""
        return Text(f"{task.speed * self._batch_size:.0f} samples/s" if task.speed else "")


def progress_bar(batch_size: int, is_main_process: bool) -> Progress:
    """Steps done, throughput and time left; shown on a terminal only."""
    console = Console(stderr=True)
    name, rate = TextColumn("{task.description}"), StepRate(batch_size)
    columns = name, BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn()
    return Progress(*columns, console=console, disable=not (is_main_process and console.is_terminal))
