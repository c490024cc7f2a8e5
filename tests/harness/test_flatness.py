"""Flatness against losses whose mean under noise is known, and as part of a run."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from experiments.harness.entry import execute
from experiments.harness.errors import ConfigError
from experiments.harness.flatness import flatness, noise_on_weights
from experiments.harness.seeds import derive_seed
from tests.conftest import AVERAGED, MakeConfig, built, executed, last_checkpoint, last_values, rows
from tests.harness.test_averages import whole
from tests.study.test_study import run_study, studies


def settings(std: float, draws: int = 3, seed: int = 0) -> Any:
    return SimpleNamespace(seed=seed, flatness=SimpleNamespace(draws=draws, std=std, samples=1))


@torch.no_grad()
def around(model: nn.Module, loss: Callable[[], Tensor], cfg: Any) -> dict[str, float]:
    """The metrics of flatness for a task whose loss on the training samples is ``loss``."""
    made = flatness(cfg, cfg.flatness.samples, lambda model, process, num_processes: {"loss": loss()}, dict)["flatness"]
    return made.metrics({name: value.item() for name, value in made.sums(model, 0, 1).items()})


def rms(weight: Tensor) -> float:
    return weight.detach().square().mean().sqrt().item()


Linear = tuple[nn.Linear, Tensor, Tensor]
"""A linear model, and inputs with targets that it does not fit."""


@pytest.fixture
def linear() -> Linear:
    torch.manual_seed(0)
    return nn.Linear(40, 10).double(), torch.randn(50, 40).double(), torch.randn(50, 10).double()


def test_noise_raises_a_quadratic_loss_by_half_the_trace_of_its_hessian(linear: Linear) -> None:
    model, inputs, errors = linear
    targets = model(inputs).detach() + 0.1 * errors
    draws, std = 200, 0.5

    def loss() -> Tensor:
        return 0.5 * (model(inputs) - targets).square().sum(1).mean()

    measured = around(model, loss, settings(std, draws))
    increase = measured["perturbed_loss"] - measured["train_loss"]

    # The Hessian in the weights is one copy of E[x x^T] for each of the 10 outputs; the bias has no noise.
    sigma = std * rms(model.weight)
    trace = 10 * inputs.square().sum(1).mean().item()
    residuals = (model(inputs) - targets).detach()
    gradient = residuals.T @ inputs / len(inputs)
    curvature = inputs.T @ inputs / len(inputs)
    variance = sigma**2 * gradient.square().sum() + 0.5 * sigma**4 * 10 * curvature.square().sum()
    assert measured["train_loss"] == pytest.approx(0.5 * residuals.square().sum(1).mean().item(), rel=1e-12)
    assert increase == pytest.approx(0.5 * sigma**2 * trace, abs=4 * math.sqrt(variance / draws))
    assert 4 * math.sqrt(variance / draws) < 0.03 * increase, "the check must be able to fail"


def test_flatness_of_a_normalized_layer_is_scale_invariant(linear: Linear) -> None:
    model, inputs, targets = linear

    def loss() -> Tensor:
        return F.mse_loss(F.layer_norm(model(inputs), (10,), eps=0.0), targets)

    before = around(model, loss, settings(0.3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(100)
    assert around(model, loss, settings(0.3)) == pytest.approx(before, rel=1e-9)


def network(seed: int, size: float) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2), nn.LayerNorm(2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return model.to(memory_format=torch.channels_last)


def noises(model: nn.Module, seed: int, draws: int = 2) -> list[dict[str, Tensor]]:
    """What each draw added to every entry of the state, measured externally."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found: list[dict[str, Tensor]] = []

    def loss() -> Tensor:
        found.append({name: value - before[name] for name, value in model.state_dict().items()})
        return torch.ones(())

    around(model, loss, settings(0.2, draws, seed))
    return found[1:]


def test_only_matrices_and_kernels_are_perturbed_by_the_requested_noise() -> None:
    model = network(0, 0.1)
    (noise,) = noises(model, seed=0, draws=1)
    perturbed = {name: rms(value) for name, value in noise.items() if value.is_floating_point() and value.any()}
    assert set(perturbed) == {"0.weight", "3.weight"}
    with noise_on_weights(big := nn.Linear(500, 500, bias=False), 0.0, seed=0):
        size = rms(big.weight)
    with noise_on_weights(big, 0.2, seed=0):
        added = big.weight.detach().clone()
    assert rms(added - big.weight) == pytest.approx(0.2 * size, rel=0.01)


