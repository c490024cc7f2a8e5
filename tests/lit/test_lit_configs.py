"""The LiT configs: towers can be built, the paper's have the right sizes, cells report the paper's metrics."""

from typing import Any

import pytest
import torch
from hydra.utils import get_method
from omegaconf import OmegaConf

from experiments.harness.composition import scale_of
from experiments.harness.config import typed
from experiments.harness.source_code import ROOT
from experiments.lit.class_names import class_names, templates
from experiments.lit.models import build_locked_tower, build_two_towers
from experiments.metrics.zero_shot import prompts
from experiments.study.paper import paper_cell
from tests.conftest import configs

make_plain = configs("lit")

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment/lit").glob("*.yaml"))
PAPER = ["b32_b", "b16_b", "g14_288_l"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiments_towers_output_the_embedding_size(name: str) -> None:
    cfg = make_plain(f"scale={scale_of(f'lit/{name}')}", f"experiment=lit/{name}")
    assert callable(get_method(cfg.model.tokenizer))
    if name in PAPER:
        cfg.model.image.locked.pretrained = False
    with torch.device("meta"):
        model = build_two_towers(typed(cfg).model, {}, {"image": False, "text": False})
        size = cfg.model.image_size
        images = torch.zeros(2, 3, size, size, dtype=torch.uint8, device="meta")
        texts = torch.ones(2, cfg.model.context_length, dtype=torch.int64, device="meta")
        assert model.embed_images(images).shape == model.embed_texts(texts).shape == (2, cfg.model.embed_dim)


@pytest.mark.parametrize(
    ("name", "image", "text"),
    # ViT-B/32, B/16 and g/14 (Zhai et al. 2022: 1 011 M); a text tower is 12 width^2 a layer, its tokens and positions.
    [("b32_b", 87.5, 123.6), ("b16_b", 85.8, 123.6), ("g14_288_l", 1011.4, 354.4)],
)
def test_the_papers_towers_have_the_published_parameter_counts(name: str, image: float, text: float) -> None:
    cfg = make_plain("scale=paper", f"experiment=lit/{name}")
    cfg.model.image.locked.pretrained = False
    with torch.device("meta"):
        model = build_two_towers(typed(cfg).model, {}, {"image": False, "text": False})
    tower = cfg.model.text.trained
    by_hand = 12 * tower.layers * tower.width**2 + (49408 + 16) * tower.width + tower.width * cfg.model.embed_dim
    assert sum(p.numel() for p in model.image.parameters()) / 1e6 == pytest.approx(image, abs=0.1)
    assert sum(p.numel() for p in model.text.parameters()) / 1e6 == pytest.approx(text, abs=0.1)
    assert sum(p.numel() for p in model.text.parameters()) == pytest.approx(by_hand, rel=2e-3)
    assert not any(parameter.requires_grad for parameter in model.image.parameters())


@pytest.mark.parametrize("name", PAPER)
def test_paper_cells_report_every_metric_of_the_paper(name: str) -> None:
    cfg = make_plain("scale=paper", f"experiment=lit/{name}")
    metrics = [cfg.study.primary_metric, *cfg.study.secondary_metrics]
    published = [metric for metric in metrics if paper_cell(cfg.study.paper, metric)]
    cells: Any = OmegaConf.load(ROOT / "results/paper.yaml")
    assert {metric.partition("/")[2] for metric in published} == set(cells.cells.lit[name].metrics)
    assert cfg.train.batch_size == cfg.train.micro_batch_size == 16384
    assert cfg.settings.lion.betas == [0.9, 0.99]
    assert cfg.settings.adamw.betas == [0.9, 0.999]


def test_prompt_sets_have_the_expected_numbers_of_classes_and_templates() -> None:
    assert [len(class_names(name)) for name in ("imagenet", "cifar10", "cifar100", "pets")] == [1000, 10, 100, 37]
    assert class_names("cifar100")[8] == "bicycle"
    assert len(templates("imagenet")) == 80
    assert prompts(["cat"], templates("imagenet"))[0] == "a bad photo of a cat."


def test_the_locked_tower_does_not_depend_on_the_seed() -> None:
    cfg = make_plain("scale=smoke")
    cfg.model.image.locked = cfg.model.image.trained
    first, second = (build_locked_tower(typed(cfg).model, "image", {}).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
