"""Averaged weights are evaluated with their own batch-norm statistics, schedule-free optimizers in evaluation mode."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import update_bn

from experiments.harness import record
from experiments.harness.averages import estimating_statistics, evaluated_weights, evaluation_mode, tracked_layers
from experiments.harness.batches import sample_indices
from experiments.harness.entry import execute
from experiments.harness.run import locate
from experiments.harness.seeds import derive_seed
from tests.conftest import Killed, MakeConfig, built, executed, last_checkpoint, last_values, rows
from tests.harness.test_resume import crash_at_call
from tests.harness.test_run import LINEAR

PLAIN = ["data.crop_padding=0", "train.steps=60", "train.evaluate_every=60", "flatness.draws=0"]


def whole(cfg: DictConfig, split: str) -> tuple[Tensor, Tensor]:
    """All images and labels of a split, in the network's input format."""
    arrays = locate(cfg).data.load()
    images = torch.tensor(arrays[f"{split}_images"]).movedim(-1, 1)
    return normalized(cfg, images), torch.tensor(arrays[f"{split}_labels"])


def normalized(cfg: DictConfig, images: Tensor) -> Tensor:
    """Images uint8 of one channel in the network's input format."""
    return (images / 255 - cfg.data.mean[0]) / cfg.data.std[0]


def right(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """In percent."""
    model.eval()
    with torch.no_grad():
        return 100 * (model(images).argmax(1) == labels).float().mean().item()


@pytest.mark.parametrize("decay", [0.9, 0.995])
def test_estimated_batch_norm_statistics_give_averaged_weights_full_accuracy(
    make_config: MakeConfig, decay: float
) -> None:
    steps = ["train.steps=240", "train.evaluate_every=240"]
    cfg = make_config(*PLAIN, "optimizer=adamw", f"train.ema_decay={decay}", *steps)
    directory, model = executed(cfg), built(cfg).model()
    saved = last_checkpoint(directory)
    model.load_state_dict(evaluated_weights(saved))
    update_bn([(images, None) for images in whole(cfg, "train")[0].split(16)], model)
    expected = right(model, *whole(cfg, "test"))
    assert last_values(directory)["test/top1"] == pytest.approx(expected, abs=3)

    last = {name: value for name, value in saved["model"].items() if "running" in name}
    model.load_state_dict(evaluated_weights(saved) | last)
    assert decay < 0.99 or right(model, *whole(cfg, "test")) < expected - 10, "else the test would not see it"


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_statistics_are_means_over_the_batches(momentum: float | None) -> None:
    each: Any = nn.InstanceNorm2d(3, track_running_stats=True)
    model: Any = nn.Sequential(nn.BatchNorm2d(3, momentum=momentum), nn.Dropout(0.5), each)
    model[0].running_mean += 3
    batches = torch.randn(5, 8, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1
    with estimating_statistics(model, tracked_layers(model)):
        for batch in batches:
            model(batch)
    torch.testing.assert_close(model[0].running_mean, batches.mean((0, 1, 3, 4)))
    torch.testing.assert_close(model[0].running_var, torch.stack([batch.var((0, 2, 3)) for batch in batches]).mean(0))
    normed = F.batch_norm(batches.flatten(0, 1), model[0].running_mean, model[0].running_var)
    torch.testing.assert_close(each.running_mean, normed.mean((0, 2, 3)), rtol=0, atol=0.1)
    assert each.running_var.min() > 0.8
    assert model.training
    assert model[0].momentum == momentum


def test_a_locked_batch_norm_keeps_its_statistics() -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False))
    model[0].eval()
    assert tracked_layers(model) == ["1"]
    with estimating_statistics(model, ["1"]):
        model(torch.randn(8, 2) + 5)
    assert model[0].running_mean.tolist() == [0, 0]
    assert model[1].running_mean.abs().min() > 1