def test_optimizers_with_the_same_seed_get_the_same_perturbations() -> None:
    """Two models of one shape with different weights, as if trained by two optimizers from one initialization."""
    ours, theirs = network(1, 0.1), network(2, 3.0)
    standard = [
        [{name: draw[name] / rms(model.get_parameter(name)) for name in ("0.weight", "3.weight")} for draw in drawn]
        for model, drawn in ((ours, noises(ours, seed=5)), (theirs, noises(theirs, seed=5)))
    ]
    for a, b in zip(*standard, strict=True):
        for name, value in a.items():
            torch.testing.assert_close(value, b[name], rtol=1e-3, atol=1e-5)
    first, second = standard[0]
    assert not torch.allclose(first["0.weight"], second["0.weight"], atol=0.01), "every draw is another"
    other_seed = noises(ours, seed=6)[0]["0.weight"] / rms(ours.get_parameter("0.weight"))
    assert not torch.allclose(first["0.weight"], other_seed, atol=0.01)


@pytest.mark.parametrize("fails", [False, True])
def test_measuring_flatness_restores_weights_and_random_state(fails: bool) -> None:
    model = network(0, 0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    calls = iter([1.0, 2.0, math.nan])

    def loss() -> Tensor:
        value = next(calls)
        if fails and math.isnan(value):
            raise RuntimeError("the evaluation broke")
        return torch.tensor(value)

    with pytest.raises((RuntimeError, ConfigError), match="broke" if fails else r"flatness\.std=0\.2 makes"):
        around(model, loss, settings(0.2, draws=2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_run_reports_the_loss_at_and_around_its_evaluated_weights(make_config: MakeConfig) -> None:
    cfg = make_config("flatness.draws=3", AVERAGED)
    directory = executed(cfg)
    *_, test, last = rows(directory)
    assert "test/loss" in test
    assert set(last) == {"step", "samples", "flatness/train_loss", "flatness/perturbed_loss"}

    # The averaged weights, on the first training images in their own order, by hand.
    average = AveragedModel(built(cfg).model())
    average.load_state_dict(last_checkpoint(directory)["ema"])
    model = average.module.eval()
    images, labels = (tensor[: cfg.flatness.samples] for tensor in whole(cfg, "train"))

    @torch.no_grad()
    def loss() -> float:
        return F.cross_entropy(model(images), labels).item()

    assert last["flatness/train_loss"] == pytest.approx(loss(), rel=1e-5)
    perturbed = []
    for draw in range(3):
        with noise_on_weights(model, cfg.flatness.std, derive_seed(cfg.seed, "flatness", draw)):
            perturbed.append(loss())
    assert last["flatness/perturbed_loss"] == pytest.approx(sum(perturbed) / 3, rel=1e-5)
    assert last["flatness/perturbed_loss"] != last["flatness/train_loss"]


def test_flatness_is_measured_only_by_confirm_runs_and_on_request(make_config: MakeConfig) -> None:
    for override in ("test=false", "flatness.draws=0"):
        found = last_values(executed(make_config(override)))
        assert not [key for key in found if key.startswith("flatness/")]


def test_measuring_flatness_does_not_change_training(make_config: MakeConfig) -> None:
    once, twice = (rows(executed(make_config(f"flatness.draws={draws}"))) for draws in (1, 2))
    assert once[:-1] == twice[:-1]
    assert "flatness/train_loss" not in once[-2]


def test_a_study_compares_the_flatness_increase_of_the_optimizers(command_line: list[str], tmp_path: Path) -> None:
    result = run_study(command_line, "optimizer=lion,adamw", "study=fixed")
    assert result.returncode == 0, result.stderr
    (summary,) = studies(tmp_path)
    compared = {row["metric"]: row for row in summary["comparisons"] if row["metric"].startswith("flatness/")}
    row = compared["flatness/increase"]
    assert (row["better"], row["primary"], row["verdict"]) == ("lower", False, None)
    for optimizer in ("lion", "adamw"):
        (directory,) = tmp_path.glob(f"runs/image_classification/{optimizer}-s0-*")
        last = last_values(directory)
        increase = last["flatness/perturbed_loss"] - last["flatness/train_loss"]
        assert row["per_replicate"][optimizer] == [pytest.approx(increase, rel=1e-12)]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("flatness.std=0", r"needs flatness\.std and flatness\.samples above 0"),
        ("flatness.samples=0", r"needs flatness\.std and flatness\.samples above 0"),
        ("flatness.samples=241", r"flatness\.samples=241, but there are 240 to train on: set it to at most 240, or"),
    ],
)
def test_invalid_settings_are_refused(make_config: MakeConfig, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        execute(make_config(override))
