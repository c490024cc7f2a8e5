"""Loops that other libraries' users run, with a task's model and data; training_loops.py says what they share.

Each returns milliseconds per step. Data go through the library's own loader if it has one, otherwise through PyTorch's,
one sample at a time.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from benchmarks.training_loops import Enough, LabelledPictures, Setting, bare_loop, this_suite


def timm_loop(setting: Setting) -> float:
    """The loop of timm's train.py, with its loader, clipping and schedule."""
    from PIL import Image
    from timm.data import create_loader
    from timm.scheduler import CosineLRScheduler
    from timm.utils import AverageMeter, dispatch_clip_grad
    from torchvision import transforms

    data, size = setting.plain["data"], setting.train["batch_size"]
    shape = data["channels"], data["image_size"], data["image_size"]
    pictures = LabelledPictures(setting, Image.fromarray)
    loader = create_loader(
        pictures,  # type: ignore[arg-type]  # timm takes any data set with the attribute `transform`
        shape,
        size,
        is_training=True,
        no_aug=True,
        num_workers=0,
        use_prefetcher=False,
        persistent_workers=False,
        device=setting.device,
    )
    # timm's own transform would resize to the same size, and flips only together with its random crops.
    flip = [transforms.RandomHorizontalFlip()] if data["flip"] else []
    to_tensor = transforms.ToTensor(), transforms.Normalize(data["mean"], data["std"])
    pictures.transform = transforms.Compose([*flip, *to_tensor])
    model, watch, losses = setting.model(), setting.stopwatch(), AverageMeter()
    optimizer = setting.optimizer(model)
    schedule = CosineLRScheduler(optimizer, setting.train["steps"], t_in_epochs=False)
    with suppress(Enough):
        for step, (images, labels) in enumerate(loader):
            images, labels = images.to(setting.device), labels.to(setting.device)
            with setting.autocast():
                loss = F.cross_entropy(model(images), labels)
            loss.backward()
            dispatch_clip_grad(model.parameters(), setting.train["clip_norm"])
            optimizer.step()
            optimizer.zero_grad()
            losses.update(loss.item(), size)
            schedule.step_update(step)
            watch.tick()
    return watch.step_ms


class Samples(Dataset[dict[str, Any]]):
    """A task's samples, one at a time."""

    def __init__(self, task: Any) -> None:
        self._task = task

    def __len__(self) -> int:
        return int(self._task.num_train)

    def __getitem__(self, number: int) -> dict[str, Any]:
        batch: dict[str, Tensor] = self._task.batch(np.array([number]), [number])
        return {name: value[0] for name, value in batch.items()}