class ScheduleFree(Optimizer):
    """The SGD of Defazio et al. 2024: the parameters are the point where gradients are taken in training mode, and the
    average in evaluation mode. The mode is part of the saved state, as in the authors' own code.
    """

    def __init__(self, params: Any, lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "k": 0, "train_mode": False})

    def _in_training(self) -> bool:
        return all(group["train_mode"] for group in self.param_groups)

    def _note(self, mode: bool) -> None:
        for group in self.param_groups:
            group["train_mode"] = mode

    def _move(self, share: float) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if "z" in self.state[weight]:
                    weight.lerp_(self.state[weight]["z"], share)

    @torch.no_grad()
    def eval(self) -> None:
        if self._in_training():
            self._move(1 - 1 / 0.9)
            self._note(False)

    @torch.no_grad()
    def train(self) -> None:
        if not self._in_training():
            self._move(1 - 0.9)
            self._note(True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        assert self._in_training(), "a step outside training mode"
        for group in self.param_groups:
            share, lr = 1 / (group["k"] + 1), group["lr"]
            for weight in group["params"]:
                state = self.state[weight]
                z = state.setdefault("z", weight.clone())
                weight.lerp_(z, share)
                weight.add_(weight.grad, alpha=lr * (0.9 * (1 - share) - 1))
                z.sub_(weight.grad, alpha=lr)
            group["k"] += 1


class Forgetful(ScheduleFree):
    """Does not save its mode in its state."""

    in_training = False

    def _in_training(self) -> bool:
        return self.in_training

    def _note(self, mode: bool) -> None:
        self.in_training = mode


MODES = ["ScheduleFree", "Forgetful"]


def free(make_config: MakeConfig, name: str, *overrides: str) -> Any:
    return make_config(
        "optimizer=sgd", "~optimizer.momentum", "~optimizer.fused", f"optimizer._target_={__name__}.{name}",
        *PLAIN, "train.clip_norm=null", "train.ema_decay=null", "train.evaluate_every=7", "train.steps=24",
        "train.log_every=5", "run.checkpoint_every=5", *overrides,
    )  # fmt: skip


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("ema_decay", [None, 0.8])
def test_a_schedule_free_optimizers_average_is_evaluated_and_saved(
    make_config: MakeConfig, name: str, ema_decay: float | None
) -> None:
    cfg = free(make_config, name, *LINEAR, "train.micro_batch_size=32", f"train.ema_decay={ema_decay or 'null'}")
    directory, task = executed(cfg), built(cfg)

    # Equations 7 to 9 of the paper, in three sets of weights.
    torch.manual_seed(derive_seed(cfg.seed, "init"))
    model = task.model()
    x = [weight.detach().clone() for weight in model.parameters()]
    z = copy.deepcopy(x)
    averaged: list[Tensor] = []
    for step in range(cfg.train.steps):
        for weight, z_, x_ in zip(model.parameters(), z, x, strict=True):
            weight.data = 0.1 * z_ + 0.9 * x_
        indices = sample_indices(task.num_train, cfg.seed, step * 32, 32)
        batch = task.batch(indices, [derive_seed(cfg.seed, "sample", step, 0, place) for place in range(32)])
        gradients = torch.autograd.grad(
            F.cross_entropy(model(normalized(cfg, batch["images"])), batch["labels"]), list(model.parameters())
        )
        warmup, steps = cfg.schedule.warmup_steps, cfg.train.steps
        progress = torch.tensor(torch.pi * (step - warmup) / (steps - warmup))
        lr = cfg.optimizer.lr * ((step + 1) / warmup if step < warmup else 0.5 * (1 + torch.cos(progress).item()))
        z = [z_ - lr * gradient for z_, gradient in zip(z, gradients, strict=True)]
        x = [(1 - 1 / (step + 1)) * x_ + z_ / (step + 1) for x_, z_ in zip(x, z, strict=True)]
        averaged = [0.8 * old + 0.2 * new for old, new in zip(averaged, x, strict=True)] if averaged else x
    for weight, value in zip(model.parameters(), averaged if ema_decay else x, strict=True):
        weight.data = value
    for key, value in evaluated_weights(last_checkpoint(directory)).items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-3, atol=1e-5)
    images, labels = whole(cfg, "test")
    expected = F.cross_entropy(model(images), labels).item()
    assert last_values(directory)["test/loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", MODES)
def test_checkpoints_and_crashes_do_not_change_a_schedule_free_run(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    seldom = free(make_config, name, f"run.runs_dir={tmp_path}/seldom", "run.checkpoint_every=100")
    expected = rows(executed(seldom))

    cfg = free(make_config, name)
    with monkeypatch.context() as patch:
        crash_at_call(5, patch, record.RunRecord, "append")
        with pytest.raises(Killed):
            execute(cfg)
    assert rows(executed(cfg)) == expected


def test_a_schedule_free_optimizers_average_has_its_own_batch_norm_statistics(make_config: MakeConfig) -> None:
    cfg = free(make_config, "ScheduleFree", "train.steps=80")
    directory, model = executed(cfg), built(cfg).model()
    model.load_state_dict(last_checkpoint(directory)["model"])
    update_bn([(part, None) for part in whole(cfg, "train")[0].split(16)], model)
    assert last_values(directory)["test/top1"] == pytest.approx(right(model, *whole(cfg, "test")), abs=3)


@pytest.mark.parametrize("name", MODES)
def test_evaluation_mode_restores_the_training_weights_bit_for_bit(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(50, 50)
    optimizer = globals()[name](model.parameters(), lr=0.1, weight_decay=0.0)
    optimizer.train()
    for _ in range(5):
        model(torch.randn(8, 50)).square().sum().backward()
        optimizer.step()
    before = [weight.detach().clone() for weight in model.parameters()]
    for _ in range(20):
        with evaluation_mode(optimizer):
            assert not torch.equal(model.weight, before[0])
    assert all(torch.equal(weight, old) for weight, old in zip(model.parameters(), before, strict=True))
    optimizer.step()
