"""Unpack into this machine's cache what ``make pack`` has packed on another.

python -m experiments.harness.unpack runs/image_classification-mini.tar.xz
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from experiments.harness import archives
from experiments.harness.composition import composed
from experiments.harness.config import resolved
from experiments.harness.errors import DataError
from experiments.harness.explained import one_sentence
from experiments.harness.files import sha256_of
from experiments.harness.offline import cache_of
from experiments.harness.pack import MANIFEST, summary_of
from experiments.harness.prepared_data import lock


def unpack(archive: Path, cache_dir: Path) -> list[str]:
    """Check every file and unpack it into the cache, leaving existing folders as they are. Returns the new folders.

    Raises DataError, and leaves the cache unchanged, for an archive that is not a pack, is damaged, or has members that
    are missing from its manifest or would be written outside the cache.
    """
    work_dir = cache_dir / f".{archive.name}.unpacking"
    with lock(cache_dir / f"{archive.name}.lock"):
        shutil.rmtree(work_dir, ignore_errors=True)  # left over from a killed process
        work_dir.mkdir()
        try:
            archives.unpack(archive, work_dir, most_bytes=shutil.disk_usage(cache_dir).free)
            folders = _checked(archive.name, work_dir)
            new = [folder for folder in folders if not (cache_dir / folder).exists()]
            for folder in new:
                (cache_dir / folder).parent.mkdir(parents=True, exist_ok=True)
                (work_dir / folder).rename(cache_dir / folder)
        finally:
            shutil.rmtree(work_dir, ignore_errors=True)
    return new


def _checked(name: str, folder: Path) -> list[str]:
    """The folders of an unpacked archive, once its files are found to match its manifest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        folders, files = list(manifest["folders"]), dict(manifest["files"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{name} is not a pack: its {MANIFEST} cannot be read ({error}).") from error
    if any(PurePosixPath(each).is_absolute() or ".." in PurePosixPath(each).parts for each in folders):
        raise DataError(f"{name} is refused: its {MANIFEST} names a folder outside the cache.")
    found = {path.relative_to(folder).as_posix() for path in _files(folder)} - {MANIFEST}
    if wrong := sorted(found ^ files.keys()):
        raise DataError(
            f"{name} is damaged: {wrong[0]} is {'not in its manifest' if wrong[0] in found else 'missing'}."
        )
    for path, expected in files.items():
        if summary_of(folder / path) != expected:
            raise DataError(f"{name} is damaged: {path} is not what was packed. Copy the pack again, or rebuild it.")
        if not any(path.startswith(f"{each}/") for each in folders):
            raise DataError(f"{name} is damaged: {path} is not in any of its folders.")
    return folders


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())


def main(archive: Path) -> None:
    """Unpack into this machine's cache, which LION_CACHE sets."""
    if not archive.is_file():
        raise DataError(f"There is no pack {archive}: name one with PACK=<file>.")
    cache_dir = cache_of(resolved(composed("image_classification", [])))
    new = unpack(archive, cache_dir)
    print(f"{cache_dir}: unpacked {', '.join(new) or 'nothing new'} from a pack with SHA-256 {sha256_of(archive)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m experiments.harness.unpack", description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path, help="the file that make pack wrote")
    with one_sentence():
        main(parser.parse_args().pack)
