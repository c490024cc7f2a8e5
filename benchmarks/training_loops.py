"""A task's mini run, as this suite's loop and a bare one train it: training_peers.py has the loops of others.

All train the same model on the same data in batches of one size and clip the same, with torch's fused AdamW. Only this
suite's looks for what is not finite, and at the optimizer's state as often as the experiment logs.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from experiments.harness.config import composed, result_config
from experiments.harness.entry import locate
from experiments.harness.record import RunRecord
from experiments.harness.train import to_device, train, update_average

LEAST_WARM_UP, LEAST_STEPS = 8, 24
"""Of each loop in each round, brought up to what the task logs by"""


class Enough(Exception):  # no error
    """All steps are timed."""


@dataclass
class Stopwatch:
    """Told after every step; raises Enough after the last."""

    device: torch.device
    warm_up: int
    steps: int
    ticks: list[float] = field(default_factory=list)

    def tick(self) -> None:
        """A step has ended."""
        if self.device.type == "cuda" and len(self.ticks) + 1 in (self.warm_up, self.warm_up + self.steps):
            torch.cuda.synchronize(self.device)
        self.ticks.append(time.perf_counter())
        if len(self.ticks) == self.warm_up + self.steps:
            raise Enough

    @property
    def step_ms(self) -> float:
        """Mean over the steps behind the warm-up."""
        return 1e3 * (self.ticks[-1] - self.ticks[self.warm_up - 1]) / self.steps


class Setting:
    """The mini run of a task, as all its loops take it."""

    def __init__(self, name: str, device: torch.device) -> None:
        never = 10**9
        overrides = ["scale=mini", "optimizer=adamw", "test=false", "run.wandb=disabled"]
        overrides += [f"run.device={device.type}", f"train.evaluate_every={never}", f"run.checkpoint_every={never}"]
        self.name, self.device = name, device
        self.cfg: Any = composed(name, overrides)
        self.plain, self.data, _ = locate(self.cfg)
        self.train: Mapping[str, Any] = self.plain["train"]
        every = self.train["log_every"]
        self.warm_up, self.steps = (-(-least // every) * every for least in (LEAST_WARM_UP, LEAST_STEPS))

    @cached_property
    def task(self) -> Any:
        """Model, batches and loss."""
        return import_module(f"experiments.{self.name}.task").build(self.cfg, self.data)

    def stopwatch(self) -> Stopwatch:
        """For one loop in one round."""
        return Stopwatch(self.device, self.warm_up, self.steps)

    def model(self) -> nn.Module:
        """A new one, on the device."""
        torch.manual_seed(0)
        model: nn.Module = self.task.model().to(self.device)
        return model.train()

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW as the experiment has it, over one group."""
        settings = {key: self.plain["optimizer"][key] for key in ("lr", "weight_decay", "betas", "eps")}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, **settings, fused=True)

    def batches(self) -> Iterator[np.ndarray]:
        """Numbers of the samples of each batch, int64 [batch size], epoch by epoch."""
        rng, size = np.random.default_rng(0), self.train["batch_size"]
        while True:
            order = rng.permutation(self.task.num_train)
            yield from (order[first : first + size] for first in range(0, len(order) - size + 1, size))

    def average(self, model: nn.Module) -> torch.optim.swa_utils.AveragedModel | None:
        """Of the weights, where the experiment evaluates it."""
        return torch.optim.swa_utils.AveragedModel(model) if self.train["ema_decay"] else None


class Rows:
    """In W&B's place: keeps what the run's own clock said, and ends the run with the last row that is wanted."""

    def __init__(self, last: int) -> None:
        self.last, self.seconds = last, {}  # type: int, dict[int, float]

    def skip(self, rows: int) -> None:
        """The run is new."""

    def log(self, row: Mapping[str, float]) -> None:
        """A row of metrics.jsonl."""
        self.seconds[int(row["step"])] = row["time/train_s"]
        if row["step"] == self.last:
            raise Enough


def this_suite(setting: Setting) -> float:
    """Milliseconds a step by the run's clock, which stops while a row is written."""
    rows = Rows(setting.warm_up + setting.steps)
    with tempfile.TemporaryDirectory() as folder:
        recorded = result_config(setting.plain, setting.data.fingerprint)
        with RunRecord(Path(folder) / "run", "none", recorded) as record, suppress(Enough):
            train(setting.cfg, setting.data, record.directory, "none", record, rows)  # type: ignore[arg-type]
    return 1e3 * (rows.seconds[rows.last] - rows.seconds[setting.warm_up]) / setting.steps


def bare_loop(setting: Setting) -> float:
    """PyTorch alone, around the task's model and loss; pictures are read and augmented by torchvision alone."""
    model, watch = setting.model(), setting.stopwatch()
    optimizer, average = setting.optimizer(model), setting.average(model)
    schedule = LambdaLR(optimizer, lambda step: 1 - step / setting.train["steps"])
    with suppress(Enough):
        for batch in picture_loader(setting) if setting.name == "image_classification" else task_batches(setting):
            optimizer.zero_grad()
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
    """Batches of tasks that prepare their samples beforehand, so that making one is little more than an index."""
    for numbers in setting.batches():
        yield setting.task.batch(numbers, numbers.tolist())


class LabelledPictures(Dataset[tuple[Any, int]]):
    """A decoded set as torchvision's own are; what loads it sets ``transform``, which takes one picture."""

    transform: Callable[[Any], Any]

    def __init__(self, setting: Setting, from_array: Callable[[np.ndarray], Any]) -> None:
        arrays = setting.data.load()
        self._images, self._labels, self._from_array = arrays["train_images"], arrays["train_labels"], from_array

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        return self.transform(self._from_array(self._images[number])), int(self._labels[number])


def picture_loader(setting: Setting) -> Iterator[dict[str, Tensor]]:
    """The experiment's augmentation by the transforms of torchvision and the loader of PyTorch."""
    from torchvision.transforms import v2

    data = setting.plain["data"]
    steps: list[Any] = [v2.RandomCrop(data["image_size"], padding=data["crop_padding"])]
    steps += [v2.RandomHorizontalFlip()] if data["flip"] else []
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(data["mean"], data["std"])]
    dataset = LabelledPictures(setting, lambda array: torch.tensor(array).movedim(-1, -3))
    dataset.transform = v2.Compose(steps)
    for images, labels in DataLoader(dataset, setting.train["batch_size"], shuffle=True, drop_last=True):
        yield {"images": images, "labels": labels}
