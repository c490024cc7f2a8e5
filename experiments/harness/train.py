"""The training loop: every run of every task is one call of ``train``."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from experiments.harness.accelerator import Agreement, compile_and_warm_up, seed_generators
from experiments.harness.averages import evaluation_mode, update_average
from experiments.harness.batches import MicroBatchKeys, ShieldedLoader, to_device
from experiments.harness.config import Config
from experiments.harness.errors import Diverged
from experiments.harness.evaluation import evaluate
from experiments.harness.optimizer import state_bytes
from experiments.harness.progress_bar import progress_bar
from experiments.harness.record import RunRecord
from experiments.harness.run import Run
from experiments.harness.schedule import lr_factor
from experiments.harness.seeds import derive_seed
from experiments.harness.session import Session, resume, set_up
from experiments.harness.sharding import clip_gradients, more_to_come
from experiments.harness.signals import EXIT_CODE, stop_requests
from experiments.harness.timing import PeakMemory, StepTimer
from experiments.harness.tracking import Tracker
from lion import measure_step


def train(run: Run, record: RunRecord | None, tracker: Tracker) -> None:
    """Train to the last step, from the newest checkpoint if there is one, and evaluate. Only the main process has a
    ``record``. Raises Diverged, or SystemExit after saving if a signal asked it to stop; anything else is a SuiteError
    or a bug.
    """
    session = set_up(run, record, tracker)
    resume(session, run.digest)
    steps = range(session.state.step, session.cfg.train.steps)
    keys = MicroBatchKeys(session.dataset, steps, session.micro_batches)
    on_gpu = session.accelerator.device.type == "cuda"
    with ShieldedLoader(session.dataset, keys, session.cfg.run.num_workers, pin=on_gpu).reading() as batches:
        take_steps(session, batches)
    if run.cfg.test:
        evaluate(session, {"end"})
    if record:
        record.add_environment("arithmetic", frozen_outputs=session.task.frozen_outputs)


def take_steps(session: Session, batches: Iterator[dict[str, Tensor]]) -> None:
    """Take the remaining steps, of which these are this process's micro-batches, and after each do what is due."""
    cfg, state, accelerator = session.cfg, session.state, session.accelerator
    optimizer, device = state.optimizer, accelerator.device
    model = session.model
    if cfg.train.compile:
        model = compile_and_warm_up(model, session.task, accelerator, cfg)
    in_any_process = Agreement(accelerator)
    watch, step_timer, memory = FiniteWatch(accelerator), StepTimer(device), PeakMemory(device)
    minutes, saved_at = cfg.run.checkpoint_minutes, time.monotonic()

    with progress_bar(cfg.train.batch_size, accelerator.is_main_process) as progress, stop_requests() as stop:
        bar = progress.add_task(session.directory.name, total=cfg.train.steps, completed=state.step)
        memory.start()
        state.clock.start()
        while state.step < cfg.train.steps:
            lr = cfg.optimizer["lr"] * lr_factor(state.step, cfg.train.steps, cfg.schedule)
            for group in optimizer.param_groups:
                group["lr"] = lr
            loss = accumulate_gradients(session, model, batches)
            grad_norm = clip_gradients(model, cfg.train.clip_norm, accelerator)

            # A loss or gradient that is not finite is never logged, evaluated or saved, and on a CPU never applied.
            overdue = minutes is not None and time.monotonic() - saved_at > 60 * minutes
            due = Due.after(state.step + 1, cfg, *in_any_process(stop.is_set(), overdue))
            watch.observe(state.step + 1, loss, grad_norm)
            if device.type == "cpu" or due.any:
                watch.check()

            if due.any:
                memory.stop()  # before measure_step, which also keeps a copy of the weights
            if due.log:
                health = measure_step(optimizer)
                if health["nonfinite_state"]:
                    raise Diverged(state.step + 1, "the optimizer's state")
            else:
                with step_timer:
                    optimizer.step()
            optimizer.zero_grad()  # here, so that an evaluation has the memory of the gradients
            if state.ema:
                assert cfg.train.ema_decay is not None
                with evaluation_mode(optimizer):
                    update_average(state.ema, state.model, cfg.train.ema_decay)
            state.step += 1
            progress.update(bar, completed=state.step)
            if not due.any:
                continue

            # The training clock is stopped below.
            state.clock.stop()
            if due.log:
                row = {"train/loss": accelerator.reduce(loss, "mean").item(), "train/grad_norm": grad_norm.item()}
                row |= {"train/lr": lr, **{f"optimizer/{name}": value for name, value in health.items()}}
                row |= {"cost/state_bytes": state_bytes(optimizer), "cost/peak_bytes": memory.bytes}
                session.write(row | {"time/train_s": state.clock.seconds, **step_timer.take_median_ms()})
            evaluate(session, due.evaluators)
            if due.save:
                state.save(session.record, session.directory, cfg.run.keep_checkpoints)
                saved_at = time.monotonic()
            if due.leave:
                if accelerator.is_main_process:
                    said = f"asked to stop, saved at step {state.step} of {cfg.train.steps}"
                    print(f"{session.directory.name}: {said}", flush=True)
                sys.exit(EXIT_CODE)
            memory.start()
            state.clock.start()


