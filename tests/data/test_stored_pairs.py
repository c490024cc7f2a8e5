"""Data sets in the hub's layouts, read by the real library from small local copies."""

import io
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from experiments.data.stored import open_stored
from experiments.data.text import folded
from experiments.harness.errors import DataError
from experiments.lit.data import pair_splits, zero_shot_splits
from tests.image_classification.small_imagenet import encoded, source, write_parquet, write_tar

SPLITS = {"train": "train[:-4]", "val": "train[-4:-2]", "test": "train[-2:]"}


TRAIN = {"train": "train"}


def jpeg(colour: int) -> bytes:
    return encoded(Image.new("RGB", (20 + colour, 30), (colour, 0, 0)))


def write_webdataset(path: Path, captions: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pairs = [((f"{n:09d}.jpg", jpeg(n)), (f"{n:09d}.txt", caption.encode())) for n, caption in enumerate(captions)]
    write_tar(path, [member for pair in pairs for member in pair])


def config(path: Path, **more: Any) -> dict[str, Any]:
    place = {"kind": "local", "path": str(path), "splits": SPLITS, "image": "jpg", "caption": "txt", **more}
    return {"name": "small", "fingerprint": None, "sources": [place]}


def test_conceptual_captions_tars_give_image_caption_pairs(tmp_path: Path) -> None:
    write_webdataset(tmp_path / "cc" / "cc12m-train-0000.tar", [f"caption {number}" for number in range(12)])
    splits = pair_splits(open_stored(config(tmp_path / "cc"), tmp_path))
    assert {name: len(split.captions) for name, split in splits.items()} == {"train": 8, "val": 2, "test": 2}
    assert splits["test"].texts() == ["caption 10", "caption 11"]
    assert splits["test"].images[1].shape == (3, 30, 31)
    assert abs(int(splits["val"].images[0][0, 5, 5]) - 8) <= 2


def test_held_out_pairs_with_a_training_caption_are_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    captions = [f"caption {number}" for number in range(10)] + ["Caption  3", "cap\u200btion 4\ufeff", "café 11", "12"]
    write_webdataset(tmp_path / "cc" / "cc-train-0000.tar", captions)
    splits = {"train": "train[:8]", "test": "train[8:]"}
    found = pair_splits(open_stored(config(tmp_path / "cc", splits=splits), tmp_path))["test"]
    assert found.texts() == ["caption 8", "caption 9", "café 11", "12"]
    assert found.images[2].shape == (3, 30, 32)
    assert "2 of 6 pairs in small/test have a caption of the training split and are left out" in caplog.text


def test_a_held_out_split_nearly_emptied_by_the_caption_filter_is_refused(tmp_path: Path) -> None:
    captions = [f"caption {number % 4}" for number in range(20)] + ["another"]
    write_webdataset(tmp_path / "cc" / "cc-train-0000.tar", captions)
    with pytest.raises(DataError, match="3 of 4 pairs in small/test have a caption of the training split, such as row"):
        open_stored(config(tmp_path / "cc", splits={"train": "train[:-4]", "test": "train[-4:]"}), tmp_path)


def test_retrieval_tars_give_several_captions_per_image(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("test", 3)):
        write_webdataset(tmp_path / "coco" / split / "0.tar", [f"a {number}\nb {number}" for number in range(count)])
    files = {"test": "test/*.tar"}
    splits = pair_splits(open_stored(config(tmp_path / "coco", files=files, splits={"test": "test"}), tmp_path))
    assert list(splits) == ["test"]
    assert splits["test"].captions == [["a 0", "b 0"], ["a 1", "b 1"], ["a 2", "b 2"]]
    assert splits["test"].starts().tolist() == [0, 2, 4, 6]


def test_labelled_parquet_gives_images_with_class_indices(tmp_path: Path) -> None:
    labelled = [(f"{number}.jpg", jpeg(number), label) for number, label in enumerate([0, 1, 1, 0])]
    write_parquet(tmp_path, "test", [labelled])
    data = {"name": "pets", "fingerprint": None, "sources": [source("local", tmp_path, splits={"test": "test"})]}
    split = zero_shot_splits(open_stored(data, tmp_path), val_size=0)["test"]
    np.testing.assert_array_equal(split.labels, [0, 1, 1, 0])
    assert split.images[2].shape == (3, 30, 22)


def test_the_fingerprint_depends_on_the_images_and_the_captions(tmp_path: Path) -> None:
    found = []
    for name, shade, caption in (("a", 0, "one"), ("b", 1, "one"), ("c", 0, "two")):
        image = encoded(Image.new("RGB", (8, 8), (shade, 0, 0)), "BMP")  # all of one size have the same length
        write_table(tmp_path / name / "train.parquet", [caption], [image])
        found.append(open_stored(config(tmp_path / name, splits=TRAIN), tmp_path).fingerprint)
    assert len(set(found)) == 3
    with pytest.raises(DataError, match=f"{found[0]} here, but its config declares {found[1]}"):
        open_stored({**config(tmp_path / "a", splits=TRAIN), "fingerprint": found[1]}, tmp_path)


def test_rows_without_caption_are_dropped_and_damaged_images_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (10, 200))
    animated = encoded(first, "GIF", save_all=True, append_images=[second])
    noise = encoded(Image.effect_noise((200, 200), 90).convert("RGB"))
    pictures = [jpeg(0), noise[: len(noise) // 2], b"no picture", animated, jpeg(4)]
    write_table(tmp_path / "train.parquet", ["whole", "cut", "broken", "moving " * 1500, " \n"], pictures)
    split = open_stored(config(tmp_path, splits=TRAIN), tmp_path).splits["train"]
    assert [own[0].split()[0] for own in split.captions] == ["whole", "cut", "broken", "moving"]
    assert "1 of 5 rows have no caption and are left out" in caplog.text
    sizes = [split.image(row).size for row in range(4)]
    assert (sizes[0], sizes[1], sizes[3]) == ((20, 30), (200, 200), (8, 8))
    assert np.asarray(split.image(3))[4, 4, 0] < 50, "the first frame"
    damaged = [message for message in caplog.messages if "is damaged" in message]
    assert ["row 1" in damaged[0], "row 2" in damaged[1], len(damaged)] == [True, True, 2]


def write_table(path: Path, captions: Any, images: list[bytes] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [{"bytes": image, "path": None} for image in images or map(jpeg, range(len(captions)))]
    pq.write_table(pa.table({"jpg": pictures, "txt": captions}), path)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=5))
def test_arbitrary_captions_are_split_at_newlines_or_refused_by_row(texts: list[str]) -> None:
    """Lines end only at newlines, not at U+2028, form feeds or NEL, where str.splitlines would split."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_table(folder / "train.parquet", texts)
        lines = [io.StringIO(text.removeprefix("\ufeff"), newline=None).read().split("\n") for text in texts]
        captions = [[line for line in own if line.strip() and folded(line)] for own in lines]
        expected = [own for own in captions if own]
        try:
            found = open_stored(config(folder, splits=TRAIN), folder).splits["train"].captions
        except DataError as error:
            named = re.search(r"row (\d+) of small/train is not text", f"{error}")
            assert re.search(r"[\x00-\x1f]", texts[int(named[1])]) if named else not expected
            return
        assert found == expected


def test_non_text_captions_are_refused_by_row_and_null_ones_dropped(tmp_path: Path) -> None:
    def opened(captions: list[Any]) -> Any:
        write_table(tmp_path / "train.parquet", captions)
        return open_stored(config(tmp_path, splits=TRAIN), tmp_path).splits["train"]

    with pytest.raises(DataError, match="row 0 of small/train has the caption 1, which is not a text"):
        opened([1, 2])
    split = opened([None, "a", None])
    assert (split.captions, split.rows.tolist()) == ([["a"]], [1])
    assert opened([["a", None, "b c"], [], None]).captions == [["a", "b c"]]


def test_captions_are_read_from_a_metadata_table_beside_the_images(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number in range(3):
            path = tmp_path / "set" / split / "validation of test" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(number))
        rows = [f"validation of test/{number}.jpg,{split} {number}" for number in (2, 0, 1)]
        (tmp_path / "set" / split / "metadata.csv").write_text("\n".join(["file_name,text", *rows]))
    data = config(tmp_path / "set", splits={"train": "train", "test": "test"}, image="image", caption="text")
    for name, found in open_stored(data, tmp_path).splits.items():
        for row in range(3):
            assert found.captions[row] == [f"{name} {found.image(row).width - 20}"]


def test_images_missing_from_the_metadata_table_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "set" / "train").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "set" / "train" / f"{number}.jpg").write_bytes(jpeg(number))
    metadata = tmp_path / "set" / "train" / "metadata.csv"
    metadata.write_text("file_name,text\n0.jpg,zero\n2.jpg,two\n")
    data = config(tmp_path / "set", splits=TRAIN, image="image", caption="text")
    assert open_stored(data, tmp_path).splits["train"].captions == [["zero"], ["two"]]
    assert "1 files of" in caplog.text
    assert "are not read: 1.jpg" in caplog.text
    metadata.write_text("file_name,text\n0.jpg,zero\n3.jpg,three\n")
    with pytest.raises(DataError, match=r"small/train has no image in row 1: it is '.*3\.jpg'"):
        open_stored(data, tmp_path)


def test_an_empty_slice_of_rows_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "train.parquet", ["a", "b"])
    for bounds in ("[5:]", "[:0]", "[-1:-2]"):
        with pytest.raises(DataError, match=r"its split train\[.*\] has no rows: train has 2"):
            open_stored(config(tmp_path, splits={"train": f"train{bounds}"}), tmp_path)
