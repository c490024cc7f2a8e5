"""What an experiment would cost, told without its data and without a GPU.

    python -m experiments.image_classification.plan experiment=image_classification/vit_b16_aug scale=paper

Model, parameters, samples, floating point operations, and the memory of each optimizer's state.
"""

import sys
from dataclasses import dataclass

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.harness.config import check, resolved
from experiments.harness.errors import SuiteError
from experiments.harness.optimizer import build_optimizer, state_bytes
from experiments.harness.provenance import ROOT
from experiments.image_classification import config  # noqa: F401  # registers the schema

OPTIMIZERS = ("lion", "adamw")
H100_FLOPS = 400e12
"""Operations a second in bfloat16 that large transformers reach on an H100, 40 % of its peak; ConvNets reach less."""


@dataclass(frozen=True)
class Plan:
    """The cost of one run, and of the study that it belongs to."""

    model: str
    parameters: int
    steps: int
    batch_size: int
    epochs: float | None
    """passes over data.train_images; None where their number is not in the config"""
    flops_per_step: int
    """forward and backward pass of a global batch; a multiplication and an addition are two"""
    runs: int
    """confirmation runs of a study of OPTIMIZERS"""
    state_bytes: dict[str, int]
    """by optimizer"""

    @property
    def samples(self) -> int:
        """Images that one run is trained on, repetitions counted."""
        return self.steps * self.batch_size

    @property
    def run_flops(self) -> int:
        """Floating point operations of one run's training."""
        return self.steps * self.flops_per_step


def plan(overrides: list[str]) -> Plan:
    """The cost of the experiment that ``overrides`` describe, as on the command line of a run without ``optimizer``."""
    configs = {}
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for name in OPTIMIZERS:
            configs[name] = compose("image_classification", [*overrides, f"optimizer={name}"])
            check(configs[name])
            resolved(configs[name])
    cfg = configs[OPTIMIZERS[0]]
    model = meta_model(cfg)
    train_images = cfg.data.train_images
    return Plan(
        model=str(cfg.model.get("model_name", cfg.model["_target_"])),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        steps=cfg.train.steps,
        batch_size=cfg.train.batch_size,
        epochs=cfg.train.steps * cfg.train.batch_size / train_images if train_images else None,
        flops_per_step=flops_per_image(model, cfg) * cfg.train.batch_size,
        runs=len(OPTIMIZERS) * len(cfg.study.confirm_seeds),
        state_bytes={name: optimizer_state_bytes(model, configs[name].optimizer) for name in OPTIMIZERS},
    )


def meta_model(cfg: DictConfig) -> nn.Module:
    """The model without memory for its weights."""
    with torch.device("meta"):
        model: nn.Module = instantiate(cfg.model, _convert_="all")
    return model


def flops_per_image(model: nn.Module, cfg: DictConfig) -> int:
    """Floating point operations of one image's forward and backward pass (matrix products and convolutions)."""
    size, images = cfg.data.image_size, 2  # batch norm wants more than one
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(images, cfg.data.channels, size, size, device="meta")).sum().backward()
    return int(counter.get_total_flops()) // images


def optimizer_state_bytes(model: nn.Module, optimizer_config: DictConfig) -> int:
    """Bytes of the state that the optimizer keeps after a step."""
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    optimizer = build_optimizer(model, optimizer_config)
    optimizer.step()
    return state_bytes(optimizer)


def show(planned: Plan) -> Table:
    """The plan as two columns."""
    table = Table(show_header=False, box=None)
    hours = planned.run_flops / H100_FLOPS / 3600
    rows: list[tuple[str, str]] = [
        ("model", planned.model),
        ("parameters", f"{planned.parameters / 1e6:.2f} M"),
        ("steps", f"{planned.steps:,} of {planned.batch_size:,} images"),
        ("images", f"{planned.samples:,}" + (f" ({planned.epochs:.1f} epochs)" if planned.epochs else "")),
        ("FLOPs a step", f"{planned.flops_per_step:.3g}"),
        ("FLOPs a run", f"{planned.run_flops:.3g} (at 40 % of an H100's peak {hours:,.0f} h)"),
        ("runs", f"{planned.runs} ({' and '.join(OPTIMIZERS)}), together {planned.runs * planned.run_flops:.3g} FLOPs"),
        *((f"state of {name}", f"{size / 2**20:,.0f} MiB") for name, size in planned.state_bytes.items()),
    ]
    for row in rows:
        table.add_row(*row)
    return table


if __name__ == "__main__":
    try:
        Console().print(show(plan(sys.argv[1:])))
    except (SuiteError, HydraException) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
