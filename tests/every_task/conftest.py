"""Smoke runs of every task on generated data, by the fixtures of their own tests."""

from tests.image_classification.conftest import compose_small as compose_small
from tests.image_classification.conftest import imagenet as imagenet

SHORT = ["train.steps=2", "train.log_every=1", "train.evaluate_every=2", "schedule.warmup_steps=0", "flatness.draws=0"]
"""Two steps, and an evaluation"""
