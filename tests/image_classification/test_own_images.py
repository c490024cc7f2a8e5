"""Images of any size and kind, such as a user's own, without random resized crops; images of the right size are
unchanged, bit for bit.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from experiments.harness.entry import execute
from experiments.harness.errors import ConfigError, DataError
from experiments.image_classification.augmentation import centred, evaluation_transform, training_transform
from experiments.image_classification.decode import hub_images
from tests.conftest import MakeConfig, built
from tests.image_classification.small_imagenet import photo
from tests.image_classification.test_augmentation import ramp

SIZES = [(48, 40), (32, 32), (20, 33), (100, 32), (7, 9), (33, 32)]
KINDS = ["RGB", "L", "P", "RGBA", "CMYK", "I;16", "1", "LA"]


def picture(kind: str, seed: int, size: tuple[int, int]) -> Image.Image:
    if kind == "I;16":
        grey = np.asarray(photo(seed, size).convert("L")).astype(np.uint16)
        return Image.fromarray(grey * 257)
    return photo(seed, size).convert(kind)


def write_folder(folder: Path) -> Path:
    """Class folders a, b and c for train and test, with every kind in several sizes."""
    for split, count in (("train", 24), ("test", 12)):
        for number in range(count):
            kind, size = KINDS[number % len(KINDS)], SIZES[number % len(SIZES)]
            path = folder / split / "abc"[number % 3] / f"{number}.{'tif' if kind in ('CMYK', 'I;16') else 'png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(kind, number + 1000 * (split == "test"), size).save(path)
    return folder


def own(folder: Path, channels: int = 3) -> list[str]:
    values = ",".join(["0.5"] * channels)
    source = f"{{kind: local, path: '{folder}', splits: {{train: train, test: test}}, image: image, label: label}}"
    return [
        "data.name=own", "data.access=experiments.image_classification.data.open_image_set", "data.num_classes=3",
        "data.image_size=32", f"data.channels={channels}", f"data.mean=[{values}]", f"data.std=[{values}]",
        "data.val_size=6", f"data.sources=[{source}]", "flatness.draws=0", "flatness.samples=0",
    ]  # fmt: skip


def test_images_of_the_right_size_are_passed_through_bit_for_bit(make_config: MakeConfig) -> None:
    cfg = make_config()
    image = torch.randint(0, 256, (1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    before = v2.Compose([v2.RandomCrop(28, padding=2), v2.ToImage()])
    for given in (image, v2.functional.to_pil_image(image)):
        assert centred(28, given) is given
        for seed in range(20):
            made = []
            for transform in (before, training_transform(cfg)):
                torch.manual_seed(seed)
                made.append(transform(given))
            assert torch.equal(*made)
        assert torch.equal(evaluation_transform(cfg)(given), v2.ToImage()(given))


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("padding", [0, 2, 5])
def test_a_batch_is_what_torchvision_makes_of_each_image(make_config: MakeConfig, padding: int, flip: bool) -> None:
    cfg = make_config(f"data.crop_padding={padding}", f"data.flip={flip}")
    task, crop = built(cfg), v2.RandomCrop(28, padding=padding)
    indices, seeds = np.arange(20), [3 * number + 2**40 for number in range(20)]
    for image, index, seed in zip(task.batch(indices, seeds)["images"], indices, seeds, strict=True):
        torch.manual_seed(seed)
        expected = crop(task.splits["fit"].images[index])
        assert torch.equal(image, v2.RandomHorizontalFlip()(expected) if flip else expected)


@pytest.mark.parametrize("size", SIZES)
def test_images_of_another_size_become_the_resized_centre_square(
    make_config: MakeConfig, size: tuple[int, int]
) -> None:
    cfg = make_config("data.image_size=28")
    given = ramp(*size)
    for form in (given, v2.functional.pil_to_tensor(given)):
        found = evaluation_transform(cfg)(form).float()
        for colour, length in zip(found, size, strict=False):  # red is the horizontal position, green the vertical
            pixel = 255 / (length - 1) * min(size) / 28
            assert colour.mean() == pytest.approx(127.5, abs=pixel / 2 + 1)
            assert colour.max() - colour.min() == pytest.approx(min(255, 27 * pixel), abs=pixel + 2)
        torch.manual_seed(0)
        assert training_transform(cfg)(form).shape == (3, 28, 28)


def test_a_folder_of_images_of_mixed_sizes_and_modes_trains(make_config: MakeConfig, tmp_path: Path) -> None:
    cfg = make_config(*own(write_folder(tmp_path / "own")), "study.secondary_metrics=[]")
    assert execute(cfg) is not None
    assert shapes(cfg) == {(3, 32, 32)}


def test_grey_images_are_unchanged_for_a_one_channel_model(make_config: MakeConfig, tmp_path: Path) -> None:
    cfg = make_config(*own(write_folder(tmp_path / "own"), channels=1))
    assert shapes(cfg) == {(1, 32, 32)}
    images = built(cfg).splits["test"].images
    names = [Path(name).stem for name in images.split.file_names()]
    number = names.index("1")  # grey, 32 x 32
    assert np.array_equal(np.asarray(images[number]), np.asarray(picture("L", 1001, (32, 32))))


def shapes(cfg: Any) -> set[tuple[int, ...]]:
    """The pixels of all images, as used in training and evaluation."""
    task, transform = built(cfg), evaluation_transform(cfg)
    evaluated = {
        tuple(transform(split.images[number]).shape)
        for split in task.splits.values()
        for number in range(len(split.labels))
    }
    return evaluated | {tuple(task.batch(np.arange(task.num_train), [0] * task.num_train)["images"].shape[1:])}


def test_an_image_of_floats_is_refused_by_file(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "own")
    Image.fromarray(np.ones((32, 32), np.float32)).save(folder / "test/a/depth.tif")
    with pytest.raises(DataError, match=r"depth\.tif\) cannot be used: its pixels are signed numbers or floats"):
        execute(make_config(*own(folder), "study.secondary_metrics=[]"))


def test_decoded_images_are_resized_but_must_have_the_configured_channels(make_config: MakeConfig) -> None:
    cfg = make_config("data.image_size=32")
    assert shapes(cfg) == {(1, 32, 32)}
    cfg = make_config("data.channels=3", "data.mean=[0.5,0.5,0.5]", "data.std=[0.5,0.5,0.5]")
    with pytest.raises(ConfigError, match=r"data\.channels=3, but the train images of data=patterns have 1"):
        built(cfg)


@pytest.mark.parametrize("other", [photo(2, (20, 33)), photo(2, (60, 44)).convert("L")])
def test_hub_images_of_different_shapes_are_refused_by_row(other: Image.Image) -> None:
    split = {"image": [photo(1), photo(3), other], "label": [0, 1, 0]}
    with pytest.raises(ValueError, match=r"\(44, 60, 3\) in row 0 and \(.*\) in row 2: read them with access: .*"):
        hub_images({"train": split, "test": split}, image="image", label="label")
