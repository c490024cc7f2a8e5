"""The schema of conf/lit.yaml."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from experiments.harness.config import Config, DataConfig, register


@dataclass
class PairDataConfig(DataConfig):
    """Image-text pairs, and what else has to be fetched: sets to be tested on, weights to start from."""

    access: str = "experiments.lit.sets.open_sets"
    pair_access: str = "experiments.harness.prepared_data.prepare"
    """the function that opens the pairs: this one for arrays, experiments.data.stored.open_stored for files"""
    split_seed: int | None = None
    """draws other groups of pairs (see pair_arrays.py) for validation, of arrays whose pictures are not cropped; null:
    the set's own"""
    crop_area: list[float] | None = None
    """least and greatest share of a picture's area in a random resized crop; null: the whole picture, so that a locked
    image tower sees each picture once in all"""
    zero_shot: dict[str, dict[str, Any]] = field(default_factory=dict)
    """labelled image sets by their name in class_names.py; each is a config of the group ``data``"""
    templates: str = "imagenet"
    """imagenet (80 sentences around a class name) or plain (4)"""
    retrieval: dict[str, dict[str, Any]] = field(default_factory=dict)
    """further sets of pairs, whose test split is retrieved from; each is a config of the group ``data``"""
    weights: dict[str, dict[str, Any]] = field(default_factory=dict)
    """what the towers ``image`` and ``text`` start from, where they start from something: configs of ``data``"""


@dataclass
class TowerConfig:
    """One tower: a locked part, a trained part, a trained linear map, one after the other, each of them optional."""

    locked: Any = None
    """the ``_target_`` of what is never changed; its outputs are computed once and kept in run.cache_dir"""
    trained: Any = None
    """the ``_target_`` of what is trained; it starts from data.weights as far as these have its parameters"""
    features: int = MISSING
    """width of the output of both"""
    head: bool = False
    """end in a trained linear map to model.embed_dim, without bias"""


@dataclass
class TwoTowersConfig:
    """An image tower and a text tower with one embedding space."""

    image: TowerConfig = field(default_factory=TowerConfig)
    text: TowerConfig = field(default_factory=TowerConfig)
    image_size: int = MISSING
    """pixels of height and width"""
    pixel_mean: list[float] = MISSING
    """of red, green and blue, in units of 1 of 255"""
    pixel_std: list[float] = MISSING
    tokenizer: str = MISSING
    """a function of experiments/pretrained/tokenizers.py, by its full name"""
    context_length: int = MISSING
    """tokens of a text; longer ones are cut"""
    embed_dim: int = MISSING
    logit_scale_init: float = MISSING
    """the factor on cosines (the inverse temperature) before training; it is learnt, and never decays"""
    chunk_size: int | None = None
    """pairs whose activations are in memory at a time; the gradient is that of the whole batch all the same"""


@dataclass
class LitConfig(Config):
    """One run of LiT."""

    data: PairDataConfig = MISSING
    model: TwoTowersConfig = MISSING  # type: ignore[assignment]  # typed, where other tasks leave it open


register("lit", LitConfig)
