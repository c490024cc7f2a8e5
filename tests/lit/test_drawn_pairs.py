"""Validation on different pairs, without recomputing locked outputs."""

import numpy as np
import pytest
import torch

from experiments.harness.config import typed
from experiments.harness.run import locate
from experiments.lit.data import groups, pair_splits, split_groups
from experiments.lit.evaluation import PairInputs
from experiments.lit.task import build
from tests.conftest import MakeConfig, built
from tests.lit.test_lit_run import CACHED


def numbered(images: int, captions: list[int], first: int) -> PairInputs:
    """Images and captions whose inputs are their numbers, captions a hundred times their image's."""
    owners = np.repeat(np.arange(images), captions) + first
    return PairInputs(
        lambda of: torch.from_numpy(np.arange(first, first + images)[of]),
        lambda of: torch.from_numpy(100 * owners[of]),
        np.cumsum([0, *captions]),
    )


def test_captions_stay_with_their_images_when_splits_are_redrawn() -> None:
    both = numbered(3, [2, 1, 3], 0).and_then(numbered(2, [1, 2], 3))
    assert both.starts.tolist() == [0, 2, 3, 6, 7, 9]
    mixed = both.chosen(np.array([4, 0, 2]))
    assert mixed.images(np.array([2, 0, 1])).tolist() == [2, 4, 0]
    for image, number in enumerate((4, 0, 2)):
        own = np.arange(mixed.starts[image], mixed.starts[image + 1])
        assert len(own) == [2, 1, 3, 1, 2][number]
        assert {*mixed.texts(own).tolist()} == {100 * number}


def test_the_split_seed_redraws_training_and_validation_pairs_without_recomputing(
    make_lit: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Generated images of the same colour look alike and would form one group.
    alone = {"train": np.arange(56), "val": np.arange(56, 68), "test": np.arange(68, 80)}
    monkeypatch.setattr("experiments.lit.task.split_groups", lambda opened, cache_dir: alone)
    own = built(make_lit(*CACHED))
    cfg = make_lit(*CACHED, "data.split_seed=1")
    data = locate(cfg).data
    drawn = build(typed(cfg), data)
    cached = {path.name for path in data.cache_dir.iterdir()}
    other = make_lit(*CACHED, "data.split_seed=2")
    built(other)
    assert {path.name for path in data.cache_dir.iterdir()} == cached
    assert drawn.frozen_outputs == own.frozen_outputs

    def outputs(inputs: dict[str, PairInputs], names: tuple[str, ...]) -> list[list[float]]:
        return sorted(row for name in names for row in inputs[name].images(np.arange(_images(inputs[name]))).tolist())

    assert outputs(drawn.pair_inputs, ("train", "val")) == outputs(own.pair_inputs, ("train", "val"))
    assert outputs(drawn.pair_inputs, ("val",)) != outputs(own.pair_inputs, ("val",))
    assert outputs(drawn.pair_inputs, ("test",)) == outputs(own.pair_inputs, ("test",))
    assert drawn.num_train == _images(drawn.pair_inputs["train"])


def _images(inputs: PairInputs) -> int:
    return len(inputs.starts) - 1


def test_split_groups_match_those_of_the_published_split(make_lit: MakeConfig) -> None:
    data = locate(make_lit(*CACHED)).data
    splits, found = pair_splits(data.pairs), split_groups(data.pairs, data.cache_dir)
    arrays = data.pairs.load()
    captions = {name: split.captions for name, split in splits.items()}
    order = np.argsort(np.concatenate([np.flatnonzero(arrays["splits"] == number) for number in range(3)]))
    in_order = [text for name in ("train", "val", "test") for text in captions[name]]
    expected = groups(arrays["images"], [in_order[place] for place in order])
    for number, name in enumerate(("train", "val", "test")):
        assert found[name].tolist() == expected[arrays["splits"] == number].tolist()
