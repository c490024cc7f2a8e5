"""The metrics that fine-tuning reports, and the schema of conf/finetuning.yaml."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from experiments.harness.config import Config, DataConfig, register
from experiments.harness.errors import ConfigError
from experiments.harness.metric import CALIBRATED_LOSS, CALIBRATION_ERROR, Metric, percent

METRICS = {
    "calibrated_loss": CALIBRATED_LOSS,
    "calibration_error": CALIBRATION_ERROR,
    "accuracy": percent("accuracy"),
    "f1": percent("F1"),
    "average": percent("GLUE average"),
    "cola": percent("CoLA Matthews correlation"),
    "sst2": percent("SST-2 accuracy"),
    "mrpc_f1": percent("MRPC F1"),
    "mrpc_accuracy": percent("MRPC accuracy"),
    "stsb_pearson": percent("STS-B Pearson correlation"),
    "stsb_spearman": percent("STS-B Spearman correlation"),
    "qqp_f1": percent("QQP F1"),
    "qqp_accuracy": percent("QQP accuracy"),
    "mnli_matched": percent("MNLI matched accuracy"),
    "mnli_mismatched": percent("MNLI mismatched accuracy"),
    "qnli": percent("QNLI accuracy"),
    "rte": percent("RTE accuracy"),
    "invalid_answers": Metric("invalid answers", "lower", decimals=2, unit="%"),
}
"""Those of labelled texts, then GLUE's scores, named after the tasks in glue.py"""


@dataclass
class TextDataConfig(DataConfig):
    """Labelled texts for a classifier, or GLUE tasks for a model that writes answers."""

    access: str = "experiments.finetuning.data.open_texts"
    """this one for labelled texts, experiments.finetuning.data.open_glue for GLUE"""
    num_classes: int | None = None
    """for labelled texts"""
    split_seed: int | None = None
    """for labelled texts: redraws which groups (films) are held out for tuning; null: the set's own choice"""
    weights: dict[str, Any] = field(default_factory=dict)
    """the classifier's initial weights and its tokenizer: a config of the group ``data``; empty: random weights"""
    tasks: list[str] = field(default_factory=list)
    """for GLUE: all of these form one training set, in proportion to their sizes"""
    val_rows: int | None = None
    """for GLUE: training rows of each task held out for tuning, but at most 5 % of them"""


@dataclass
class TextModelConfig:
    """The trained model, optionally on top of a frozen part, and the tokenization of texts."""

    locked: Any = None
    """the ``_target_`` of the frozen part (classifiers); its outputs are computed once and kept in run.cache_dir"""
    trained: Any = MISSING
    """the ``_target_`` of the trained part: the encoder under the classifier, or, for GLUE, a class in
    experiments/finetuning/language_models.py"""
    features: int | None = None
    """width of a classifier's encoder"""
    head_dropout: float = 0.0
    """dropout on the input of a classifier's last layer"""
    tokenizer: Any = MISSING
    """full name of a function in experiments/pretrained/tokenizers.py (classifiers), or the ``_target_`` of a
    ``transformers`` tokenizer (GLUE)"""
    context_length: int = MISSING
    """tokens per text; longer texts are truncated"""
    answer_length: int | None = None
    """tokens of the longest answer, including its end (GLUE)"""


@dataclass
class FinetuningConfig(Config):
    """One run of fine-tuning."""

    data: TextDataConfig = MISSING
    model: TextModelConfig = MISSING  # type: ignore[assignment]  # typed, where other tasks leave it open


def check_form(cfg: FinetuningConfig) -> None:
    """Raise ConfigError if the model classifies texts but the data are GLUE's, or vice versa."""
    needed = "answer_length" if cfg.data.tasks else "features"
    if getattr(cfg.model, needed) is None:
        does = "write answers" if cfg.data.tasks else "classify"
        raise ConfigError(
            f"data={cfg.data.name} is for models that {does}, but this one has no model.{needed}: choose a different "
            "model or different data."
        )


register("finetuning", FinetuningConfig)
