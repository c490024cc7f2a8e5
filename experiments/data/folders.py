"""Assign the files of a folder to splits, by the first level of the folder only.

A split is a subfolder of that name or, if there is none, the tables and archives, directly in the folder or in its
subfolder ``data``, with that word in their names. A folder of class folders without splits is the split "train".
"""

import glob
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from experiments.harness.errors import DataError

log = logging.getLogger(__name__)

_SPLIT_NAMES = (
    {"train", "training"},
    {"validation", "valid", "val", "dev"},
    {"test", "testing", "eval", "evaluation"},
)
_TABLES = {".parquet": "parquet", ".arrow": "arrow", ".json": "json", ".jsonl": "json", ".csv": "csv"}
_TABLES |= {".tar": "webdataset", ".tar.gz": "webdataset", ".tgz": "webdataset"}
_METADATA = {"metadata.csv", "metadata.jsonl", "metadata.parquet"}
"""Files in which the ``datasets`` library expects captions or labels by image file name."""
_NEED_PROGRAMS = {"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5"}
"""Formats that Pillow knows but cannot read without other programs."""
CLASS_FOLDERS, IMAGES_WITH_METADATA = "class folders", "imagefolder"


def split_files(folder: Path, wanted: Iterable[str], patterns: Any = None) -> dict[str, tuple[str, Path, list[Path]]]:
    """For each split: the kind of its files (CLASS_FOLDERS, IMAGES_WITH_METADATA, or a builder of ``datasets``), the
    folder that contains its class folders, and its files in order of their names.

    ``patterns`` select files instead of names: a single pattern for the split train, or patterns for each split. A
    warning counts and names the files that are not read. Raises DataError for a split that is missing or ambiguous, and
    for a broken or circular link.
    """
    files = list(visible_files(folder))
    found = {}
    for split in wanted:
        if patterns is None:
            root, own = _named(folder, files, split)
        else:
            of_split = patterns if isinstance(patterns, Mapping) else {"train": patterns}
            root, own = _matching(folder, files, split, of_split)
        kind, chosen = _of_one_kind(own, split)
        if kind == CLASS_FOLDERS:
            _check_class_folders(root, chosen, all_of_them=patterns is None)
        found[split] = kind, root, chosen
    read = {path for _, _, own in found.values() for path in own}
    warn_of_unread(folder, [path for path in files if path not in read])
    return found


def is_hidden(name: str) -> bool:
    """Whether the operating system created a file or folder: ``.DS_Store``, ``._a.txt``, ``__MACOSX``."""
    return name.startswith(".") or name == "__MACOSX"


def visible_files(folder: Path) -> Iterator[Path]:
    """The files in a folder and its subfolders, in order of their names, without hidden ones; links are followed.
    Raises DataError for a broken or circular link.
    """

    def below(path: str, above: frozenset[str]) -> Iterator[Path]:
        real = os.path.realpath(path)
        if real in above:
            raise DataError(f"the link {path} leads back to a folder that contains it.")
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                yield from below(entry.path, above | {real})
            elif entry.is_file():
                yield Path(entry.path)
            else:
                raise DataError(f"{entry.path} is a broken link.")

    yield from below(str(folder), frozenset())


def warn_of_unread(folder: Path, unread: Sequence[Path]) -> None:
    """Warn about the files of a folder that are not read."""
    if unread:
        names = ", ".join(str(path.relative_to(folder)) for path in unread[:5])
        more = f" and {len(unread) - 5} more" if len(unread) > 5 else ""
        log.warning("%d files of %s are not read: %s%s", len(unread), folder, names, more)


