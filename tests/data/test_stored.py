"""Access to stored images by row index, with the real ``datasets`` library and files in the hub's layouts."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.data.stored import open_splits
from experiments.data.stored_split import StoredSplit
from experiments.harness.errors import DataError
from tests.image_classification.conftest import V2_KEYS
from tests.image_classification.small_imagenet import (
    CLASSES,
    TRAIN_NAME,
    encoded,
    photo,
    rows,
    source,
    write_imagenet,
    write_parquet,
    write_tar,
    write_v2,
)


def open_one(*sources: dict[str, Any]) -> dict[str, StoredSplit]:
    return open_splits({"name": "small", "sources": sources, "num_classes": CLASSES})


def test_rows_of_all_shards_are_accessible_by_index(tmp_path: Path) -> None:
    splits = open_one(source("hub", write_imagenet(tmp_path / "repo")))
    stored = rows(40, 1, TRAIN_NAME)
    assert sorted(splits) == ["test", "train"]
    assert splits["train"].labels.tolist() == [label for _, _, label in stored]
    assert splits["train"].file_names() == [name for name, _, _ in stored]
    for row in (39, 0, 20, 26, 19, 27):  # first and last of each shard
        expected = Image.open(io.BytesIO(stored[row][1])).convert("RGB")
        np.testing.assert_array_equal(np.asarray(splits["train"].image(row)), np.asarray(expected))
        assert splits["train"].lengths[row] == len(stored[row][1])


def test_the_fingerprint_depends_on_every_row_but_not_on_the_sharding(tmp_path: Path) -> None:
    made = rows(12, 5, TRAIN_NAME)
    swapped = [made[1], made[0], *made[2:]]
    relabelled = [(made[0][0], made[0][1], (made[0][2] + 1) % CLASSES), *made[1:]]
    reencoded = [(made[0][0], encoded(photo(0)), made[0][2]), *made[1:]]
    variants = {"one": [made], "three": [made[:2], made[2:5], made[5:]], "swapped": [swapped]}
    variants |= {"relabelled": [relabelled], "reencoded": [reencoded], "short": [made[:-1]]}
    fingerprints = {}
    for name, shards in variants.items():
        write_parquet(tmp_path / name, "train", shards)
        where = source("hub", tmp_path / name, splits={"train": "train"})
        fingerprints[name] = open_one(where)["train"].fingerprint()
    assert fingerprints["one"] == fingerprints["three"]
    assert len(set(fingerprints.values())) == 5


def test_class_indices_are_read_from_the_keys_of_a_tar(tmp_path: Path) -> None:
    split = open_one(source("hub", write_v2(tmp_path / "v2"), **V2_KEYS))["test"]
    assert split.labels.tolist() == [7, 0, 9, 3]
    assert split.image(3).size == (60, 44)


def test_class_indices_are_read_from_cls_files_of_webdataset_tars(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("validation", 2)):
        members = []
        for number in range(count):
            members += [(f"{split}{number}.cls", b"%d" % number), (f"{split}{number}.jpg", encoded(photo(number)))]
        write_tar(tmp_path / f"imagenet22k-{split}-0000.tar", members)
    splits = open_one(source("hub", tmp_path, image="jpg", label="cls"))
    assert splits["train"].labels.tolist() == [0, 1, 2, 3, 4]
    assert len(splits["test"]) == 2


def test_damaged_images_are_counted_and_reported_by_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    split = open_one(source("hub", write_imagenet(tmp_path / "repo")))["train"]
    assert {split.image(row).mode for row in range(len(split))} == {"RGB"}
    assert (split.decoded, split.damaged) == (40, 2)
    said = [message.partition(" (")[0] for message in caplog.messages]
    assert said == ["row 33 of small/train", "row 38 of small/train"]


def test_a_damaged_image_is_reported_only_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    half = encoded(photo(0))[: len(encoded(photo(0))) // 2]
    write_parquet(tmp_path, "train", [[("half.jpg", half, 0), ("whole.jpg", encoded(photo(1)), 0)]])
    split = open_one(source("hub", tmp_path, splits={"train": "train"}))["train"]
    for _ in range(3):
        split.image(0)
    assert (split.decoded, split.damaged, len(caplog.records)) == (3, 3, 1)
    assert "half.jpg" in caplog.text


@pytest.mark.parametrize("content", [b"", b"a text that somebody has called bad.png\n"])
def test_a_non_image_file_is_refused_when_the_set_is_fingerprinted(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train/0").mkdir(parents=True)
    (tmp_path / "train/0/good.png").write_bytes(encoded(photo(0), "PNG"))
    (tmp_path / "train/0/cut.jpg").write_bytes(encoded(photo(0))[:400])
    split = open_one(source("local", tmp_path, splits={"train": "train"}))["train"]
    assert split.fingerprint()
    (tmp_path / "train/0/bad.png").write_bytes(content)
    split = open_one(source("local", tmp_path, splits={"train": "train"}))["train"]
    with pytest.raises(DataError, match=r"train/0/bad\.png is not an image, despite its name: remove"):
        split.fingerprint()


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        (0, "10 of 10 images are damaged, the last being row 9 of small/train"),
        (2, "100 of 300 images are damaged, the last being row 299 of small/train"),
    ],
)
def test_a_set_with_too_many_damaged_images_is_refused(tmp_path: Path, whole: int, said: str) -> None:
    contents = [*([encoded(photo(0), "PNG")] * whole), b"nothing"] * 100
    made = [(f"{number}.JPEG", content, 0) for number, content in enumerate(contents)]
    write_parquet(tmp_path, "train", [made])
    split = open_one(source("hub", tmp_path, splits={"train": "train"}))["train"]
    with pytest.raises(DataError, match=said):
        [split.image(row) for row in range(len(made))]


def test_sources_are_tried_in_order_and_the_error_gives_every_reason(tmp_path: Path) -> None:
    missing, there = source("local", tmp_path / "missing"), source("hub", write_imagenet(tmp_path / "repo"))
    assert len(open_one(missing, there)["train"]) == 40
    with pytest.raises(DataError) as caught:
        open_one(missing, {**there, "image": "img"}, {**there, "splits": {"train": "tain"}})
    message = str(caught.value)
    assert f"local {tmp_path / 'missing'}: there is no folder" in message
    assert "it has no column img, only image, label: set the key image of the source." in message
    assert "it has no split tain, only train, validation, test" in message
    assert f"Put its files at {tmp_path / 'missing'}" in message


def test_the_unlabelled_test_split_is_refused(tmp_path: Path) -> None:
    where = source("hub", write_imagenet(tmp_path / "repo"), splits={"test": "test"})
    with pytest.raises(DataError, match="split test has labels from -1 to -1, but there are 10 classes, from 0"):
        open_one(where)


def test_the_error_for_a_gated_set_says_how_to_get_access(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets  # type: ignore[import-untyped]

    def refuse(**_: Any) -> None:
        raise datasets.exceptions.DatasetNotFoundError(
            "Dataset 'ILSVRC/imagenet-1k' is a gated dataset on the Hub. You must be authenticated to access it."
        )

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=r"accept the terms of ILSVRC/imagenet-1k .* HF_TOKEN"):
        open_one(source("hub", Path("ILSVRC/imagenet-1k")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "web"}, "kind='web'; the kinds are hub, local"),
        ({"lable": "x"}, "no key lable"),
        ({"label": None}, "lacks the key label"),
    ],
)
def test_a_misspelt_source_key_is_refused_before_anything_is_fetched(change: dict[str, Any], message: str) -> None:
    where = {**source("local", Path("/nowhere")), **change}
    with pytest.raises(DataError, match=message):
        open_one({key: value for key, value in where.items() if value is not None})