def padded(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """A batch of samples, the shorter ones padded with zeros."""
    return {
        name: nn.utils.rnn.pad_sequence([sample[name] for sample in samples], batch_first=True)
        if samples[0][name].ndim
        else torch.stack([sample[name] for sample in samples])
        for name in samples[0]
    }


class WithLoss(nn.Module):
    """A model for transformers.Trainer, which expects it to return its own loss."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Return the loss of a batch."""
        return {"loss": self._loss(self.model, batch)}


def transformers_trainer(setting: Setting) -> float:
    """Hugging Face's Trainer."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    model, watch = setting.model(), setting.stopwatch()
    optimizer = setting.optimizer(model)

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.tick()

    with tempfile.TemporaryDirectory() as folder, suppress(Enough):
        arguments = TrainingArguments(
            folder, max_steps=setting.train["steps"], per_device_train_batch_size=setting.train["batch_size"],
            max_grad_norm=setting.train["clip_norm"], use_cpu=setting.device.type == "cpu", bf16=setting.bf16,
            report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, remove_unused_columns=False,
            dataloader_drop_last=True,
        )  # fmt: skip
        Trainer(
            WithLoss(model, setting.task.loss), arguments, padded, Samples(setting.task), callbacks=[Watch()],
            optimizers=(optimizer, LambdaLR(optimizer, lambda step: 1 - step / setting.train["steps"])),
        ).train()  # fmt: skip
    return watch.step_ms


class AsOpenClip(nn.Module):
    """Two towers with the interface of open_clip's CLIP."""

    def __init__(self, towers: nn.Module) -> None:
        super().__init__()
        self.towers, self.logit_scale = towers, towers.logit_scale

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Return what open_clip's losses expect."""
        images, texts, scale = self.towers(images, texts)
        return {"image_features": images, "text_features": texts, "logit_scale": scale}


def open_clip_loop(setting: Setting) -> float:
    """open_clip's own ``train_one_epoch``."""
    from open_clip.loss import ClipLoss
    from open_clip_train.train import train_one_epoch

    model, watch = setting.model(), setting.stopwatch()
    optimizer = setting.optimizer(model)
    loader: Any = DataLoader(
        Samples(setting.task), setting.train["batch_size"], shuffle=True, drop_last=True, collate_fn=pair_batch
    )
    loader.num_batches, loader.num_samples = len(loader), setting.task.num_train
    data = {"train": SimpleNamespace(dataloader=loader, set_epoch=lambda epoch: None)}
    arguments = argparse.Namespace(
        device=str(setting.device), precision="amp_bf16" if setting.bf16 else "fp32", distill=False, accum_freq=1,
        skip_scheduler=False, horovod=False,
        grad_clip_norm=setting.train["clip_norm"], log_every_n_steps=10**9, batch_size=setting.train["batch_size"],
        world_size=1, rank=0, local_rank=0, wandb=False,
    )  # fmt: skip

    def schedule(step: int) -> None:
        if step:  # this is called before every step
            watch.tick()
        for group in optimizer.param_groups:
            group["lr"] = setting.plain["optimizer"]["lr"] * (1 - step / setting.train["steps"])

    with suppress(Enough):
        epoch = 0
        while True:
            train_one_epoch(AsOpenClip(model), data, ClipLoss(), epoch, optimizer, None, schedule, None, arguments)
            epoch += 1
    return watch.step_ms


def pair_batch(samples: Sequence[Mapping[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """(images, texts), as open_clip's loaders yield them."""
    batch = padded(samples)
    return batch["images"], batch["texts"]


def diffusers_loop(setting: Setting) -> float:
    """The loop of diffusers' train_unconditional.py: accelerate wraps model, optimizer, loader and schedule."""
    from accelerate import Accelerator
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    accelerator = Accelerator(cpu=setting.device.type == "cpu", mixed_precision="bf16" if setting.bf16 else "no")
    model, watch = setting.model(), setting.stopwatch()
    optimizer = setting.optimizer(model)
    loader: Any = DataLoader(Samples(setting.task), setting.train["batch_size"], shuffle=True, drop_last=True)
    schedule: Any = get_scheduler("constant", optimizer)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    average = EMAModel(model.parameters(), decay=setting.train["ema_decay"])
    with suppress(Enough):
        for batch in loader:
            with accelerator.accumulate(model):
                loss = setting.task.loss(model, batch)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), setting.train["clip_norm"])
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                average.step(model.parameters())
            loss.detach().item(), schedule.get_last_lr()  # logged at every step
            watch.tick()
    return watch.step_ms


LOOPS: Mapping[str, Mapping[str, Callable[[Setting], float]]] = {
    "image_classification": {"this suite": this_suite, "bare loop": bare_loop, "timm": timm_loop},
    "lit": {"this suite": this_suite, "bare loop": bare_loop, "open_clip": open_clip_loop},
    "language_modeling": {"this suite": this_suite, "bare loop": bare_loop, "transformers": transformers_trainer},
    "finetuning": {"this suite": this_suite, "bare loop": bare_loop, "transformers": transformers_trainer},
    "diffusion": {"this suite": this_suite, "bare loop": bare_loop, "diffusers": diffusers_loop},
}
