"""The scale factor of the initial weights."""

import pytest
import torch
from torch import nn

from experiments.harness.errors import ConfigError
from experiments.harness.optimizer import mark_pretrained, scale_initial_weights
from tests.conftest import MakeConfig, executed, rows
from tests.harness.test_optimizer import Tied


def scaled(model: nn.Module, scale: float) -> dict[str, float]:
    """The factor by which each parameter grew; parameters that are 0 are omitted."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    scale_initial_weights(model, scale)
    return {
        name: (parameter.norm() / before[name].norm()).item()
        for name, parameter in model.named_parameters()
        if before[name].any()
    }


def test_initial_scaling_applies_only_to_decayed_matrices() -> None:
    grown = scaled(Tied(), 3.0)
    assert {name for name, factor in grown.items() if factor != 1} == {
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    }
    assert grown["attention.in_proj_weight"] == pytest.approx(3)


def test_initial_scaling_skips_pretrained_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    mark_pretrained(model[0])
    grown = scaled(model, 0.5)
    assert grown["0.weight"] == 1
    assert grown["1.weight"] == pytest.approx(0.5)


def test_an_initial_scale_of_one_changes_no_bit() -> None:
    model = nn.Linear(30, 30)
    before = model.weight.detach().clone()
    scale_initial_weights(model, 1.0)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_non_positive_or_non_finite_initial_scale_is_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match="init_scale"):
        scale_initial_weights(nn.Linear(2, 2), scale)


def test_a_run_starts_from_scaled_weights(make_config: MakeConfig) -> None:
    first_losses = []
    for scale in (1, 4):
        cfg = make_config(f"train.init_scale={scale}", "train.log_every=1")
        first_losses.append(rows(executed(cfg))[0]["train/loss"])
    assert first_losses[0] != first_losses[1]
