"""The metrics that LiT reports, and the schema of conf/lit.yaml."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from experiments.harness.config import Config, DataConfig, register
from experiments.harness.metric import CALIBRATED_LOSS, percent

_RECALLS = {
    f"{way}_recall{rank}": f"{words} recall at {rank}"
    for way, words in (("i2t", "image-to-text"), ("t2i", "text-to-image"))
    for rank in (1, 5, 10)
}
METRICS = {
    "zero_shot_top1": percent("zero-shot top-1 accuracy"),
    "zero_shot_top5": percent("zero-shot top-5 accuracy"),
    "calibrated_loss": CALIBRATED_LOSS,
    "mean_recall": percent("mean retrieval recall"),
    **{name: percent(label) for name, label in _RECALLS.items()},
    "_top1": percent("zero-shot top-1 accuracy", sets="zero_shot"),
    "_top5": percent("zero-shot top-5 accuracy", sets="zero_shot"),
    "_mean_recall": percent("mean retrieval recall", sets="retrieval", splits=("test",)),
    **{f"_{name}": percent(label, sets="retrieval", splits=("test",)) for name, label in _RECALLS.items()},
}
"""For pairs, for labelled sets, and for additional sets of pairs"""


@dataclass
class PairDataConfig(DataConfig):
    """Image-text pairs, and what else is needed: evaluation sets and initial weights."""

    access: str = "experiments.lit.data.open_sets"
    pair_access: str = "experiments.harness.prepared_data.prepare"
    """the function that opens the pairs: this one for arrays, experiments.data.stored.open_stored for files"""
    split_seed: int | None = None
    """redraws which groups of pairs (see data.py) are used for validation; only for arrays without cropping.
    null: the set's own choice"""
    crop_area: list[float] | None = None
    """smallest and largest share of an image's area in a random resized crop; null: the whole image, so that a locked
    image tower has to process each image only once"""
    zero_shot: dict[str, dict[str, Any]] = field(default_factory=dict)
    """labelled image sets by their name in class_names.py; each is a config of the group ``data``"""
    templates: str = "imagenet"
    """imagenet (80 templates) or plain (4)"""
    retrieval: dict[str, dict[str, Any]] = field(default_factory=dict)
    """additional sets of pairs whose test split is used for retrieval; each is a config of the group ``data``"""
    weights: dict[str, dict[str, Any]] = field(default_factory=dict)
    """initial weights of the towers ``image`` and ``text``, if any: configs of the group ``data``"""


@dataclass
class TowerConfig:
    """One tower: a locked part, a trained part and a trained linear map, in this order, each of them optional."""

    locked: Any = None
    """the ``_target_`` of the locked part; its outputs are computed once and kept in run.cache_dir"""
    trained: Any = None
    """the ``_target_`` of the trained part, initialized from data.weights if given"""
    features: int = MISSING
    """width of the output of both"""
    head: bool = False
    """whether it ends in a trained linear map to model.embed_dim, without bias"""


@dataclass
class TwoTowersConfig:
    """An image tower and a text tower with a shared embedding space."""

    image: TowerConfig = field(default_factory=TowerConfig)
    text: TowerConfig = field(default_factory=TowerConfig)
    image_size: int = MISSING
    """height and width in pixels"""
    pixel_mean: list[float] = MISSING
    """of red, green and blue, on the scale from 0 to 255"""
    pixel_std: list[float] = MISSING
    tokenizer: str = MISSING
    """full name of a function in experiments/pretrained/tokenizers.py"""
    context_length: int = MISSING
    """tokens per text; longer texts are truncated"""
    embed_dim: int = MISSING
    logit_scale_init: float = MISSING
    """initial factor on cosines (the inverse temperature); it is learned, and never decayed"""
    chunk_size: int | None = None
    """pairs whose activations are in memory at a time; the gradient is still that of the whole batch"""

    def tower(self, name: str) -> TowerConfig:
        """The tower "image" or "text"."""
        return {"image": self.image, "text": self.text}[name]


@dataclass
class LitConfig(Config):
    """One run of LiT."""

    data: PairDataConfig = MISSING
    model: TwoTowersConfig = MISSING  # type: ignore[assignment]  # typed, where other tasks leave it open


register("lit", LitConfig)
