"""Pairs as arrays, and a split without leaks."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.lit.data import group_splits, groups, near_duplicates, pair_arrays, square
from experiments.lit.decode import drawings, emoji


def picture(seed: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
    """Five random rectangles on white."""
    rng = np.random.default_rng(seed)
    canvas = np.full((size[1], size[0], 3), 255, np.uint8)
    for _ in range(5):
        x, y, width, height = rng.integers(0, 30, 4)
        canvas[y : y + height, x : x + width] = rng.integers(0, 256, 3)
    return Image.fromarray(canvas)


def test_pair_arrays_keep_captions_with_their_images() -> None:
    captions = [["one"], ["two", "two,  with\nspace"], ["drei größer"]]
    arrays = pair_arrays([picture(seed) for seed in range(3)], captions, size=32)
    assert arrays["captions"].tobytes().decode().split("\n") == ["one", "two", "two, with space", "drei größer"]
    assert arrays["caption_images"].tolist() == [0, 1, 1, 2]
    assert arrays["images"].shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(arrays["images"][1], square(picture(1), 32))


def test_an_image_without_a_caption_is_refused() -> None:
    with pytest.raises(ValueError, match="image 1 has no caption"):
        pair_arrays([picture(0), picture(1)], [["one"], []], size=32)


def test_an_image_is_padded_to_a_white_square() -> None:
    wide = Image.new("RGBA", (64, 32), (255, 0, 0, 255))
    shown = square(wide, 32)
    assert (shown[0] == 255).all()
    assert (shown[16] == [255, 0, 0]).all()
    assert (square(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), 16) == 255).all()


def test_no_caption_and_no_near_duplicate_is_in_two_splits() -> None:
    rng = np.random.default_rng(0)
    seeds = rng.integers(0, 120, 300)  # many images more than once, each time with a little noise
    images = np.stack([square(picture(int(seed)), 32) for seed in seeds])
    noisy = np.clip(images + rng.integers(-4, 5, images.shape), 0, 255).astype(np.uint8)
    captions = [[f"thing {number}", f"tag {number}"] for number in rng.integers(0, 200, 300)]
    splits = group_splits(groups(noisy, captions), captions)
    assert set(splits) == {0, 1, 2}
    for name in {text for texts in captions for text in texts}:
        assert len({split for split, texts in zip(splits, captions, strict=True) if name in texts}) == 1
    pairs = zip(*np.nonzero(near_duplicates(noisy)), strict=True)
    assert all(splits[a] == splits[b] for a, b in pairs)
    for seed in range(120):
        assert len(set(splits[seeds == seed])) <= 1, "noise does not hide a copy"


def test_captions_that_differ_only_in_case_and_space_form_one_group() -> None:
    images = np.stack([square(picture(seed), 32) for seed in range(2)])
    assert groups(images, [["A  Cat"], ["a cat"]]).tolist() == [0, 0]
    assert groups(images, [["a cat"], ["a dog"]]).tolist() == [0, 1]


def test_the_split_does_not_depend_on_the_order_of_the_pairs() -> None:
    captions = [[f"thing {number}"] for number in range(200)]
    splits = group_splits(np.arange(200), captions)
    backwards = group_splits(np.arange(200), captions[::-1])
    np.testing.assert_array_equal(splits, backwards[::-1])
    assert 10 <= (splits == 1).sum() <= 30


@pytest.fixture
def packages(tmp_path: Path) -> dict[str, Path]:
    """Small copies of the packages' layouts."""
    folders = {name: tmp_path / name for name in ("emoji", "names", "stamps", "clipart", "titles")}
    entries = [("1F600", "Smileys & Emotion"), ("1F1E9", "Flags"), ("2600-FE0F", "Travel & Places")]
    (folders["emoji"] / "img/google/64").mkdir(parents=True)
    folders["names"].mkdir()
    listed, described = [], []
    for number, (code, category) in enumerate(entries):
        picture(number).save(folders["emoji"] / "img/google/64" / f"{code}.png")
        listed.append({"unified": code, "image": f"{code}.png", "category": category, "has_img_google": True})
        described.append({"hexcode": code.replace("-FE0F", ""), "label": f"label {number}", "tags": ["tag", "day"]})
    (folders["emoji"] / "emoji.json").write_text(json.dumps(listed))
    (folders["names"] / "data.json").write_text(json.dumps(described))
    for folder, text in (("animals", "A rainbow lorikeet.\nde.utf8=Ein Vogel.\n"), ("symbols", "The letter A.\n")):
        (folders["stamps"] / folder).mkdir(parents=True)
        picture(7).save(folders["stamps"] / folder / "one.png")
        (folders["stamps"] / folder / "one.txt").write_text(text)
    svg = "<dc:title>A &amp; B</dc:title><rdf:Bag><rdf:li>tools</rdf:li><rdf:li></rdf:li></rdf:Bag>"
    for folder in ("tools", "computer"):
        for kind in ("clipart", "titles"):
            (folders[kind] / folder).mkdir(parents=True)
        picture(8).save(folders["clipart"] / folder / "two.png")
        (folders["titles"] / folder / "two.svg").write_text(svg)
    picture(9).save(folders["clipart"] / "tools" / "untitled.png")
    return folders


def test_decoded_drawings_leave_out_flags_symbols_and_untitled_ones(packages: dict[str, Path]) -> None:
    arrays = drawings(packages, size=32)
    expected = ["label 0", "label 0, tag, day", "label 2", "label 2, tag, day"]
    assert arrays["captions"].tobytes().decode().split("\n") == [
        *expected,
        "A rainbow lorikeet.",
        "A & B",
        "A & B, tools",
    ]
    assert arrays["caption_images"].tolist() == [0, 0, 1, 1, 2, 3, 3]
    assert emoji(packages, size=32)["captions"].tobytes().decode().split("\n") == expected


def test_an_image_above_pillows_size_limit_is_skipped(
    packages: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    picture(0, (20, 20)).save(packages["emoji"] / "img/google/64/1F600.png")
    assert len(emoji(packages, size=32)["images"]) == 1
