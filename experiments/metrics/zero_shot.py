"""Zero-shot classification, with embedded class names as the classifier (Radford et al. 2021, section 3.1)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def prompts(class_names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every template, in which ``{}`` stands for the name, filled in for every class; class by class."""
    return [template.format(name) for name in class_names for template in templates]


def class_embeddings(prompt_embeddings: Tensor, num_classes: int) -> Tensor:
    """The mean direction of each class's prompts: from float ``[classes * templates, D]``, class by class, to unit
    vectors ``[classes, D]``. Prompts are normalized before averaging, so all templates have equal weight.
    """
    unit = F.normalize(prompt_embeddings, dim=-1)
    return F.normalize(unit.reshape(num_classes, -1, unit.shape[-1]).mean(1), dim=-1)
