"""The schema of conf/finetuning.yaml."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from experiments.harness.config import Config, DataConfig, register
from experiments.harness.errors import ConfigError


@dataclass
class TextDataConfig(DataConfig):
    """Labelled texts for a classifier, or the tasks of GLUE for a model that writes its answers."""

    access: str = "experiments.finetuning.sets.open_texts"
    """this one for labelled texts, experiments.finetuning.glue_sets.open_glue for GLUE"""
    num_classes: int | None = None
    """of labelled texts"""
    split_seed: int | None = None
    """of labelled texts: draws other groups of them (films) to be held out for tuning; null: the set's own"""
    weights: dict[str, Any] = field(default_factory=dict)
    """what the classifier starts from, with its tokenizer: a config of the group ``data``; empty: random weights"""
    tasks: list[str] = field(default_factory=list)
    """of GLUE: one training set is made of all of them, of which each has its own share of samples"""
    val_rows: int | None = None
    """of GLUE: training rows of each task held out for tuning, but at most 5 % of them"""


@dataclass
class TextModelConfig:
    """What is trained, perhaps behind a locked part, and how a text becomes its input."""

    locked: Any = None
    """the ``_target_`` of what is never changed (classifiers); its outputs are computed once, kept in run.cache_dir"""
    trained: Any = MISSING
    """the ``_target_`` of what is trained: an encoder that a classifier is put on, or, for GLUE, a class of
    experiments/finetuning/language_models.py"""
    features: int | None = None
    """width of a classifier's encoder"""
    head_dropout: float = 0.0
    """of the features that a classifier's last layer gets"""
    tokenizer: Any = MISSING
    """a function of experiments/pretrained/tokenizers.py by its full name (classifiers), or the ``_target_`` of a
    tokenizer of ``transformers`` (GLUE)"""
    context_length: int = MISSING
    """tokens of a text; longer ones are cut"""
    answer_length: int | None = None
    """tokens of the longest answer, with its end (GLUE)"""


@dataclass
class FinetuningConfig(Config):
    """One run of fine-tuning."""

    data: TextDataConfig = MISSING
    model: TextModelConfig = MISSING  # type: ignore[assignment]  # typed, where other tasks leave it open


def check_form(cfg: FinetuningConfig) -> None:
    """Raise ConfigError where the model classifies texts and the data are GLUE's, or the other way round."""
    needed = "answer_length" if cfg.data.tasks else "features"
    if getattr(cfg.model, needed) is None:
        does = "write answers" if cfg.data.tasks else "classify"
        raise ConfigError(
            f"data={cfg.data.name} is for models that {does}, but this one has no model.{needed}: choose another model "
            "or other data."
        )


register("finetuning", FinetuningConfig)
