"""The scale factor of the initial weights."""

import pytest
from torch import nn

from experiments.harness.errors import ConfigError
from experiments.harness.optimizer import mark_pretrained, scale_initial_weights
from tests.conftest import MakeConfig, executed, values_of
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
    grown = {name: factor for name, factor in scaled(Tied(), 3.0).items() if factor != 1}
    assert grown == pytest.approx({"attention.in_proj_weight": 3, "attention.out_proj.weight": 3})


def test_initial_scaling_skips_pretrained_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    mark_pretrained(model[0])
    grown = scaled(model, 0.5)
    assert grown["0.weight"] == 1
    assert grown["1.weight"] == pytest.approx(0.5)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_non_positive_or_non_finite_initial_scale_is_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match="init_scale"):
        scale_initial_weights(nn.Linear(2, 2), scale)


def test_a_run_starts_from_scaled_weights(make_config: MakeConfig) -> None:
    runs = (executed(make_config(f"train.init_scale={scale}", "train.log_every=1")) for scale in (1, 4))
    one, four = (values_of(run, "train/loss")[0] for run in runs)
    assert one != four