def accumulate_gradients(session: Session, model: nn.Module, batches: Iterator[dict[str, Tensor]]) -> Tensor:
    """Add the gradients of the mean loss over the global batch; returns this process's part of that loss."""
    task, accelerator, mine = session.task, session.accelerator, session.micro_batches
    loss = torch.zeros((), device=accelerator.device)
    session.statistics.begin_step()
    for g in mine:
        batch = to_device(next(batches), accelerator.device)
        seed_generators(derive_seed(session.cfg.seed, "forward", session.state.step, g))  # dropout, noise, timesteps
        with nullcontext() if g == mine[-1] else more_to_come(model, accelerator):
            micro_loss = task.loss(model, batch) / len(mine)
            accelerator.backward(micro_loss)
        loss += micro_loss.detach()
        session.statistics.end_micro_batch()
    session.statistics.end_step()
    return loss


class FiniteWatch:
    """Remembers, on the device, the first step whose loss or gradient is not finite: ``sign(nan)`` is 0, so Lion's
    weights alone would hide it.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._first_bad = torch.full((), math.inf, device=accelerator.device)

    def observe(self, step: int, loss: Tensor, grad_norm: Tensor) -> None:
        """Check one step without waiting for the device."""
        finite = torch.isfinite(loss) & torch.isfinite(grad_norm)
        self._first_bad = torch.where(finite, self._first_bad, self._first_bad.clamp(max=step))

    def check(self) -> None:
        """Wait for the device and raise Diverged if any process has seen a bad step."""
        first_bad = self._accelerator.gather(self._first_bad).min().item()
        if math.isfinite(first_bad):
            raise Diverged(int(first_bad), "the loss or its gradient")


@dataclass(frozen=True)
class Due:
    """What is due after a step."""

    log: bool
    evaluators: frozenset[str]
    """evaluate with those whose Evaluator.when is one of these"""
    save: bool
    leave: bool
    """exit, once saved, because a signal asked for it"""

    @property
    def any(self) -> bool:
        """Whether anything is due."""
        return self.log or bool(self.evaluators) or self.save

    @classmethod
    def after(cls, step: int, cfg: Config, asked_to_stop: bool, overdue: bool) -> "Due":
        """What is due after ``step``, counted from 1; after the last step, everything. ``overdue``: the newest
        checkpoint is older than ``run.checkpoint_minutes``.
        """
        train, last = cfg.train, step == cfg.train.steps
        every = {"evaluate": train.evaluate_every, "sample": train.sample_every if cfg.test else None}
        return cls(
            log=last or step % train.log_every == 0,
            evaluators=frozenset(when for when, steps in every.items() if steps and (last or step % steps == 0)),
            save=last or asked_to_stop or overdue or step % cfg.run.checkpoint_every == 0,
            leave=asked_to_stop and not last,
        )
