"""The classes of a labelled set are matched with the prompts' by name, if the set has names."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.data.stored import open_stored
from experiments.harness.errors import ConfigError, DataError
from experiments.harness.prepared_data import PreparedData
from experiments.lit.class_names import CIFAR10, class_names, prompt_numbers
from experiments.lit.data import zero_shot_splits
from tests.conftest import MakeConfig, built
from tests.data.test_class_folders import write
from tests.data.test_labels import write_table
from tests.lit.smoke_runs import decode_labelled, decode_shapes


@given(st.permutations(range(10)), st.lists(st.integers(0, 9), min_size=1))
def test_class_names_in_any_order_are_mapped_to_prompt_indices(order: list[int], labels: list[int]) -> None:
    names = [CIFAR10[number].upper() for number in order]
    assert prompt_numbers(np.array(labels), names, "cifar10").tolist() == [order[label] for label in labels]


def test_class_names_with_underscores_and_subsets_are_mapped() -> None:
    pets = class_names("pets")
    names = [name.lower().replace(" ", "_") for name in pets][::-1][:5]
    assert prompt_numbers(np.arange(5), names, "pets").tolist() == [36, 35, 34, 33, 32]


def test_imagenet_ids_and_titles_are_mapped_to_prompt_indices() -> None:
    from timm.data import ImageNetInfo

    known = ImageNetInfo()
    ids, titles = known.label_names(), [known.index_to_description(number) for number in range(1000)]
    titles[517] = "crane2"  # as on the hub, with all names distinct
    for names in (ids, titles):
        assert prompt_numbers(np.arange(1000), names, "imagenet").tolist() == list(range(1000))
    assert prompt_numbers(np.arange(2), ids[998:], "imagenet").tolist() == [998, 999]
    swapped = [titles[1], titles[0], *titles[2:]]
    with pytest.raises(DataError, match="which is not among the 1000 classes of its prompts"):
        prompt_numbers(np.arange(1000), swapped, "imagenet")


@pytest.mark.parametrize("labels", [[0, 10], [-1, 0], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]])
def test_class_indices_out_of_range_are_refused(labels: list[int]) -> None:
    with pytest.raises(DataError, match=r"data\.zero_shot\.cifar10 has labels from"):
        prompt_numbers(np.array(labels), None, "cifar10")


def test_unknown_class_names_are_refused() -> None:
    with pytest.raises(DataError, match=r"data\.zero_shot\.cifar10 has the class 'zebra', which is not among the 10"):
        prompt_numbers(np.array([0, 1]), ["cat", "zebra"], "cifar10")


def test_a_hundred_numeric_folder_names_are_the_class_indices(tmp_path: Path) -> None:
    for number in range(100):
        write(tmp_path / str(number) / f"{number}.png", number)
    source = {"kind": "local", "path": str(tmp_path), "splits": {"test": "train"}, "image": "image", "label": "label"}
    opened = open_stored({"name": "numbers", "fingerprint": None, "sources": [source]}, tmp_path)
    split = zero_shot_splits(opened, 0)["test"]
    shades = [int(split.images[row][0, 0, 0]) for row in range(100)]
    assert prompt_numbers(split.labels, split.class_names, "cifar100").tolist() == shades


def test_class_names_of_a_table_are_used_by_the_run(make_lit: MakeConfig, tmp_path: Path) -> None:
    names = sorted(CIFAR10, reverse=True)
    write_table(tmp_path / "set" / "test.parquet", list(range(10)), names)
    source = f"{{kind: local, path: '{tmp_path}/set', splits: {{test: test}}, image: image, label: label}}"
    cfg = make_lit("+data.zero_shot.cifar10.access=experiments.data.stored.open_stored",
                   f"data.zero_shot.cifar10.sources=[{source}]")  # fmt: skip
    found = built(cfg).zero_shot_inputs["cifar10"]["test"].labels.tolist()
    assert found == [CIFAR10.index(name) for name in names]


class Arrays(PreparedData):
    """A labelled set in memory."""

    def __init__(self) -> None:
        super().__init__(Path(), "0", {})

    def load(self, mmap: bool = True) -> dict[str, np.ndarray]:
        return decode_labelled(Path())


def test_val_size_holds_out_training_images_within_their_number() -> None:
    assert sorted(zero_shot_splits(Arrays(), 0)) == ["test"]
    np.testing.assert_array_equal(zero_shot_splits(Arrays(), 3)["val"].labels, [7, 8, 9])
    for val_size in (-1, 41):
        with pytest.raises(ConfigError, match=f"val_size={val_size}, but there are 40 training images"):
            zero_shot_splits(Arrays(), val_size)


def test_too_few_pairs_for_recall_are_refused(make_lit: MakeConfig, tmp_path: Path) -> None:
    source = f"{{kind: local, path: '{tmp_path}', decode: tests.lit.test_class_names.few_shapes}}"
    cfg = make_lit("data.name=few", f"data.sources=[{source}]")
    with pytest.raises(DataError, match=r"split test of data=few has only 10 images .* hold out more"):
        built(cfg)


def few_shapes(folder: Path) -> dict[str, np.ndarray]:
    arrays = decode_shapes(folder)
    arrays["splits"] = np.where(np.arange(80) < 56, 0, np.where(np.arange(80) < 70, 1, 2)).astype(np.uint8)
    return arrays
