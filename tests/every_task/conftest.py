"""Smoke runs of every task on generated data, by the fixtures of their own tests."""

from functools import partial

import pytest

from tests.conftest import MakeConfig
from tests.image_classification.conftest import compose_small as compose_small
from tests.image_classification.conftest import imagenet as imagenet

SHORT = ["train.steps=2", "train.log_every=1", "train.evaluate_every=2", "schedule.warmup_steps=0", "flatness.draws=0"]
"""Two steps, and an evaluation"""

CASES: dict[str, tuple[str, list[str]]] = {
    "image_classification": ("make_config", []),
    "image_classification, files": ("compose_small", ["vit_b16_aug"]),
    "lit": ("make_lit", []),
    "language_modeling": ("make_lm", []),
    "language_modeling, masked": ("make_lm", ["experiment=language_modeling/smoke_masked"]),
    "finetuning": ("make_classification", []),
    "finetuning, glue": ("make_glue", []),
    "finetuning, glue, gpt2": ("make_glue", ["model=ft_gpt2_tiny"]),
    "diffusion": ("make_diffusion", []),
    "diffusion, captions": ("make_text_to_image", []),
}
"""The fixture that makes configs of each kind of task, and the overrides for it"""
TASKS = ("image_classification", "lit", "language_modeling", "finetuning", "diffusion")


@pytest.fixture
def make(case: str, request: pytest.FixtureRequest) -> MakeConfig:
    """``make("seed=1", ...)``: the config of a test's ``case``."""
    maker, overrides = CASES[case]
    return partial(request.getfixturevalue(maker), *overrides)
