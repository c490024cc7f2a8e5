"""Class folders give the same rows as a loop over the files, whatever their names, or raise a DataError."""

import io
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from experiments.data.stored import open_splits
from experiments.data.stored_split import StoredSplit
from experiments.harness.errors import DataError

SPLITS = {"train": "train", "test": "validation"}
SPLIT_WORDS = ["train", "training", "valid", "val", "validation", "dev", "test", "eval", "Train", "bullet train"]
NAMES = st.one_of(
    st.sampled_from([*SPLIT_WORDS, "bus", "car", "1", "2", "10", "007", "a.b", "-", "é", "e\u0301", "data", "0.jpg"]),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12),
)


def write(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(path, "PNG")


def opened(folder: Path, splits: dict[str, str] = SPLITS, **more: Any) -> dict[str, StoredSplit]:
    source = {"kind": "local", "path": str(folder), "splits": splits, "image": "image", "label": "label", **more}
    return open_splits({"name": "tree", "sources": [source]})


def found_rows(split: StoredSplit) -> dict[int, int]:
    """The label of each image, from its shade of red."""
    shades = [np.asarray(split.image(row))[0, 0, 0].item() for row in range(len(split))]
    assert len(set(shades)) == len(shades)
    return dict(zip(shades, split.labels.tolist(), strict=True))


CLASSES_LIKE_SPLITS = ["bus|car|train", "lorry|train", "invalid|valid", "cat|test", "bird|eval", "dev|ops"]
CLASSES_LIKE_SPLITS += ["bullet train|bus", "train|validation"]


@pytest.mark.parametrize("names", [tuple(names.split("|")) for names in CLASSES_LIKE_SPLITS])
def test_a_class_folder_can_have_the_name_of_a_split(tmp_path: Path, names: tuple[str, ...]) -> None:
    shade = 0
    expected: dict[str, dict[int, int]] = {"train": {}, "test": {}}
    for ours, theirs, count in (("train", "train", 8), ("test", "val", 3)):
        for label, name in enumerate(names):
            for number in range(count):
                write(tmp_path / theirs / name / f"{number}.png", shade)
                expected[ours][shade] = label
                shade += 1
    splits = opened(tmp_path)
    assert {name: found_rows(split) for name, split in splits.items()} == expected


@pytest.mark.parametrize("names", [("bus", "car", "train"), ("0", "1", "test"), ("valid",)])
def test_class_folders_without_split_folders_form_one_split(tmp_path: Path, names: tuple[str, ...]) -> None:
    for label, name in enumerate(names):
        write(tmp_path / name / "a.png", label)
    assert found_rows(opened(tmp_path, {"test": "train"})["test"]) == {label: label for label in range(len(names))}


def test_the_error_for_a_missing_or_ambiguous_split_lists_the_folders(tmp_path: Path) -> None:
    write(tmp_path / "train" / "a" / "a.png", 0)
    with pytest.raises(
        DataError, match=r"it has no split validation, neither a folder nor a table .*; it contains train\."
    ):
        opened(tmp_path)
    write(tmp_path / "val" / "a" / "a.png", 0)
    write(tmp_path / "dev" / "a" / "a.png", 0)
    with pytest.raises(DataError, match="its split validation may be dev or val: keep one of them"):
        opened(tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=5, unique=True), st.lists(NAMES, max_size=3, unique=True))
