"""Which files of a folder belong to which split: the first level of the folder says so, and nothing below it.

A split is a folder of its name, or else the tables and archives, directly in the folder or in its folder ``data``, with
that word in their names. A folder of class folders without splits is one split, "train".
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
"""What the ``datasets`` library reads beside pictures: their captions or labels, by file name."""
_NEED_PROGRAMS = {"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5"}
"""Formats that Pillow names, and leaves to other programs."""
CLASS_FOLDERS, PICTURES_WITH_METADATA = "class folders", "imagefolder"


def split_files(folder: Path, wanted: Iterable[str], patterns: Any = None) -> dict[str, tuple[str, Path, list[Path]]]:
    """Of each split: the kind of its files (CLASS_FOLDERS, PICTURES_WITH_METADATA, or a builder of ``datasets``), the
    folder that its class folders lie in, and the files in the order of their names.

    ``patterns`` choose files instead of names: one for all, which is the split train, or some for each split. What
    lies there and is not read is counted and named in a warning. Raises DataError for a split that is not there or
    not told apart from another, and for a link that leads nowhere or back.
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
    """Whether a file or folder is a system's own: ``.DS_Store``, ``._a.txt``, ``__MACOSX``."""
    return name.startswith(".") or name == "__MACOSX"


def visible_files(folder: Path) -> Iterator[Path]:
    """The files below a folder in the order of their names, folder by folder, without hidden ones; links are followed.

    Raises DataError for a link that leads nowhere or back.
    """

    def below(path: str, above: frozenset[str]) -> Iterator[Path]:
        real = os.path.realpath(path)
        if real in above:
            raise DataError(f"the link {path} leads back to a folder that it lies in.")
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                yield from below(entry.path, above | {real})
            elif entry.is_file():
                yield Path(entry.path)
            else:
                raise DataError(f"{entry.path} is a link that leads to no file.")

    yield from below(str(folder), frozenset())


def warn_of_unread(folder: Path, unread: Sequence[Path]) -> None:
    """Say how many files of a folder are left out, and which."""
    if unread:
        names = ", ".join(str(path.relative_to(folder)) for path in unread[:5])
        more = f" and {len(unread) - 5} more" if len(unread) > 5 else ""
        log.warning("%d files of %s are not read: %s%s", len(unread), folder, names, more)


def suffix_of(path: Path) -> str:
    """In small letters, with what says how it was compressed: ``.jpg``, ``.tar.gz``."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return "".join(suffixes[-2:]) if suffixes[-1:] == [".gz"] else "".join(suffixes[-1:])


def is_picture(path: Path) -> bool:
    """Whether a file's name says that Pillow can read it."""
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
            raise DataError(f"its split {split} is {' or '.join(path.name for path in folders)}: leave one of them.")
        root = (exact or folders)[0]
        return root, [path for path in files if root in path.parents]
    tables = [path for path in files if suffix_of(path) in _TABLES and path.parent in (folder, folder / "data")]
    own = [path for path in tables if names & _words(path)]
    if both := [path for path in own if any(_words(path) & others for others in _SPLIT_NAMES if others != names)]:
        raise DataError(
            f"{both[0].name} names several splits: say in the place's key files which files belong to which."
        )
    if own:
        return folder, own
    of_splits = set().union(*_SPLIT_NAMES)
    named = [{path.name.casefold()} for path in _split_folders(folder, files)] + [_words(path) for path in tables]
    if "train" in names and not any(words & of_splits for words in named):
        return folder, files
    there = sorted({path.relative_to(folder).parts[0] for path in files})
    shown = ", ".join(there[:10]) + (f" and {len(there) - 10} more" if len(there) > 10 else "")
    raise DataError(
        f"it has no split {split}, neither a folder nor a table (the key files can say what it is); it holds "
        f"{shown or 'nothing'}."
    )


def _split_folders(folder: Path, files: list[Path]) -> list[Path]:
    """Folders that can be a split: they hold tables, or class folders. A class folder holds nothing but pictures."""
    found = {}
    for path in files:
        parts = path.relative_to(folder).parts
        if len(parts) > 1 and (suffix_of(path) in _TABLES or (len(parts) > 2 and is_picture(path))):
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
        raise DataError(f"no file of it matches {', '.join(own)}, its split {split}.")
    roots = {path.parent.parent for path in chosen if is_picture(path)}
    return (roots.pop() if len(roots) == 1 else folder), chosen


def _of_one_kind(files: list[Path], split: str) -> tuple[str, list[Path]]:
    if pictures := [path for path in files if is_picture(path)]:
        metadata = [path for path in files if path.name in _METADATA]
        return (PICTURES_WITH_METADATA, [*pictures, *metadata]) if metadata else (CLASS_FOLDERS, pictures)
    tables = [path for path in files if suffix_of(path) in _TABLES]
    kinds = sorted({_TABLES[suffix_of(path)] for path in tables})
    if not kinds:
        raise DataError(f"its split {split} has neither pictures nor tables.")
    if len(kinds) > 1:
        raise DataError(f"its split {split} has files of several kinds ({', '.join(kinds)}): choose by the key files.")
    return kinds[0], tables


def _check_class_folders(root: Path, pictures: list[Path], all_of_them: bool) -> None:
    for path in pictures:
        if path.parent.parent != root:
            below = path.relative_to(root) if root in path.parents else path
            raise DataError(f"the picture {below} does not lie in a class folder directly below {root}: move it there.")
    filled = {path.parent.name for path in pictures}
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if all_of_them and entry.is_dir() and not is_hidden(entry.name) and entry.name not in filled:
            raise DataError(f"the class folder {entry.path} holds no picture: remove it, or fill it.")
