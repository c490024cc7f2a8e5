"""The model of an experiment on the meta device, for experiments/harness/plan.py."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from experiments.lit.config import LitConfig
from experiments.lit.two_towers import TwoTowers, build_two_towers


def meta_model(cfg: DictConfig) -> nn.Module:
    """The two towers on the device ``meta``, without the locked parts whose outputs a run computes once."""
    with torch.device("meta"):
        return build_two_towers(_without_weights(cfg).model, {}, _computed_once(cfg))


def meta_output(model: nn.Module, cfg: DictConfig, samples: int) -> Tensor:
    """The embeddings of this many pairs, without the loss and without what a run computes only once."""
    assert isinstance(model, TwoTowers)
    towers, size, length = cfg.model, cfg.model.image_size, cfg.model.context_length
    computed_once = _computed_once(cfg)
    with torch.device("meta"):
        pictures = torch.empty(samples, 3, size, size, dtype=torch.uint8)
        tokens = torch.ones(samples, length, dtype=torch.int64)
        images, texts, _ = model(
            torch.empty(samples, towers.image.features) if computed_once["image"] else pictures,
            torch.empty(samples, length, towers.text.features) if computed_once["text"] else tokens,
        )
    return images.sum() + texts.sum()


def samples_per_epoch(cfg: DictConfig) -> None:
    """None: the number of pairs is known only once the data are opened."""


def _computed_once(cfg: DictConfig) -> Mapping[str, bool]:
    return {"image": bool(cfg.model.image.locked) and cfg.data.crop_area is None, "text": bool(cfg.model.text.locked)}


def _without_weights(cfg: DictConfig) -> LitConfig:
    own: Any = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    for tower in (own.model.image, own.model.text):
        if tower.locked and "pretrained" in tower.locked:
            tower.locked.pretrained = False
    return cast(LitConfig, own)
