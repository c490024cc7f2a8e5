"""The diffusion configs: U-Nets have the right sizes, cells name the reported metrics, mistakes are refused."""

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from experiments.diffusion.models import meta_model, meta_output
from experiments.harness.composition import scale_of
from experiments.harness.config import typed
from experiments.harness.errors import ConfigError
from experiments.harness.source_code import ROOT
from experiments.study.paper import paper_cell
from tests.conftest import MakeConfig, built, configs

make_plain = configs("diffusion")

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment/diffusion").glob("*.yaml"))
PAPER = ["imagenet64", "imagenet128", "imagenet256", "imagen_base", "imagen_sr"]


def at_its_scale(name: str) -> list[str]:
    return [f"experiment=diffusion/{name}", f"scale={scale_of(f'diffusion/{name}')}"]


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiments_network_outputs_an_image(name: str) -> None:
    cfg = make_plain(*at_its_scale(name))
    assert cfg.train.sample_every
    size = cfg.data.image_size
    assert meta_output(meta_model(typed(cfg)), typed(cfg), 2).shape == (2, 3, size, size)


def adm_parameters(channels: int, multipliers: list[int], layers: int, image_size: int) -> int:
    """Counted from the description of the improved U-Net (Dhariwal and Nichol 2021, section 3), with six outputs
    and 1 000 classes.
    """
    time = 4 * channels

    def convolution(inputs: int, outputs: int, size: int = 3) -> int:
        return inputs * outputs * size**2 + outputs

    def norm(width: int) -> int:
        return 2 * width

    def residual(inputs: int, outputs: int) -> int:
        shortcut = convolution(inputs, outputs, 1) if inputs != outputs else 0
        scale_shift = convolution(time, 2 * outputs, 1)
        both = norm(inputs) + convolution(inputs, outputs) + norm(outputs) + convolution(outputs, outputs)
        return both + scale_shift + shortcut

    def attention(width: int, level: int | None = None) -> int:
        if level is not None and image_size >> level > 32:
            return 0
        return norm(width) + convolution(width, 3 * width, 1) + convolution(width, width, 1)

    widths = [channels * multiplier for multiplier in multipliers]
    count = convolution(channels, time, 1) + convolution(time, time, 1) + 1000 * time + convolution(3, channels)
    skips, width = [channels], channels
    for level, wide in enumerate(widths):
        for _ in range(layers):
            count += residual(width, wide) + attention(wide, level)
            width = wide
            skips.append(width)
        if wide is not widths[-1] or level < len(widths) - 1:
            count += residual(width, width)
            skips.append(width)
    count += 2 * residual(width, width) + attention(width)
    for level, wide in reversed(list(enumerate(widths))):
        for _ in range(layers + 1):
            count += residual(width + skips.pop(), wide) + attention(wide, level)
            width = wide
        count += residual(width, width) if level else 0
    return count + norm(width) + convolution(width, 6)


@pytest.mark.parametrize(
    ("size", "channels", "multipliers", "layers", "published"),
    # Dhariwal and Nichol 2021, Tables 4 and 13
    [(64, 192, [1, 2, 3, 4], 3, 296), (128, 256, [1, 1, 2, 3, 4], 2, 422), (256, 256, [1, 1, 2, 2, 4, 4], 2, 554)],
)
def test_imagenet_unets_have_adms_parameter_counts(
    size: int, channels: int, multipliers: list[int], layers: int, published: int
) -> None:
    cfg = make_plain("scale=paper", f"experiment=diffusion/imagenet{size}")
    ours = parameters(meta_model(typed(cfg)))
    assert round(ours / 1e6) == published
    cfg.model.out_channels = 6
    assert parameters(meta_model(typed(cfg))) == adm_parameters(channels, multipliers, layers, size)
    assert parameters(meta_model(typed(cfg))) - ours == 3 * (9 * channels + 1)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("imagen_base", 371.6),
        ("imagen_sr", 605.3),
        ("mini", 0.45),
        ("gpu", 4.1),
        ("gpu_ddpm", 35.7),
        ("gpu_text", 19.2),
        ("smoke", 0.049),
    ],
)
def test_other_networks_have_the_documented_parameter_counts(name: str, millions: float) -> None:
    cfg = make_plain(*at_its_scale(name))
    assert parameters(meta_model(typed(cfg))) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("name", PAPER)
def test_paper_cells_use_the_published_settings_and_metric(name: str) -> None:
    cfg = make_plain("scale=paper", f"experiment=diffusion/{name}")
    cell = paper_cell(cfg.study.paper, cfg.study.primary_metric)
    assert cell is not None
    assert cfg.study.margin == pytest.approx(0.05 * cell.values["adamw"], rel=0.03)
    assert cfg.train.batch_size == 2048
    assert cfg.schedule.shape == "constant"
    assert (cfg.sampling.sampler, cfg.sampling.steps) == ("ddpm", 1000)
    published: Any = OmegaConf.load(ROOT / "results/paper.yaml")
    settings = published.cells.diffusion[name].settings
    for optimizer in ("lion", "adamw"):
        ours = make_plain("scale=paper", f"experiment=diffusion/{name}", f"optimizer={optimizer}").optimizer
        assert ours.lr == settings[optimizer].lr
        assert ours.weight_decay == (settings[optimizer].weight_decay or 0)
        assert list(ours.betas) == list(settings[optimizer].betas)


@pytest.mark.parametrize("size", [12, 16, 20, 0, -4, 5])
def test_low_resolution_must_divide_the_image_size_and_be_smaller(make_text_to_image: MakeConfig, size: int) -> None:
    cfg = make_text_to_image("experiment=diffusion/smoke_sr", f"data.low_resolution={size}")
    with pytest.raises(ConfigError, match=f"data.low_resolution={size} must divide data.image_size=16 and be smaller"):
        built(cfg)
