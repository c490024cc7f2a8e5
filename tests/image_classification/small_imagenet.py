"""A few images in the layouts of ImageNet and similar sets: parquet, WebDataset tars, class folders."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import numpy as np
from PIL import Image

CLASSES = 10
ORIENTATION = 0x0112
"""the EXIF tag"""


def photo(seed: int, size: tuple[int, int] = (60, 44)) -> Image.Image:
    """A random RGB image of ``size`` (width, height), smooth so that JPEG hardly changes it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, file_format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **(({"quality": 95} if file_format == "JPEG" else {}) | options))
    return buffer.getvalue()


def odd_pictures() -> dict[str, bytes]:
    """The kinds of images in ImageNet that are not plain colour JPEGs."""
    rotated = Image.Exif()
    rotated[ORIENTATION] = 6
    transparent = photo(3).convert("RGBA")
    transparent.putalpha(photo(4).convert("L"))
    whole = encoded(photo(5, (400, 300)))
    return {
        "cmyk": encoded(photo(1).convert("CMYK")),
        "grey": encoded(photo(2).convert("L")),
        "png_alpha": encoded(transparent, "PNG"),
        "palette": encoded(photo(6).quantize(16), "PNG", transparency=3),
        "exif": encoded(photo(7), exif=rotated),
        "truncated": whole[: len(whole) // 2],
        "no_picture": b"\x00" * 100,
    }


def write_parquet(folder: Path, split: str, shards: Sequence[Sequence[tuple[str, bytes, int]]]) -> None:
    """Rows of (name, encoded image, label) in data/<split>-<shard>-of-<shards>.parquet."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[f"n{number:08d}" for number in range(CLASSES)])}
    )
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate(shards):
        columns = {
            "image": [{"bytes": content, "path": name} for name, content, _ in rows],
            "label": [label for _, _, label in rows],
        }
        path = folder / "data" / f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
        datasets.Dataset.from_dict(columns, features).to_parquet(path)


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def rows(count: int, seed: int, name: str, start: int = 0) -> list[tuple[str, bytes, int]]:
    """``count`` images of various sizes; ``name`` contains {number} and {label}."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(start, start + count):
        label = int(rng.integers(CLASSES))
        size = int(rng.integers(30, 80)), int(rng.integers(30, 80))
        made.append((name.format(number=number, label=label), encoded(photo(1000 * seed + number, size)), label))
    return made


TRAIN_NAME = "n{label:08d}_{number}_n{label:08d}.JPEG"
TEST_NAME = "ILSVRC2012_val_{number:08d}_n{label:08d}.JPEG"


def write_imagenet(folder: Path) -> Path:
    """Three training shards of 20, 7 and 13 rows, two of validation, and the hub's unlabelled test split."""
    train = rows(40, 1, TRAIN_NAME)
    for place, content in zip((2, 9, 21, 25, 30, 33, 38), odd_pictures().values(), strict=True):
        train[place] = (train[place][0], content, train[place][2])
    validation = rows(12, 2, TEST_NAME, start=1)
    np.random.default_rng(0).shuffle(validation)  # not stored in the order of their numbers
    write_parquet(folder, "train", [train[:20], train[20:27], train[27:]])
    write_parquet(folder, "validation", [validation[:5], validation[5:]])
    write_parquet(folder, "test", [[("ILSVRC2012_test_00000001.JPEG", encoded(photo(9)), -1)]])
    return folder


def write_v2(folder: Path) -> Path:
    folder.mkdir()
    members = [
        (f"imagenetv2-matched-frequency-format-val/{label}/{number:06x}.jpeg", encoded(photo(500 + number)))
        for number, label in enumerate([7, 0, 9, 3])
    ]
    write_tar(folder / "imagenetv2-matched-frequency.tar.gz", members)
    write_tar(folder / "imagenetv2-top-images.tar.gz", members[:1])
    return folder


def write_real(path: Path) -> Path:
    """Labels of 12 test images: none, the image's number, or several."""
    path.write_text(json.dumps([[] if number % 4 == 0 else list(range(number % 4)) for number in range(1, 13)]))
    return path


def source(kind: str, folder: Path, **keys: Any) -> dict[str, Any]:
    where = {"repo": str(folder), "revision": "main"} if kind == "hub" else {"path": str(folder)}
    common = {"splits": {"train": "train", "test": "validation"}, "image": "image", "label": "label"}
    return {"kind": kind, **where, **common, **keys}
