"""Every optimizer of conf/optimizer trains, decays the right parameters, resumes exactly, and is what its file says."""

import copy
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from experiments.harness.composition import composed
from experiments.harness.optimizer import build_optimizer
from experiments.harness.source_code import ROOT
from experiments.study.paper import paper_cell
from tests.conftest import MakeConfig, executed, status_of, values_of

OPTIMIZERS = sorted(path.stem for path in (ROOT / "conf/optimizer").glob("*.yaml"))


def unless_missing(name: str) -> Any:
    """An optimizer as a test's parameter, skipped where its package is an extra that is not installed."""
    config = composed("image_classification", ["scale=smoke", f"optimizer={name}"])  # needs no Ray
    package = config.optimizer._target_.partition(".")[0]
    reason = f"{package} is not installed (pip install -e '.[lowbit]')"
    return pytest.param(name, marks=pytest.mark.skipif(find_spec(package) is None, reason=reason))


# A CPU has no pages: tests/harness/test_low_bit.py sees to it that the paged ones are refused there.
every_optimizer = pytest.mark.parametrize("name", [unless_missing(name) for name in OPTIMIZERS if "paged" not in name])


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 24), nn.LayerNorm(24), nn.Linear(24, 3))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        width = next(model.parameters()).shape[1]
        inputs = torch.randn(16, width, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()


@every_optimizer
def test_a_smoke_run_completes_with_finite_losses(make_config: MakeConfig, name: str) -> None:
    directory = executed(make_config(f"optimizer={name}"))
    assert directory.name.startswith(f"{name}-s0-")
    assert status_of(directory)["status"] == "complete"
    losses = values_of(directory, "train/loss")
    assert len(losses) == 4
    assert all(math.isfinite(loss) for loss in losses)


def shrunk(weight: torch.Tensor, config: Any, steps: int) -> torch.Tensor:
    """``weight`` after ``steps`` without gradients: decoupled decay, or for SGD an L2 term under its momentum."""
    if config.name != "sgd":
        return weight * (1 - config.lr * config.weight_decay) ** steps
    velocity = torch.zeros_like(weight)
    for _ in range(steps):
        velocity = 0.9 * velocity + config.weight_decay * weight
        weight = weight - config.lr * velocity
    return weight


@every_optimizer
def test_zero_gradients_shrink_only_matrices_by_lr_times_decay(make_config: MakeConfig, name: str) -> None:
    config = make_config(f"optimizer={name}").optimizer
    assert config.weight_decay > 0
    model = small_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)  # no entry is 0, because decay does not change a 0
    before = copy.deepcopy(model.state_dict())
    optimizer = build_optimizer(model, config)
    for _ in range(10):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    for key, value in model.state_dict().items():
        if key in ("0.weight", "2.weight"):
            torch.testing.assert_close(value, shrunk(before[key], config, steps=10), rtol=2e-6, atol=0)
        else:
            assert torch.equal(value, before[key]), key


@every_optimizer
def test_training_from_a_reloaded_state_is_bit_identical(make_config: MakeConfig, tmp_path: Path, name: str) -> None:
    config = make_config(f"optimizer={name}").optimizer
    model = small_model()
    optimizer = build_optimizer(model, config)
    train(model, optimizer, range(4))
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    other = copy.deepcopy(model)
    resumed = build_optimizer(other, config)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    train(model, optimizer, range(4, 8))
    train(other, resumed, range(4, 8))
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


@pytest.mark.parametrize(("name", "beta"), [("signum_b9", 0.9), ("signum_b99", 0.99)])
def test_lion_with_two_equal_betas_is_the_papers_ablation_with_one_beta(
    make_config: MakeConfig, name: str, beta: float
) -> None:
    config = make_config(f"optimizer={name}").optimizer
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(500, 40, generator=generator, dtype=torch.float64))
    model = nn.Module()
    model.weight = weight
    optimizer = build_optimizer(model, config)
    expected, momentum = weight.detach().clone(), torch.zeros_like(weight)
    for _ in range(50):
        gradient = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        weight.grad = gradient.clone()
        optimizer.step()
        momentum = beta * momentum + (1 - beta) * gradient
        expected = expected * (1 - config.lr * config.weight_decay) - config.lr * momentum.sign()
    # One entry whose sign differed in one step would be off by 2 lr.
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(optimizer.state[weight]["exp_avg"], momentum, rtol=1e-12, atol=1e-12)


def first_update(config: Any, gradient: torch.Tensor) -> torch.Tensor:
    """What the first step adds to a parameter without decay, in units of -lr."""
    model = nn.Module()
    model.bias = nn.Parameter(torch.zeros_like(gradient))
    model.bias.grad = gradient.clone()
    build_optimizer(model, config).step()
    return -model.bias.detach() / config.lr


def test_first_steps_match_the_published_update_rules(make_config: MakeConfig) -> None:
    gradient = torch.tensor([3.0, -0.02, 1e-3])
    sign = gradient.sign()
    expected = {
        "amsgrad": sign,
        "adabelief": sign / 0.9,  # its second moment is that of g - 0.1 g; a rectified first step would be g
        "radam": gradient,  # unrectified: no variance is known yet
        "adafactor": 0.1 * sign,  # momentum 0.9 from zero, not corrected
        "sgd": gradient,
        "cautious_lion": sign * 3 / 4,  # all three kept, scaled by size / (kept + 1)
    }
    for name, update in expected.items():
        config = make_config(f"optimizer={name}").optimizer
        tolerance = 2**-8 if name == "adafactor" else 1e-4  # its momentum is bfloat16; the others have an epsilon
        torch.testing.assert_close(first_update(config, gradient), update, rtol=tolerance, atol=0, msg=name)


def test_optimizers_of_the_papers_table_7_have_configs_of_the_same_name() -> None:
    cell = paper_cell("image_classification.vit_b16_aug_optimizers", "test/top1")
    assert cell is not None
    assert cell.values.keys() - set(OPTIMIZERS) == {"powersign", "addsign"}, "neither torch nor timm has these two"
