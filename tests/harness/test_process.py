"""Settings that a process cannot fulfil are refused, and averages of weights are PyTorch's."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from experiments.harness.entry import execute
from experiments.harness.errors import ConfigError
from experiments.harness.train import update_average
from tests.conftest import MakeConfig


def test_more_gpus_than_processes_are_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"run\.gpus=8 .* than its 1 processes .*--num_processes 8"):
        execute(make_config("run.gpus=8"))
    execute(make_config("run.gpus=0.25"))


def test_attention_of_cudnn_is_off(make_config: MakeConfig) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    execute(make_config())
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_smoke_and_mini_stay_on_the_cpu(make_config: MakeConfig) -> None:
    assert make_config().run.device == make_config("scale=mini").run.device == "cpu"
    assert make_config("scale=gpu", "hydra/launcher=basic").run.device == "auto"


def test_an_average_has_the_bits_of_pytorchs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7))
    ours, theirs = AveragedModel(model), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(4):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(3, 5))
        update_average(ours, model, 0.9)
        theirs.update_parameters(model)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