@example(["emu", "cat", "dog"], ["dog", "cat"])
@example(["2", "0", "10", "9", "1"], ["10", "2"])  # numbers are the labels themselves
def test_arbitrary_class_names_are_read_like_a_plain_loop_or_refused(train: list[str], test: list[str]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        files = {"train": [(name, shade) for shade, name in enumerate(train)]}
        files["val"] = [(name, 100 + shade) for shade, name in enumerate(test or train)]
        try:
            for split, rows in files.items():
                for name, shade in rows:
                    write(root / split / name / f"{shade}.png", shade)
        except OSError:
            return  # not a possible folder name
        visible = {
            split: sorted(name for name in os.listdir(root / split) if not name.startswith(".")) for split in files
        }
        numeric = all(name.isascii() and name.isdigit() for names in visible.values() for name in names)
        try:
            splits = opened(root)
        except DataError:
            numbers = [int(name) for name in visible["train"]] if numeric else []
            strange = set(visible["val"]) - set(visible["train"])
            blank = not all(name.strip() for names in visible.values() for name in names)
            empty = not visible["train"] or not visible["val"]
            assert strange or blank or empty or len(set(numbers)) < len(numbers)
            return
        for ours, theirs in (("train", "train"), ("test", "val")):
            assert found_rows(splits[ours]) == {
                shade: int(name) if numeric else visible["train"].index(name)
                for name, shade in files[theirs]
                if not name.startswith(".")
            }


@pytest.mark.parametrize("path", ["train/group/a/9.png", "train/9.png", "train/a/more/9.png"])
def test_an_image_outside_the_class_folders_is_refused_by_name(tmp_path: Path, path: str) -> None:
    for number, split in enumerate(("train", "val")):
        write(tmp_path / split / "a" / f"{number}.png", number)
    write(tmp_path / path, 9)
    with pytest.raises(DataError, match=f"the image {path.removeprefix('train/')} is not in a class folder"):
        opened(tmp_path)


def test_ignored_files_are_counted_and_empty_class_folders_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, name in enumerate(("0.png", "1.Png", "2.PNG", "3.JpG", "4.jpeg.png")):
        write(tmp_path / "train" / "a" / name, number)
    write(tmp_path / "val" / "a" / "a.png", 0)
    for name in ("train/a/notes.txt", "train/a/5.png.bak", "train/a/noending", "LICENSE"):
        (tmp_path / name).write_bytes(b"x")
    for name in ("train/a/._0.png", "train/a/.DS_Store", ".git/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    splits = opened(tmp_path)
    assert len(splits["train"]) == 5
    assert "4 files of" in caplog.text
    for name in ("LICENSE", "train/a/notes.txt", "train/a/5.png.bak", "train/a/noending"):
        assert name in caplog.text
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(DataError, match=r"the class folder .*/train/empty contains no images: remove it, or fill it"):
        opened(tmp_path)


@pytest.mark.parametrize("suffix", ["avif", "AVIF", "webp", "bmp", "tif", "TIFF", "gif", "jp2", "ppm", "jfif", "tga"])
def test_image_files_of_every_pillow_format_are_found(tmp_path: Path, suffix: str) -> None:
    image = Image.new("RGB", (16, 16), (200, 40, 40))
    formats = {"tif": "TIFF", "jp2": "JPEG2000", "jfif": "JPEG"}
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        image.save(tmp_path / split / "a" / f"x.{suffix}", formats.get(suffix.lower(), suffix.upper()))
    opened_split = opened(tmp_path)["train"]
    assert opened_split.lengths[0] == (tmp_path / f"train/a/x.{suffix}").stat().st_size
    assert abs(int(np.asarray(opened_split.image(0))[8, 8, 0]) - 200) < 8


def test_symlinks_are_followed_but_cycles_and_broken_links_refused(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train" / "a" / "0.png", 0)
    write(tmp_path / "elsewhere" / "1.png", 1)
    (tmp_path / "set" / "train" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "train" / "a" / "2.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "set" / "val").symlink_to(tmp_path / "set" / "train")
    assert opened(tmp_path / "set")["test"].labels.tolist() == [0, 0, 1]
    (tmp_path / "set" / "train" / "a" / "3.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"3\.png is a broken link"):
        opened(tmp_path / "set")
    (tmp_path / "set" / "train" / "a" / "3.png").unlink()
    (tmp_path / "set" / "train" / "up").symlink_to(tmp_path / "set")
    with pytest.raises(DataError, match="leads back to a folder that contains it"):
        opened(tmp_path / "set")


def test_glob_patterns_select_the_files_of_a_split(tmp_path: Path) -> None:
    for number, path in enumerate(("one/a/0.png", "one/b/1.png", "two/a/2.png", "three/a/3.png")):
        write(tmp_path / path, number)
    files = {"train": "one/**", "validation": ["two/*/*.png"]}
    splits = opened(tmp_path, files=files)
    assert [found_rows(splits[name]) for name in ("train", "test")] == [{0: 0, 1: 1}, {2: 0}]
    with pytest.raises(DataError, match=r"none of its files matches four/\* for the split validation"):
        opened(tmp_path, files={**files, "validation": "four/*"})
    with pytest.raises(DataError, match="its key files has no pattern for the split validation, only for train"):
        opened(tmp_path, files="one/**")


def test_an_image_of_floats_is_refused_by_row_and_file(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / split / "a" / "0.png", 0)
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(buffer, "TIFF")
    (tmp_path / "train" / "a" / "x.tif").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match=r"row 1 of tree/train \(x\.tif\) cannot be used: .* floats"):
        opened(tmp_path)["train"].image(1)


def test_ambiguous_class_folders_in_a_hub_repository_are_refused(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("lorry", "train"):
            write(tmp_path / split / name / "0.png", 0)
    source = {"kind": "hub", "repo": str(tmp_path), "revision": "main", "splits": SPLITS}
    with pytest.raises(DataError, match="the library also guesses splits from class names"):
        open_splits({"name": "tree", "sources": [{**source, "image": "image", "label": "label"}]})
