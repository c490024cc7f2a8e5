"""Fine-tuning: the type of data decides between its two variants."""

from experiments.finetuning.classification import TextClassification
from experiments.finetuning.config import FinetuningConfig, check_form
from experiments.finetuning.data import GlueSet, TextSet
from experiments.finetuning.text_to_text import TextToText


def build(cfg: FinetuningConfig, data: TextSet | GlueSet) -> TextClassification | TextToText:
    """The task over labelled texts, or over GLUE."""
    check_form(cfg)
    return TextToText(cfg, data) if isinstance(data, GlueSet) else TextClassification(cfg, data)
