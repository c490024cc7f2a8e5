"""model=<name> on the command line: every model works with its task's smoke and mini experiments or is refused."""

import importlib
from typing import Any

import pytest

from experiments.finetuning.data import GlueRows, GlueSet
from experiments.finetuning.task import build
from experiments.harness.composition import composed
from experiments.harness.config import resolved, typed
from experiments.harness.errors import ConfigError, refused_as
from experiments.harness.source_code import ROOT

BEGINNINGS = {"lit": "lit_", "diffusion": "diffusion_", "finetuning": "ft_", "language_modeling": "lm_"}
LARGE = ("11b", "imagen")
"""Models that take up to half a minute to build even without weights; only their configs are composed."""
REFUSED = {
    **dict.fromkeys(
        ("ft_gpt2", "ft_gpt2_tiny", "ft_t5_tiny", "ft_t5_base", "ft_t5_11b"),
        r"is for models that classify, but this one has no model\.features",
    ),
    **dict.fromkeys(
        ("diffusion_text_tiny", "diffusion_text_gpu"), "The model cannot take the pictures: .*encoder_hidden_states"
    ),
}
"""The expected error by model: text generators in a classification task, text-conditional models without captions."""


def models() -> list[tuple[str, str]]:
    found = []
    for path in sorted((ROOT / "conf" / "model").glob("*.yaml")):
        task = next((task for task, start in BEGINNINGS.items() if path.stem.startswith(start)), "image_classification")
        found.append((task, path.stem))
    return found


def built(task: str, cfg: Any) -> Any:
    """The first check of a run, which needs no data: the output for two samples on the ``meta`` device."""
    models = importlib.import_module(f"experiments.{task}.models")
    if task not in ("diffusion", "image_classification"):
        return models.meta_loss(models.meta_model(typed(cfg)), typed(cfg), 2)
    with refused_as("The model cannot take the pictures"):  # as these tasks do, with their own message
        return models.meta_output(models.meta_model(typed(cfg)), typed(cfg), 2)


@pytest.mark.parametrize("experiment", ["smoke", "mini"])
@pytest.mark.parametrize(("task", "model"), models())
def test_every_model_works_with_its_tasks_small_experiments_or_is_refused(
    task: str, model: str, experiment: str
) -> None:
    cfg = composed(task, [f"experiment={task}/{experiment}", f"scale={experiment}", f"model={model}"])
    resolved(cfg)
    if said := REFUSED.get(model):
        with pytest.raises(ConfigError, match=said):
            built(task, cfg)
    elif not any(size in model for size in LARGE):
        assert built(task, cfg).numel() > 0


@pytest.mark.parametrize(
    ("task", "overrides"),
    [
        ("diffusion", ["model=diffusion_adm", "model.block_out_channels=[192,384,576,768,768,768]",
                       f"model.down_block_types={['ResnetDownsampleBlock2D'] * 6}".replace("'", ""),
                       f"model.up_block_types={['ResnetUpsampleBlock2D'] * 6}".replace("'", "")]),
        ("image_classification", ["model=timm", "model.model_name=coatnet_1_224", "+model.img_size=28"]),
    ],
)  # fmt: skip
def test_a_model_that_downsamples_too_often_is_refused(task: str, overrides: list[str]) -> None:
    cfg = composed(task, ["scale=smoke", *overrides])
    with pytest.raises(ConfigError, match="The model cannot take the pictures: "):
        built(task, cfg)


def test_a_classifier_is_refused_for_glue() -> None:
    cfg: Any = composed("finetuning", ["experiment=finetuning/glue_smoke", "scale=smoke", "model=ft_tiny"])
    rows: list[GlueRows] = []
    with pytest.raises(ConfigError, match=r"models that write answers, but this one has no model\.answer_length"):
        build(typed(cfg), GlueSet(rows, {}, ""))
