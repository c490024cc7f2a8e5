"""A task's run in this suite's training loop and in a bare one; training_peers.py has other libraries' loops.

All loops train the same model on the same data with the same batch size and clipping, using PyTorch's fused AdamW. Only
this suite's loop checks for non-finite values, and inspects the optimizer's state whenever the experiment logs.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from experiments.harness.averages import update_average
from experiments.harness.batches import to_device
from experiments.harness.composition import composed
from experiments.harness.record import RunRecord
from experiments.harness.run import locate
from experiments.harness.train import train

LEAST_WARM_UP, LEAST_STEPS = 8, 24
"""Minimum steps of each loop in each round, rounded up to a multiple of the task's logging interval."""


def seconds(device: torch.device) -> float:
    """The clock by which loops are compared: on a GPU elapsed time, on a CPU, where they use one thread,
    CPU time, which excludes what other processes take.
    """
    return time.perf_counter() if device.type == "cuda" else time.process_time()


class Enough(Exception):  # not an error
    """All steps have been timed."""


@dataclass
class Stopwatch:
    """Records the time of every step; raises Enough after the last."""

    device: torch.device
    warm_up: int
    steps: int
    ticks: list[float] = field(default_factory=list)

    def tick(self) -> None:
        """Call when a step has ended."""
        if self.device.type == "cuda" and len(self.ticks) + 1 in (self.warm_up, self.warm_up + self.steps):
            torch.cuda.synchronize(self.device)
        self.ticks.append(seconds(self.device))
        if len(self.ticks) == self.warm_up + self.steps:
            raise Enough

    @property
    def step_ms(self) -> float:
        """Mean milliseconds per step after the warm-up."""
        return 1e3 * (self.ticks[-1] - self.ticks[self.warm_up - 1]) / self.steps


def scale_for(device: torch.device) -> str:
    """The scale that is meant for ``device``."""
    return "gpu" if device.type == "cuda" else "mini"


class Setting:
    """A task's run at the device's scale, shared by all loops."""

    def __init__(self, name: str, device: torch.device) -> None:
        never = 10**9
        overrides = [f"scale={scale_for(device)}", "optimizer=adamw", "test=false", "run.wandb=disabled"]
        overrides += ["hydra/launcher=basic"]  # Ray, which is not used here, need not be installed
        overrides += [f"run.device={device.type}", f"train.evaluate_every={never}", f"run.checkpoint_every={never}"]
        self.name, self.device = name, device
        self.run = locate(composed(name, overrides))
        self.plain, self.data = self.run.plain, self.run.data
        self.train: Mapping[str, Any] = self.plain["train"]
        every = self.train["log_every"]
        self.warm_up, self.steps = (-(-least // every) * every for least in (LEAST_WARM_UP, LEAST_STEPS))

    @cached_property
    def task(self) -> Any:
        """The task's model, batches and loss."""
        return import_module(f"experiments.{self.name}.task").build(self.run.cfg, self.data)

    def stopwatch(self) -> Stopwatch:
        """A new stopwatch for one loop in one round."""
        return Stopwatch(self.device, self.warm_up, self.steps)

    def model(self) -> nn.Module:
        """A new model on the device, in training mode."""
        torch.manual_seed(0)
        model: nn.Module = self.task.model().to(self.device)
        return model.train()

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW with the experiment's settings, over one parameter group."""
        settings = {key: self.plain["optimizer"][key] for key in ("lr", "weight_decay", "betas", "eps")}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, **settings, fused=True)

    @property
    def bf16(self) -> bool:
        """Whether the experiment computes forward passes in bfloat16."""
        return bool(self.train["precision"] == "bf16")

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def batches(self) -> Iterator[np.ndarray]:
        """Sample indices of each batch, int64 [batch size], epoch after epoch."""
        rng, size = np.random.default_rng(0), self.train["batch_size"]
        while True:
            order = rng.permutation(self.task.num_train)
            yield from (order[first : first + size] for first in range(0, len(order) - size + 1, size))

    def average(self, model: nn.Module) -> torch.optim.swa_utils.AveragedModel | None:
        """An average of the weights, if the experiment evaluates one."""
        return torch.optim.swa_utils.AveragedModel(model) if self.train["ema_decay"] else None


class Rows:
    """Stands in for W&B: notes when rows are written, and ends the run at the row of step ``last``."""

    def __init__(self, device: torch.device, last: int) -> None:
        self.device, self.last, self.written_at = device, last, {}  # type: torch.device, int, dict[int, float]

    def skip(self, rows: int) -> None:
        """Do nothing: the run is new."""

    def log(self, row: Mapping[str, float]) -> None:
        """Take a row of metrics.jsonl."""
        self.written_at[int(row["step"])] = seconds(self.device)
        if row["step"] == self.last:
            raise Enough


def this_suite(setting: Setting) -> float:
    """Milliseconds per step, including the rows that are written."""
    rows = Rows(setting.device, setting.warm_up + setting.steps)
    with tempfile.TemporaryDirectory() as folder:
        run = replace(setting.run, directory=Path(folder) / "run")
        with RunRecord(run.directory, run.digest, run.recorded) as record, suppress(Enough):
            train(run, record, rows)  # type: ignore[arg-type]
    return 1e3 * (rows.written_at[rows.last] - rows.written_at[setting.warm_up]) / setting.steps


def bare_loop(setting: Setting) -> float:
    """Milliseconds per step of plain PyTorch with the task's model and loss; images go through torchvision alone."""
    model, watch = setting.model(), setting.stopwatch()
    optimizer, average = setting.optimizer(model), setting.average(model)
    schedule = LambdaLR(optimizer, lambda step: 1 - step / setting.train["steps"])
    with suppress(Enough):
        for batch in picture_loader(setting) if setting.name == "image_classification" else task_batches(setting):
            optimizer.zero_grad()
            with setting.autocast():
                loss = setting.task.loss(model, to_device(batch, setting.device))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), setting.train["clip_norm"])
            optimizer.step()
            schedule.step()
            if average:
                update_average(average, model, setting.train["ema_decay"])
            watch.tick()
    return watch.step_ms


def task_batches(setting: Setting) -> Iterator[dict[str, Tensor]]:
    """Batches of tasks that prepare their samples in advance, so that making one is little more than indexing."""
    for numbers in setting.batches():
        yield setting.task.batch(numbers, numbers.tolist())


class LabelledPictures(Dataset[tuple[Any, int]]):
    """A decoded data set in the style of torchvision's; the caller sets ``transform``, which takes one image."""

    transform: Callable[[Any], Any]

    def __init__(self, setting: Setting, from_array: Callable[[np.ndarray], Any]) -> None:
        arrays = setting.data.load()
        self._images, self._labels, self._from_array = arrays["train_images"], arrays["train_labels"], from_array

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        return self.transform(self._from_array(self._images[number])), int(self._labels[number])


def picture_loader(setting: Setting) -> Iterator[dict[str, Tensor]]:
    """The experiment's augmentation with torchvision's transforms and PyTorch's loader."""
    from torchvision.transforms import v2

    data = setting.plain["data"]
    steps: list[Any] = [v2.RandomCrop(data["image_size"], padding=data["crop_padding"])]
    steps += [v2.RandomHorizontalFlip()] if data["flip"] else []
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(data["mean"], data["std"])]
    dataset = LabelledPictures(setting, lambda array: torch.tensor(array).movedim(-1, -3))
    dataset.transform = v2.Compose(steps)
    for images, labels in DataLoader(dataset, setting.train["batch_size"], shuffle=True, drop_last=True):
        yield {"images": images, "labels": labels}
