"""The paper's cells: each file compared with the published numbers and with the paper's set-up and settings."""

from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
import yaml
from hydra.utils import instantiate
from torch import nn

from experiments.harness.config import resolved
from experiments.harness.limits import check_conflicts
from experiments.harness.optimizer import decay_groups
from experiments.harness.source_code import ROOT
from tests.image_classification.conftest import compose_cell

PAPER: dict[str, Any] = yaml.safe_load((ROOT / "results/paper.yaml").read_text())["cells"]["image_classification"]
IMAGENET_IMAGES, IMAGENET_21K_IMAGES = 1281167, 14197122


class Cell(NamedTuple):
    model: str
    epochs: int
    batch_size: int
    dropout: float
    stochastic_depth: float
    mixup: float
    """0: no RandAugment either"""


SCRATCH = {
    "resnet50": Cell("resnet50", 90, 1024, 0, 0, 0),
    "mixer_s16": Cell("mixer_s16_224", 300, 4096, 0, 0.1, 0),
    "mixer_b16": Cell("mixer_b16_224", 300, 4096, 0, 0.1, 0),
    "vit_s16": Cell("vit_small_patch16_224", 300, 4096, 0.1, 0.1, 0),
    "vit_s16_aug": Cell("vit_small_patch16_224", 300, 4096, 0, 0, 0.5),
    "vit_b16": Cell("vit_base_patch16_224", 300, 4096, 0.1, 0.1, 0),
    "vit_b16_aug": Cell("vit_base_patch16_224", 300, 4096, 0, 0, 0.5),
    "coatnet1_aug": Cell("coatnet_1_224", 300, 4096, 0, 0.3, 0.8),
    "coatnet3_aug": Cell("coatnet_3_224", 300, 4096, 0, 0.7, 0.8),
    **{
        f"vit_b16_aug_batch{size}": Cell("vit_base_patch16_224", 300, size, 0, 0, 0.5)
        for size in (64, 256, 1024, 16384, 32768)
    },
}
PRETRAINING = {
    "i21k_vit_b16": Cell("vit_base_patch16_224", 90, 4096, 0.1, 0.1, 0),
    "i21k_vit_l16": Cell("vit_large_patch16_224", 90, 4096, 0.1, 0.1, 0),
}
FINE_TUNING = ("i21k_vit_b16_384", "i21k_vit_l16_384")
ALL = [*SCRATCH, *PRETRAINING, *FINE_TUNING]


def build(cfg: Any, device: str) -> nn.Module:
    with torch.device(device):
        model: nn.Module = instantiate(cfg.model, _convert_="all")
    return model


def test_every_cell_of_table_2_has_an_experiment() -> None:
    table_2 = [name for name, cell in PAPER.items() if cell["metrics"].get("top1", {}).get("source") == "Table 2"]
    assert set(table_2) <= set(ALL)
    assert len(table_2) == 11


@pytest.mark.parametrize("name", ALL)
def test_every_cell_follows_the_papers_protocol(name: str) -> None:
    cfg = compose_cell(name)
    check_conflicts(cfg)
    assert resolved(cfg)["experiment"] == f"image_classification/{name}"
    assert (cfg.study.replicates, cfg.study.confirm, list(cfg.study.stages)) == (3, 1, [])
    assert (cfg.train.precision, cfg.train.clip_norm, cfg.schedule.shape) == ("bf16", 1.0, "cosine")
    assert (cfg.schedule.warmup_steps, cfg.schedule.end_factor) == (500 if name in FINE_TUNING else 10_000, 0)
    assert (cfg.label_smoothing, cfg.train.ema_decay) == (0, None)
    paper = cfg.study.paper
    assert (paper is None) == (name in PRETRAINING)
    assert paper is None or paper == f"image_classification.{name}"
    assert paper is None or name in PAPER


@pytest.mark.parametrize(("name", "cell"), [*SCRATCH.items(), *PRETRAINING.items()])
def test_steps_and_regularization_match_the_paper(name: str, cell: Cell) -> None:
    cfg = compose_cell(name)
    images = IMAGENET_21K_IMAGES if name in PRETRAINING else IMAGENET_IMAGES
    assert cfg.train.batch_size == cell.batch_size
    assert cfg.train.steps == round(cell.epochs * images / cell.batch_size)
    assert cfg.model.model_name == cell.model
    assert cfg.model.get("drop_path_rate", 0) == cell.stochastic_depth
    assert cfg.model.get("proj_drop_rate", 0) == cfg.model.get("pos_drop_rate", 0) == cell.dropout
    augmentation = cfg.augmentation
    assert augmentation.crop_area == [0.05, 1.0]
    strong = (2, 15) if cell.mixup else (0, 0)
    assert (augmentation.randaugment_ops, augmentation.randaugment_magnitude) == strong
    assert augmentation.mixup_alpha == cell.mixup
    assert (cfg.data.image_size, cfg.data.flip) == (224, True)


