"""Label columns of any kind give the right classes in every split, or the error names the row."""

import os
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from experiments.data.labels import check_classes, column_labels, warn_of_small_splits
from experiments.data.stored import open_splits
from experiments.data.stored_split import StoredSplit
from experiments.harness.errors import DataError
from tests.image_classification.small_imagenet import encoded, photo


def write_table(path: Path, labels: Any, names: list[str] | None = None) -> None:
    """Distinct images with a column of labels; with ``names``, the labels are class numbers with names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [{"bytes": encoded(photo(number), "PNG"), "path": None} for number in range(len(labels))]
    if names:
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        datasets.Dataset.from_dict({"image": pictures, "label": labels}, features).to_parquet(path)
    else:
        pq.write_table(pa.table({"image": pictures, "label": labels}), path)


def opened(folder: Path, num_classes: int | None = None, **splits: str) -> dict[str, StoredSplit]:
    source = {"kind": "local", "path": str(folder), "splits": splits, "image": "image", "label": "label"}
    return open_splits({"name": "table", "sources": [source], "num_classes": num_classes})


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([2, 0, 1], [2, 0, 1]),
        ([2.0, 0.0, 1.0], [2, 0, 1]),
        (pa.array([2, 0, 1], pa.uint8()), [2, 0, 1]),
        (["2", "0", "10"], [2, 0, 10]),
        (["dog", "cat", "dog"], [1, 0, 1]),
        (["x/2/a.jpg", "x/0/b.jpg", "y/1/c.jpg"], [2, 0, 1]),
        (["apple/rot", "apple/scab", "apple/rot"], [0, 1, 0]),
        ([True, False, True], [1, 0, 1]),
    ],
)
def test_label_columns_of_any_type_give_the_expected_class_indices(
    tmp_path: Path, labels: Any, expected: list[int]
) -> None:
    write_table(tmp_path / "train.parquet", labels)
    assert opened(tmp_path, train="train")["train"].labels.tolist() == expected


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, None, 1], "split train has the label None in row 1: a label must be an integer or a name"),
        ([0.0, 1.0, 1.5], r"split train has the label 1\.5 in row 2"),
        ([0.0, float("nan")], "split train has the label nan in row 1"),
        (["cat", None], "split train has the label None in row 1"),
        (["cat", " "], "split train has the label ' ' in row 1"),
        ([[0], [1]], r"split train has the label \[0\] in row 0"),
        ([0, 1, -1, 2], r"labels from -1 to 2, but there are 3 classes, from 0\. Row 2 has -1"),
        ([1, 2, 3], r"labels from 1 to 3, but there are 3 classes, from 0\. Row 2 has 3"),
        (["1", "01"], "split train has two names for class 1: 01 and 1"),
        ([], "table cannot be opened"),
    ],
)
def test_an_invalid_label_is_refused_by_row(tmp_path: Path, labels: list[Any], message: str) -> None:
    write_table(tmp_path / "train.parquet", labels)
    with pytest.raises(DataError, match=message):
        opened(tmp_path, 3, train="train")


def test_splits_with_different_class_orders_are_matched_by_class_name(tmp_path: Path) -> None:
    write_table(tmp_path / "train.parquet", [0, 1, 2], ["cat", "dog", "emu"])
    write_table(tmp_path / "test.parquet", [0, 1, 2], ["emu", "cat", "dog"])
    splits = opened(tmp_path, train="train", test="test")
    assert splits["test"].labels.tolist() == [2, 0, 1]
    assert splits["test"].class_names == ("cat", "dog", "emu")
    write_table(tmp_path / "test.parquet", [0, 1], ["cat", "fox"])
    with pytest.raises(DataError, match="split test has the class 'fox', which is not among cat, dog, emu"):
        opened(tmp_path, train="train", test="test")
    write_table(tmp_path / "test.parquet", [0, 1])
    with pytest.raises(DataError, match="split test has class numbers without names, but other splits have names"):
        opened(tmp_path, train="train", test="test")


def test_files_of_one_split_with_different_class_orders_are_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "train-0.parquet", [0, 1], ["cat", "dog"])
    write_table(tmp_path / "train-1.parquet", [0, 1], ["dog", "cat"])
    with pytest.raises(DataError, match=r"train-1\.parquet numbers its classes differently from train-0\.parquet"):
        opened(tmp_path, train="train")


def test_class_names_of_the_test_split_get_the_indices_of_training(tmp_path: Path) -> None:
    write_table(tmp_path / "train.parquet", ["b", "a", "c"])
    write_table(tmp_path / "test.parquet", ["c", "b"])
    assert opened(tmp_path, train="train", test="test")["test"].labels.tolist() == [2, 1]


def test_a_slice_of_class_sorted_rows_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "train.parquet", [0, 0, 0, 1, 1, 1])
    with pytest.raises(DataError, match=r"split train\[:3\] lacks 1 of the 2 classes of train, such as number 1"):
        opened(tmp_path, val="train[:3]", train="train[3:]")
    write_table(tmp_path / "train.parquet", [0, 1, 0, 1, 0, 1])
    splits = opened(tmp_path, val="train[:2]", train="train[2:]", half="train[50%:]")
    assert [splits[name].rows.tolist() for name in ("val", "train", "half")] == [[0, 1], [2, 3, 4, 5], [3, 4, 5]]


def test_a_null_image_is_refused_by_row(tmp_path: Path) -> None:
    picture = {"bytes": encoded(photo(0)), "path": None}
    pq.write_table(pa.table({"image": [picture, None, picture], "label": [0, 1, 0]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="table/train has no image in row 1"):
        opened(tmp_path, train="train")
    pq.write_table(pa.table({"image": [1.5, 2.5], "label": [0, 1]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"its column image .* contains no images"):
        opened(tmp_path, train="train")


def test_a_class_without_training_samples_is_refused() -> None:
    check_classes({"train": np.array([0, 1, 2]), "test": np.array([1])}, 3, "set")
    with pytest.raises(DataError, match=r"2 of the num_classes=5 classes have no training sample, such as number 3"):
        check_classes({"train": np.array([0, 1, 2])}, 5, "set")
    with pytest.raises(DataError, match="data=set: split test has labels from 0 to 3, but there are 3 classes"):
        check_classes({"train": np.array([0, 1, 2]), "test": np.array([0, 3])}, 3, "set")


CELLS = st.one_of(st.none(), st.integers(-3, 9), st.floats(), st.booleans(), st.text(max_size=3))


@given(st.lists(CELLS, min_size=1, max_size=8))
@example(["/", "/"])
def test_arbitrary_label_columns_are_read_like_a_plain_loop_or_refused_by_the_offending_row(cells: list[Any]) -> None:
    try:
        labels = column_labels(cells, None, "t")
    except DataError as error:
        row = int(str(error).split("in row ")[1].split(":")[0])
        mixed = isinstance(cells[row], str) != isinstance(cells[0], str)
        cell = cells[row]
        assert (
            mixed
            or cell is None
            or (isinstance(cell, str) and not cell.strip())
            or (isinstance(cell, float) and not (cell.is_integer() and abs(cell) < 2**53))
        )
        return
    if labels.names is None:
        assert labels.numbers.tolist() == [int(cell) for cell in cells]
    else:
        paths = all("/" in cell for cell in cells) and len(set(cells)) == len(cells)
        assert [labels.names[number] for number in labels.numbers] == [
            os.path.basename(os.path.dirname(cell.rstrip("/"))) if paths else cell for cell in cells
        ]


def test_a_split_of_few_rows_or_without_a_class_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    three = np.arange(60) % 3
    warn_of_small_splits({"val": three[:50], "test": three}, 3, "set")
    assert not caplog.messages
    warn_of_small_splits({"val": three[:49], "test": three}, 4, "set")
    assert [message.partition(",")[0] for message in caplog.messages] == [
        "data=set: val has few rows (49)",
        "data=set: val lacks 1 of the 4 classes",
        "data=set: test lacks 1 of the 4 classes",
    ]