def suffix_of(path: Path) -> str:
    """The suffix in lower case, including compression: ``.jpg``, ``.tar.gz``."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return "".join(suffixes[-2:]) if suffixes[-1:] == [".gz"] else "".join(suffixes[-1:])


def is_image_file(path: Path) -> bool:
    """Whether Pillow can read a file, judging by its name."""
    image_format = Image.registered_extensions().get(suffix_of(path))
    return image_format in Image.OPEN and image_format not in _NEED_PROGRAMS


def _synonyms(split: str) -> set[str]:
    return next((names for names in _SPLIT_NAMES if split.casefold() in names), {split.casefold()})


def _named(folder: Path, files: list[Path], split: str) -> tuple[Path, list[Path]]:
    names = _synonyms(split)
    folders = [path for path in _split_folders(folder, files) if path.name.casefold() in names]
    if folders:
        exact = [path for path in folders if path.name == split]
        if len(exact or folders) > 1:
            raise DataError(f"its split {split} may be {' or '.join(path.name for path in folders)}: keep one of them.")
        root = (exact or folders)[0]
        return root, [path for path in files if root in path.parents]
    tables = [path for path in files if suffix_of(path) in _TABLES and path.parent in (folder, folder / "data")]
    own = [path for path in tables if names & _words(path)]
    if both := [path for path in own if any(_words(path) & others for others in _SPLIT_NAMES if others != names)]:
        raise DataError(f"{both[0].name} names several splits: assign files to splits with the source's key files.")
    if own:
        return folder, own
    of_splits = set().union(*_SPLIT_NAMES)
    named = [{path.name.casefold()} for path in _split_folders(folder, files)] + [_words(path) for path in tables]
    if "train" in names and not any(words & of_splits for words in named):
        return folder, files
    there = sorted({path.relative_to(folder).parts[0] for path in files})
    shown = ", ".join(there[:10]) + (f" and {len(there) - 10} more" if len(there) > 10 else "")
    raise DataError(
        f"it has no split {split}, neither a folder nor a table (the key files can assign files to it); it contains "
        f"{shown or 'nothing'}."
    )


def _split_folders(folder: Path, files: list[Path]) -> list[Path]:
    """Folders that can be a split because they contain tables or class folders; a class folder contains only images."""
    found = {}
    for path in files:
        parts = path.relative_to(folder).parts
        if len(parts) > 1 and (suffix_of(path) in _TABLES or (len(parts) > 2 and is_image_file(path))):
            found[folder / parts[0]] = True
    return list(found)


def _words(path: Path) -> set[str]:
    name = path.name.casefold()
    return {*re.split("[^a-z]+", name), *re.split("[^a-z0-9]+", name)}


def _matching(folder: Path, files: list[Path], split: str, patterns: Mapping[str, Any]) -> tuple[Path, list[Path]]:
    if split not in patterns:
        raise DataError(f"its key files has no pattern for the split {split}, only for {', '.join(patterns)}.")
    own = [patterns[split]] if isinstance(patterns[split], str) else patterns[split]
    names = {name for pattern in own for name in glob.glob(pattern, root_dir=folder, recursive=True)}
    chosen = [path for path in files if str(path.relative_to(folder)) in names]
    if not chosen:
        raise DataError(f"none of its files matches {', '.join(own)} for the split {split}.")
    roots = {path.parent.parent for path in chosen if is_image_file(path)}
    return (roots.pop() if len(roots) == 1 else folder), chosen


def _of_one_kind(files: list[Path], split: str) -> tuple[str, list[Path]]:
    if images := [path for path in files if is_image_file(path)]:
        metadata = [path for path in files if path.name in _METADATA]
        return (IMAGES_WITH_METADATA, [*images, *metadata]) if metadata else (CLASS_FOLDERS, images)
    tables = [path for path in files if suffix_of(path) in _TABLES]
    kinds = sorted({_TABLES[suffix_of(path)] for path in tables})
    if not kinds:
        raise DataError(f"its split {split} has neither images nor tables.")
    if len(kinds) > 1:
        raise DataError(
            f"its split {split} has files of several kinds ({', '.join(kinds)}): choose one with the key files."
        )
    return kinds[0], tables


def _check_class_folders(root: Path, images: list[Path], all_of_them: bool) -> None:
    for path in images:
        if path.parent.parent != root:
            below = path.relative_to(root) if root in path.parents else path
            raise DataError(f"the image {below} is not in a class folder directly under {root}: move it there.")
    filled = {path.parent.name for path in images}
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if all_of_them and entry.is_dir() and not is_hidden(entry.name) and entry.name not in filled:
            raise DataError(f"the class folder {entry.path} contains no images: remove it, or fill it.")
