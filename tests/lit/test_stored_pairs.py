"""Sets of the hub's layouts, read by the real library from small local copies."""

import io
import tarfile
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import numpy as np
import pytest
from PIL import Image

from experiments.harness.errors import DataError
from experiments.lit.splits import labelled_splits, pair_splits
from experiments.lit.stored_pairs import open_stored

SPLITS = {"train": "train[:-4]", "val": "train[-4:-2]", "test": "train[-2:]"}


def jpeg(colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20 + colour, 30), (colour, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def write_webdataset(path: Path, captions: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, caption in enumerate(captions):
            for extension, content in (("jpg", jpeg(number)), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{number:09d}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def config(path: Path, **more: Any) -> dict[str, Any]:
    place = {"kind": "local", "path": str(path), "splits": SPLITS, "image": "jpg", "caption": "txt", **more}
    return {"name": "small", "fingerprint": None, "places": [place]}


@pytest.fixture(autouse=True)
def library_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def test_conceptual_captions_layout(tmp_path: Path) -> None:
    write_webdataset(tmp_path / "cc" / "cc12m-train-0000.tar", [f"caption {number}" for number in range(12)])
    splits = pair_splits(open_stored(config(tmp_path / "cc"), tmp_path))
    assert {name: len(split.captions) for name, split in splits.items()} == {"train": 8, "val": 2, "test": 2}
    assert splits["test"].texts() == ["caption 10", "caption 11"]
    assert splits["test"].pictures[1].shape == (3, 30, 31)
    assert abs(int(splits["val"].pictures[0][0, 5, 5]) - 8) <= 2


def test_what_is_held_out_shares_no_caption_with_training(tmp_path: Path) -> None:
    captions = [f"caption {number}" for number in range(10)] + ["Caption  3", "caption 11"]
    write_webdataset(tmp_path / "cc" / "cc-train-0000.tar", captions)
    splits = pair_splits(open_stored(config(tmp_path / "cc"), tmp_path))
    assert splits["test"].texts() == ["caption 11"]
    assert splits["test"].pictures[0].shape == (3, 30, 31)


def test_retrieval_layout_with_several_captions_a_picture(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("test", 3)):
        write_webdataset(tmp_path / "coco" / split / "0.tar", [f"a {number}\nb {number}" for number in range(count)])
    files = {"test": "test/*.tar"}
    splits = pair_splits(open_stored(config(tmp_path / "coco", files=files, splits={"test": "test"}), tmp_path))
    assert list(splits) == ["test"]
    assert splits["test"].captions == [["a 0", "b 0"], ["a 1", "b 1"], ["a 2", "b 2"]]
    assert splits["test"].starts().tolist() == [0, 2, 4, 6]


def test_labelled_parquet_layout(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [{"bytes": jpeg(n), "path": None} for n in range(4)], "label": [0, 1, 1, 0]}
    (tmp_path / "pets" / "data").mkdir(parents=True)
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "pets" / "data" / "test-00000-of-00001.parquet")
    place = {"kind": "local", "path": str(tmp_path / "pets"), "splits": {"test": "test"}}
    data = {"name": "pets", "fingerprint": None, "places": [{**place, "image": "image", "label": "label"}]}
    split = labelled_splits(open_stored(data, tmp_path), val_size=0)["test"]
    np.testing.assert_array_equal(split.labels, [0, 1, 1, 0])
    assert split.pictures[2].shape == (3, 30, 22)


def test_the_fingerprint_tells_other_captions_apart(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        write_webdataset(tmp_path / name / "cc-train-0000.tar", [f"{name} {number}" for number in range(12)])
        found.append(open_stored(config(tmp_path / name), tmp_path).fingerprint)
    assert found[0] != found[1]
    with pytest.raises(DataError, match=f"{found[0]} here, but its config declares {found[1]}"):
        open_stored({**config(tmp_path / "a"), "fingerprint": found[1]}, tmp_path)


def test_when_no_place_has_it_each_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data=small cannot be opened") as caught:
        open_stored(config(tmp_path / "nowhere"), tmp_path)
    assert "nowhere" in str(caught.value)


def test_odd_rows_are_left_out_or_read_as_far_as_they_go_and_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    animated = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (10, 200)]
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    noise = io.BytesIO()
    Image.effect_noise((200, 200), 90).convert("RGB").save(noise, "JPEG")
    pictures = [jpeg(0), noise.getvalue()[: len(noise.getvalue()) // 2], b"no picture", animated.getvalue(), jpeg(4)]
    rows = {
        "jpg": [{"bytes": picture, "path": None} for picture in pictures],
        "txt": ["whole", "cut", "broken", "moving " * 1500, " \n"],
    }
    features = datasets.Features({"jpg": datasets.Image(), "txt": datasets.Value("string")})
    (tmp_path / "odd").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "odd" / "train.parquet")
    split = open_stored(config(tmp_path / "odd", splits={"train": "train"}), tmp_path).splits["train"]
    assert [own[0].split()[0] for own in split.captions] == ["whole", "cut", "broken", "moving"]
    assert "1 of 5 rows have no caption and are left out" in caplog.text
    sizes = [split.picture(row).size for row in range(4)]
    assert (sizes[0], sizes[1], sizes[3]) == ((20, 30), (200, 200), (8, 8))
    assert np.asarray(split.picture(3))[4, 4, 0] < 50, "the first frame"
    damaged = [record.getMessage() for record in caplog.records if "is damaged" in record.getMessage()]
    assert ["row 1" in damaged[0], "row 2" in damaged[1], len(damaged)] == [True, True, 2]
