"""The fine-tuning configs: models have the right sizes and are pinned, cells report the paper's scores."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf

from experiments.finetuning.glue import TASKS
from experiments.finetuning.models import build_classifier, meta_loss, meta_model
from experiments.harness.composition import scale_of
from experiments.harness.config import resolved, typed
from experiments.harness.optimizer import decay_groups
from experiments.harness.source_code import ROOT
from experiments.pretrained.locked import build_locked
from experiments.study.paper import paper_cell
from tests.conftest import MakeConfig, configs, fetched

make_plain = configs("finetuning")

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment/finetuning").glob("*.yaml"))
CLASSIFIERS = ["gpu", "mini", "smoke"]
PAPER = ["glue_t5_base", "glue_t5_large", "glue_t5_11b"]


def composed(make: MakeConfig, name: str, *more: str) -> Any:
    return make(f"scale={scale_of(f'finetuning/{name}')}", f"experiment=finetuning/{name}", *more)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_config_outputs_one_logit_per_class(name: str) -> None:
    cfg = composed(make_plain, name)
    assert callable(get_method(cfg.model.tokenizer))
    tokens = torch.ones(2, cfg.model.context_length, dtype=torch.int64)
    model = build_classifier(cfg.model, cfg.data.num_classes, {})
    with torch.no_grad():
        inputs = build_locked(cfg.model.locked, {})(tokens) if cfg.model.locked else tokens
        assert model(inputs).shape == (2, cfg.data.num_classes)


def trained_model(cfg: Any) -> Any:
    """On the meta device, without its weights."""
    cfg.model.trained.weights = None
    with torch.device("meta"):
        return instantiate(cfg.model.trained)


def num_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("name", "million"), [*zip(PAPER, (222.90, 737.67, 11307.3), strict=True)])
def test_t5_parameter_counts_match_those_published_and_a_hand_calculation(name: str, million: float) -> None:
    cfg = composed(make_plain, name)
    model, size = trained_model(cfg), cfg.model.trained.config
    attention = 4 * size.d_model * size.d_kv * size.num_heads
    feed_forward = 2 * size.d_model * size.d_ff
    norms, positions = size.d_model, 32 * size.num_heads
    encoder = size.num_layers * (attention + feed_forward + 2 * norms) + norms + positions
    decoder = size.num_layers * (2 * attention + feed_forward + 3 * norms) + norms + positions
    assert num_parameters(model) == size.vocab_size * size.d_model + encoder + decoder
    assert num_parameters(model) / 1e6 == pytest.approx(million, rel=1e-4)
    assert "network.shared.weight" in decay_groups(model)["no_decay"]


def test_gpt2_has_the_published_parameter_count() -> None:
    model = trained_model(composed(make_plain, "glue_t5_base", "model=ft_gpt2"))
    assert num_parameters(model) / 1e6 == pytest.approx(124.44, rel=1e-4)


@pytest.mark.parametrize("name", PAPER)
def test_paper_cells_report_every_glue_score_of_the_paper(name: str) -> None:
    cfg = composed(make_plain, name)
    metrics = [cfg.study.primary_metric, *cfg.study.secondary_metrics]
    published = {metric for metric in metrics if paper_cell(cfg.study.paper, metric)}
    cells: Any = OmegaConf.load(ROOT / "results/paper.yaml")
    cell = cells.cells.finetuning[name.removeprefix("glue_")]
    assert {metric.partition("/")[2] for metric in published} == set(cell.metrics)
    everything = np.array([0.0, 1.0])
    scores = {
        f"test/{task}{part}{suffix}"
        for task, one in TASKS.items()
        for part in one.test_splits
        for suffix in one.scores(everything, everything)
    }
    assert published == {*scores, "test/average"}
    assert (cfg.train.batch_size, cfg.train.steps) == (128, 500_000)
    for optimizer in ("lion", "adamw"):
        assert cfg.settings[optimizer].lr == cell.settings[optimizer].lr
        assert cfg.settings[optimizer].betas == cell.settings[optimizer].betas


@pytest.mark.parametrize(("name", "more"), [*((name, []) for name in PAPER), ("glue_t5_base", ["model=ft_gpt2"])])
def test_models_and_tokenizers_are_pinned(name: str, more: list[str]) -> None:
    model = resolved(composed(make_plain, name, *more))["model"]
    pinned = [part for part in (model["trained"].get("weights"), model["tokenizer"]) if part]
    for part in pinned:
        hub = part.get("path", part.get("pretrained_model_name_or_path", "")).count("/") == 1
        if hub and "data/" not in str(part):
            assert re.fullmatch("[0-9a-f]{40}", part["revision"])
    assert "trust_remote_code" not in str(model)


@pytest.mark.network
@pytest.mark.parametrize(("name", "texts"), [("ft_rotten_tomatoes", 12751), ("ft_bbc_news", 2124)])
def test_pinned_downloads_match_the_declared_data_set(name: str, texts: int, tmp_path: Path) -> None:
    data, arrays = fetched(name, tmp_path)
    assert len(arrays["labels"]) == len(arrays["splits"]) == texts
    assert set(np.unique(arrays["labels"])) == set(range(data["num_classes"]))


@pytest.mark.parametrize(("name", "model"), [(name, None) for name in EXPERIMENTS] + [("glue_t5_base", "ft_gpt2")])
def test_every_models_loss_can_be_computed_on_the_meta_device(name: str, model: str | None) -> None:
    cfg = composed(make_plain, name, *([f"model={model}"] if model else []))
    loss = meta_loss(meta_model(typed(cfg)), typed(cfg), 2)
    assert loss.device.type == "meta"
    assert loss.shape == ()
    assert loss.requires_grad
