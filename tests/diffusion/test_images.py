"""Images from arrays and from files in the hub's layouts, downsampled as in ADM."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.data.images import ArrayImages
from experiments.data.stored import open_stored
from experiments.diffusion.conditions import ClassConditions, TextConditions
from experiments.diffusion.data import ConditionedImages, captioned_splits, centre, class_splits
from experiments.diffusion.sampler import from_bytes
from experiments.harness.config import typed
from experiments.harness.errors import DataError
from experiments.harness.prepared_data import PreparedData
from experiments.harness.run import locate
from tests.conftest import MakeConfig, built
from tests.image_classification.small_imagenet import encoded, photo, write_parquet


def stored_source(folder: Path, fingerprint: str | None = None) -> dict[str, object]:
    splits = {"train": "train", "test": "validation"}
    source = {"kind": "local", "path": str(folder), "splits": splits, "image": "image", "label": "label"}
    return {"name": "small", "sources": [source], "num_classes": 10, "fingerprint": fingerprint}


def stored(folder: Path, fingerprint: str | None = None) -> dict[str, object]:
    rows = [(f"{number}.jpg", encoded(photo(number)), number % 10) for number in range(30)]
    write_parquet(folder, "train", [rows[:12], rows[12:20]])
    write_parquet(folder, "validation", [rows[20:]])
    return stored_source(folder, fingerprint)


def test_images_are_downsampled_by_averaging_and_centre_cropped() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3)).astype(np.uint8)
    found = centre(Image.fromarray(pixels), 16)
    # Pillow, also used by ADM, averages along rows, then along columns, rounding half up each time
    rows = np.floor(pixels.reshape(32, 32, 2, 3).mean(2) + 0.5)
    expected = np.floor(rows.reshape(16, 2, 32, 3).mean(1) + 0.5)[:, 8:24]
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("size", [32, 16, 8, 24])
def test_arrays_become_the_squares_that_each_image_becomes_alone(size: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3)).astype(np.uint8)
    rows, numbers = np.array([7, 2, 5, 1]), np.array([3, 0, 2])
    split = ConditionedImages(ArrayImages(images, rows), np.arange(4))
    found = split.pixels(numbers, size)
    expected = np.stack([centre(Image.fromarray(images[row]), size) for row in (1, 7, 5)])
    assert np.array_equal(found.movedim(1, 3), expected)
    assert found.movedim(1, 3).is_contiguous(), "so that convolutions take the same path"


def test_images_of_any_size_become_squares_of_the_requested_size() -> None:
    for size in ((50, 23), (23, 50), (16, 16), (7, 9), (500, 333)):
        assert centre(photo(0, size), 16).shape == (16, 16, 3)


def test_stored_images_are_split_and_keep_their_labels(tmp_path: Path) -> None:
    opened = open_stored(stored(tmp_path), tmp_path)
    splits = class_splits(opened, 5)
    assert {name: len(split) for name, split in splits.items()} == {"fit": 15, "val": 5, "test": 10}
    labels = np.concatenate([np.asarray(splits[name].conditions) for name in ("fit", "val")])
    assert np.array_equal(np.sort(labels), np.sort(np.arange(20) % 10))
    assert splits["test"].pixels(np.arange(3), 16).shape == (3, 3, 16, 16)
    pixels = splits["test"].pixels(np.arange(10), 16).movedim(1, 3).numpy()
    for place, label in enumerate(np.asarray(splits["test"].conditions)):
        expected = centre(Image.open(io.BytesIO(encoded(photo(20 + label)))), 16)
        assert np.array_equal(pixels[place], expected), "a picture keeps its label"


def test_stored_images_with_another_fingerprint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data=small has the fingerprint [0-9a-f]{64} here"):
        open_stored(stored(tmp_path, "0" * 64), tmp_path)


def test_image_caption_tars_give_each_image_its_first_caption(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set/000.tar", "w") as tar:
        for number in range(10):
            texts = f"picture {number}\nanother name of {number}"
            for extension, content in (("jpg", encoded(photo(number))), ("txt", texts.encode())):
                member = tarfile.TarInfo(f"{number:09d}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    splits = {"train": "train[:-4]", "val": "train[-4:-2]", "test": "train[-2:]"}
    source = {"kind": "local", "path": str(tmp_path / "set"), "splits": splits, "image": "jpg", "caption": "txt"}
    opened = open_stored({"name": "small", "fingerprint": None, "sources": [source]}, tmp_path)
    found = captioned_splits(opened)
    assert {name: len(split) for name, split in found.items()} == {"fit": 6, "val": 2, "test": 2}
    assert sorted(found["test"].conditions) == ["picture 8", "picture 9"]
    assert found["test"].pixels(np.array([1]), 16).shape == (1, 3, 16, 16)


def test_class_sorted_folders_are_shuffled(tmp_path: Path) -> None:
    for split, count in (("train", 12), ("val", 10)):
        for number in range(10 * count):
            path = tmp_path / split / f"class {number // count}" / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(photo(number), "PNG"))
    opened = open_stored(stored_source(tmp_path), tmp_path)
    splits = class_splits(opened, 20)
    for name in ("fit", "val", "test"):
        first = np.asarray(splits[name].conditions)[:20]
        assert len(set(first.tolist())) >= 7, "20 of 10 classes are 8.8 of them in the mean"


def test_class_sorted_arrays_are_refused() -> None:
    class Sorted(PreparedData):
        def load(self) -> dict[str, np.ndarray]:
            images = np.zeros((20, 4, 4, 3), np.uint8)
            return {"train_images": images, "train_labels": np.repeat([0, 1], 10)}

    with pytest.raises(DataError, match="data=digits: the rows are sorted by class"):
        class_splits(Sorted(Path(), "0", {}), 5, "digits")


@pytest.mark.parametrize(
    ("classes", "count", "batch_size"), [(1000, 64, 32), (1000, 5000, 250), (10, 512, 128), (7, 9, 3)]
)
def test_generated_samples_cover_the_classes_evenly(classes: int, count: int, batch_size: int) -> None:
    made = ClassConditions(classes, batch_size).of_samples(None, count)  # type: ignore[arg-type]
    numbers = np.bincount(made, minlength=classes)
    assert numbers.max() - numbers.min() <= 1
    assert len(made) == count
    if batch_size < classes:
        batches = made[: count // batch_size * batch_size].reshape(-1, batch_size)
        spread = np.abs(batches.mean(1) - (classes - 1) / 2).max() / (classes / 12**0.5 / batch_size**0.5)
        assert spread < 4, "the mean class of each batch is that of a sample, within 4 standard errors"
    else:
        assert made.tolist() == [number % classes for number in range(count)]


def test_caption_padding_is_masked_and_the_text_encoder_is_not_in_the_model(make_text_to_image: MakeConfig) -> None:
    cfg = make_text_to_image("data.image_size=16")
    task = built(cfg)
    torch.manual_seed(0)
    model = task.model().eval()
    batch = task.batch(np.arange(2), [0, 0])
    images = from_bytes(batch["images"])
    assert batch["conditions"].shape == (2, 8)
    conditions = TextConditions(typed(cfg), locate(cfg).data)
    arguments = conditions.arguments(batch["conditions"])
    times = torch.tensor([5, 900])
    with torch.no_grad():
        plain = model(images, times, **arguments).sample
        noise = torch.where(batch["conditions"][..., None] == 0, 100.0, 0.0)
        padded = model(
            images, times, **{**arguments, "encoder_hidden_states": arguments["encoder_hidden_states"] + noise}
        ).sample
        hidden = conditions.arguments(conditions.hidden(batch["conditions"]))
        without = model(images, times, **hidden).sample
    torch.testing.assert_close(plain, padded)
    assert not torch.allclose(plain, without, atol=1e-5)
    assert not any("encoder" in name and "hid_proj" not in name for name in model.state_dict() if "norm" not in name)


def test_the_text_encoder_is_frozen_and_independent_of_the_seed(make_text_to_image: MakeConfig) -> None:
    states = []
    for seed in (0, 1):
        cfg = make_text_to_image(f"seed={seed}")
        torch.manual_seed(seed)
        arguments = TextConditions(typed(cfg), locate(cfg).data).arguments(torch.arange(8)[None])
        states.append(arguments["encoder_hidden_states"])
    assert torch.equal(states[0], states[1])
    assert not states[0].requires_grad


class Numbered(PreparedData):
    """30 training images whose class and brightness are their number modulo 10."""

    def load(self) -> dict[str, np.ndarray]:
        labels = np.random.default_rng(0).permutation(30) % 10
        images = np.broadcast_to(labels.astype(np.uint8)[:, None, None, None], (30, 4, 4, 3))
        return {"train_images": images, "train_labels": labels, "test_images": images[:5], "test_labels": labels[:5]}


def test_the_split_seed_draws_the_held_out_images_with_their_labels(tmp_path: Path) -> None:
    opened = Numbered(tmp_path, "0", {})
    drawn = {seed: class_splits(opened, 6, seed=seed) for seed in (None, 1, 2)}
    held_out = {seed: tuple(np.asarray(splits["val"].conditions).tolist()) for seed, splits in drawn.items()}
    assert len({*held_out.values()}) == 3
    assert held_out[1] == tuple(np.asarray(class_splits(opened, 6, seed=1)["val"].conditions).tolist())
    for splits in drawn.values():
        assert {name: len(split) for name, split in splits.items()} == {"fit": 24, "val": 6, "test": 5}
        for split in splits.values():
            shown = split.pixels(np.arange(len(split)), 4)[:, 0, 0, 0]
            assert shown.tolist() == np.asarray(split.conditions).tolist()
        classes = np.concatenate([np.asarray(splits[name].conditions) for name in ("fit", "val")])
        assert np.array_equal(np.sort(classes), np.repeat(np.arange(10), 3))
