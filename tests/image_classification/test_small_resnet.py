"""ResNet-18 for small images."""

import pytest
import timm
import torch
from torch import nn

from experiments.image_classification.small_resnet import resnet18


def test_resnet18_keeps_its_channels_last_and_computes_what_timms_layers_do() -> None:
    torch.manual_seed(0)
    model = resnet18(3, 10)
    images = torch.randn(4, 3, 32, 32)
    shapes: list[torch.Size] = []

    def check(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        assert output.is_contiguous(memory_format=torch.channels_last)
        shapes.append(output.shape)

    for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        model.get_submodule(name).register_forward_hook(check)
    logits = model(images)
    assert shapes == [(4, 64, 32, 32), (4, 64, 32, 32), (4, 128, 16, 16), (4, 256, 8, 8), (4, 512, 4, 4)]

    plain = timm.create_model("resnet18", in_chans=3, num_classes=10)
    plain.conv1, plain.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    plain.load_state_dict(model.state_dict())
    assert plain(images).tolist() == [pytest.approx(row, rel=1e-3, abs=1e-5) for row in logits.tolist()]
