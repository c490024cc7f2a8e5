"""Redrawn splits keep films whole, and each sentence keeps its locked output, length and label."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.data.splits import drawn_groups
from experiments.finetuning.classification import ClassifiedTexts, TextClassification
from experiments.finetuning.data import text_splits
from experiments.finetuning.decode import rotten_tomatoes
from experiments.harness.run import locate
from tests.conftest import MakeConfig, built
from tests.finetuning.smoke_runs import review_file, reviews


def numbered(first: int, count: int) -> ClassifiedTexts:
    """Texts whose inputs, lengths and labels are their number."""
    numbers = np.arange(first, first + count)
    return ClassifiedTexts(lambda of: torch.from_numpy(numbers[of])[:, None].repeat(1, 99), numbers % 7 + 1, numbers)


@pytest.mark.parametrize("seed", range(5))
def test_a_drawn_split_keeps_groups_whole_and_texts_with_their_labels(seed: int) -> None:
    groups = np.repeat(np.arange(10), 6), np.repeat(np.arange(10, 13), 4)
    both = numbered(0, 60).and_then(numbered(60, 12))
    after = {name: both.chosen(rows) for name, rows in zip(("train", "val"), drawn_groups(*groups, seed), strict=True)}
    group_of = np.concatenate(groups)
    held = {int(group_of[label]) for label in after["val"].labels}
    assert 12 - 4 < len(after["val"].labels) <= 12, "as many as before, or no group would fit any more"
    assert held.isdisjoint(int(group_of[label]) for label in after["train"].labels)
    assert sorted([*after["train"].labels, *after["val"].labels]) == list(range(72))
    for split in after.values():
        shuffled = np.random.default_rng(0).permutation(len(split.labels))
        batch = split.batch(shuffled)
        assert batch["labels"].tolist() == batch["inputs"][:, 0].tolist() == split.labels[shuffled].tolist()
        assert split.lengths.tolist() == (split.labels % 7 + 1).tolist()


def test_texts_of_one_film_share_one_group_index(tmp_path: Path) -> None:
    rows = reviews()
    (tmp_path / "rotten_tomatoes_corpus_full.csv.bz2").write_bytes(review_file(rows))
    film_of = {row["text"]: row["movie_name"] for row in rows}
    pairs = {
        (film_of[text], int(group))
        for split in text_splits(rotten_tomatoes(tmp_path)).values()
        for text, group in zip(split.texts, split.groups, strict=True)
    }
    assert len(pairs) == len({film for film, _ in pairs}) == len({group for _, group in pairs})


def task_of(cfg: Any) -> TextClassification:
    task = built(cfg)
    assert isinstance(task, TextClassification)
    return task


def test_a_drawn_split_reuses_the_cached_locked_outputs(make_classification: MakeConfig) -> None:
    cfg = make_classification()
    own, folder = task_of(cfg), locate(cfg).data.cache_dir
    before = {path.name for path in folder.iterdir()}
    for seed in (1, 2):
        drawn = task_of(make_classification(f"data.split_seed={seed}"))
        assert drawn.frozen_outputs == own.frozen_outputs
        everything = np.arange(len(drawn.splits["val"].labels))
        assert drawn.splits["val"].batch(everything)["labels"].tolist() == drawn.splits["val"].labels.tolist()
    assert {path.name for path in folder.iterdir()} == before


def test_initial_scaling_skips_a_pretrained_encoder(make_classification: MakeConfig) -> None:
    from experiments.finetuning.models import Classifier
    from experiments.harness.initial_scale import scale_initial_weights
    from experiments.pretrained.weights import load_weights

    encoder = torch.nn.Sequential(torch.nn.Linear(3, 3))
    load_weights(encoder, {name: value.numpy() for name, value in encoder.state_dict().items()})
    classifier = Classifier(encoder, 3, 2, 0.0)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    scale_initial_weights(classifier, 2.0)
    grown = {name for name, value in classifier.state_dict().items() if not torch.equal(value, before[name])}
    assert grown == {"head.weight"}
