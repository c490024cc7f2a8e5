"""Decoders for named images from package registries, to the arrays of data.py."""

import html
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.data.pixels import converted
from experiments.lit.data import pair_arrays

Pair = tuple[Path, list[str]]
"""An image file and its captions."""

CATEGORIES_WITHOUT_THINGS = {"Flags", "Symbols", "Component"}
CLIPART_WITHOUT_THINGS = {"computer", "shapes", "special", "flags", "cards", "signs_and_symbols"}
"""Folders of icon themes, geometric shapes, gradients, flags, playing cards and signs."""
_TITLE = re.compile(r"<dc:title[^>]*>(.*?)</dc:title>", re.DOTALL)
_KEYWORDS = re.compile(r"<rdf:li[^>]*>(.*?)</rdf:li>", re.DOTALL)


def emoji(folders: Mapping[str, Path], size: int) -> dict[str, np.ndarray]:
    """Emoji with their names and tags."""
    return _decoded(_emoji(folders["emoji"], folders["names"]), size)


def drawings(folders: Mapping[str, Path], size: int) -> dict[str, np.ndarray]:
    """Emoji, Tux Paint's stamps and Open Clip Art, in this order."""
    pairs = [
        *_emoji(folders["emoji"], folders["names"]),
        *_stamps(folders["stamps"]),
        *_clipart(folders["clipart"], folders["titles"]),
    ]
    return _decoded(pairs, size)


def _decoded(pairs: list[Pair], size: int) -> dict[str, np.ndarray]:
    images, captions = [], []
    for path, texts in pairs:
        if image := _opened(path):
            image.thumbnail((4 * size, 4 * size))  # saves memory; it is resized to the final size later
            images.append(image)
            captions.append(texts)
    return pair_arrays(images, captions, size)


def _opened(path: Path) -> Image.Image | None:
    """The image with transparency; None if Pillow considers it too large to be safe (89 million pixels)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return converted(image, "RGBA")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return None


def _emoji(folder: Path, names: Path) -> list[Pair]:
    """emoji-datasource-google with emojibase-data's English names, without and with their tags: "nerd face, geek"."""
    described = {
        entry["hexcode"].replace("-FE0F", ""): entry for entry in json.loads((names / "data.json").read_text())
    }
    pairs = []
    for entry in json.loads((folder / "emoji.json").read_text()):
        if entry["category"] in CATEGORIES_WITHOUT_THINGS or not entry["has_img_google"]:
            continue
        found = described[entry["unified"].replace("-FE0F", "")]
        captions = [found["label"], ", ".join([found["label"], *found.get("tags", [])])]
        pairs.append((folder / "img/google/64" / entry["image"], list(dict.fromkeys(captions))))
    return pairs


def _stamps(folder: Path) -> list[Pair]:
    """Tux Paint's stamps: NAME.png with NAME.txt, whose first line is an English sentence."""
    pairs = []
    for path in sorted(folder.rglob("*.txt")):
        image = path.with_suffix(".png")
        sentence = path.read_text(encoding="utf-8").partition("\n")[0].strip()
        if image.exists() and sentence and path.relative_to(folder).parts[0] != "symbols":
            pairs.append((image, [sentence]))
    return pairs


def _clipart(images: Path, titles: Path) -> list[Pair]:
    """Open Clip Art: PNG files, with the title and keywords from the SVG file of the same name."""
    pairs = []
    for path in sorted(images.rglob("*.png")):
        name = path.relative_to(images)
        source = titles / name.with_suffix(".svg")
        if path.is_symlink() or not source.is_file() or name.parts[0] in CLIPART_WITHOUT_THINGS:
            continue
        text = source.read_text(encoding="utf-8", errors="replace")
        if captions := list(_titles(text)):
            pairs.append((path, captions))
    return pairs


def _titles(svg: str) -> Iterator[str]:
    """The title, and the title with the keywords."""
    found = _TITLE.search(svg)
    title = html.unescape(found[1]).strip() if found else ""
    if not title:
        return
    yield title
    keywords = [html.unescape(word).strip() for word in _KEYWORDS.findall(svg)]
    if extended := ", ".join(word for word in keywords if word and "<" not in word):
        yield f"{title}, {extended}"