@pytest.mark.parametrize("name", [name for name in ALL if name not in FINE_TUNING])
@pytest.mark.parametrize("optimizer", ["lion", "adamw"])
def test_optimizer_settings_match_the_paper(name: str, optimizer: str) -> None:
    published = PAPER.get(name, {}).get("settings")
    if name.startswith("vit_b16_aug_batch"):
        published = PAPER["vit_b16_aug"]["settings"]
    if name in PRETRAINING:  # Table 12 gives those of pre-training; the row's numbers come after fine-tuning
        published = PAPER[f"{name}_384"]["settings"]
    found = compose_cell(name, f"optimizer={optimizer}").optimizer
    expected = published[optimizer]
    assert (found.lr, found.weight_decay, found.betas) == (expected["lr"], expected["weight_decay"], expected["betas"])
    assert "eps" not in found or found.eps == 1e-6


@pytest.mark.parametrize("name", [name for name in ALL if name not in PRETRAINING])
def test_parameter_counts_match_the_papers_printed_digits(name: str) -> None:
    model = build(compose_cell(name), "meta")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    base = "vit_b16_aug" if name.startswith("vit_b16_aug_batch") else name
    assert round(parameters / 1e6, 2) == PAPER[base]["parameters_million"]


@pytest.mark.parametrize("name", FINE_TUNING)
def test_fine_tuning_at_384_pixels_starts_from_the_same_optimizers_pretraining(name: str) -> None:
    cfg = compose_cell(name, "optimizer=adamw", "seed=2")
    assert (cfg.data.image_size, cfg.data.name) == (384, "imagenet")
    before = name.removesuffix("_384")
    pretraining = compose_cell(before, "optimizer=adamw", "seed=2")
    assert cfg.data.initial_run == pretraining.data.name
    assert cfg.data.initial_sources == [
        {"path": "runs/image_classification/adamw-s2-*", "model_name": pretraining.model.model_name}
    ]
    assert cfg.model.model_name == PRETRAINING[before].model


@pytest.mark.parametrize("name", ["resnet50", "mixer_b16", "vit_b16", "coatnet1_aug"])
def test_only_kernels_decay_and_not_biases_norms_or_embeddings(name: str) -> None:
    model = build(compose_cell(name), "meta")
    groups = decay_groups(model)
    parameters = dict(model.named_parameters())
    assert all(parameters[key].ndim >= 2 for key in groups["decay"])
    embeddings = {"pos_embed", "cls_token"} | {key for key in parameters if "relative_position" in key or "bias" in key}
    assert embeddings & set(parameters) <= set(groups["no_decay"])
    kernels = {key for key, value in parameters.items() if value.ndim >= 2} - embeddings
    assert kernels == set(groups["decay"])


def test_the_classifier_starts_at_zero_as_in_the_original_vit() -> None:
    cfg = compose_cell("vit_s16", "data.num_classes=7")
    cfg.model = {**cfg.model, "depth": 1}
    model: Any = build(cfg, "cpu")
    assert model.head.weight.abs().sum() == 0
    fan = model.blocks[0].mlp.fc1
    bound = (6 / (fan.in_features + fan.out_features)) ** 0.5
    assert fan.weight.abs().max().item() == pytest.approx(bound, rel=0.01), "Xavier, uniform"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["resnet50", "mixer_s16", "mixer_b16", "vit_s16", "vit_b16_aug", "coatnet1_aug", "coatnet3_aug", *FINE_TUNING],
)
def test_every_model_trains_a_step_at_full_resolution(name: str) -> None:
    cfg = compose_cell(name)
    model = build(cfg, "cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    size = cfg.data.image_size
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    losses = []
    for _ in range(2):
        loss = F.cross_entropy(model(images), torch.tensor([1, 998]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert losses[0] < 12, "about ln(1000) = 6.9 at the start"
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
