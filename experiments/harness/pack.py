"""One archive of everything a cell's runs need, to carry to machines without a network.

    python -m experiments.harness.pack image_classification mini
    python -m experiments.harness.pack --unpack runs/image_classification-mini.tar.xz

A pack holds folders of the cache, and pack.json with the size and SHA-256 of every file. It leaves out what a run can
compute from them (tokens, features of frozen networks).
"""

import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from experiments.harness import archives
from experiments.harness.composition import composed
from experiments.harness.config import resolved
from experiments.harness.errors import DataError
from experiments.harness.explained import one_sentence
from experiments.harness.fetch import arguments, bytes_below, cell_configs, fetch
from experiments.harness.files import lock, sha256_of
from experiments.harness.offline import cache_of
from experiments.harness.source_code import ROOT

MANIFEST = "pack.json"
MOST_COMPRESSED_BYTES = 2**29
"""xz compresses 2 MB a second; larger packs are photos and weights, which hardly shrink."""


def pack(cache_dir: Path, folders: list[Path], archive: Path) -> str:
    """Write ``folders`` of the cache to ``archive`` (.tar.xz, .tar), always the same bytes. Returns their SHA-256."""
    paths = [path for folder in sorted(folders) for path in sorted(_files(cache_dir / folder))]
    manifest = {
        "folders": [folder.as_posix() for folder in sorted(folders)],
        "files": {path.relative_to(cache_dir).as_posix(): summary_of(path) for path in paths},
    }
    archive.parent.mkdir(parents=True, exist_ok=True)
    aside = archive.with_name(archive.name + ".partial")
    with tarfile.open(aside, "w:xz") if archive.suffix == ".xz" else tarfile.open(aside, "w") as tar:
        content = json.dumps(manifest, indent=1).encode()
        head = tarfile.TarInfo(MANIFEST)
        head.size = len(content)
        tar.addfile(head, io.BytesIO(content))
        for path in paths:
            member = tarfile.TarInfo(path.relative_to(cache_dir).as_posix())
            if path.is_symlink():
                member.type, member.linkname = tarfile.SYMTYPE, os.readlink(path)
                tar.addfile(member)
            else:
                member.size = path.stat().st_size
                with path.open("rb") as file:
                    tar.addfile(member, file)
    aside.rename(archive)
    return sha256_of(archive)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())


def summary_of(path: Path) -> dict[str, Any]:
    """What pack.json says of a file or link."""
    if path.is_symlink():
        return {"link": os.readlink(path)}
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def unpack(archive: Path, cache_dir: Path) -> list[str]:
    """Check every file and unpack it into the cache, leaving existing folders as they are. Returns the new folders.

    Raises DataError, and leaves the cache unchanged, for an archive that is not a pack, is damaged, has members that
    are missing from its manifest or would be written outside the cache, or differs from a folder that is there already.
    """
    work_dir = cache_dir / f".{archive.name}.unpacking"
    with lock(cache_dir / f"{archive.name}.lock"):
        shutil.rmtree(work_dir, ignore_errors=True)  # left over from a killed process
        work_dir.mkdir()
        try:
            archives.unpack(archive, work_dir, most_bytes=shutil.disk_usage(cache_dir).free)
            folders, files = _checked(archive.name, work_dir)
            new = [folder for folder in folders if not (cache_dir / folder).exists()]
            _check_kept(archive.name, cache_dir, [folder for folder in folders if folder not in new], files)
            for folder in new:
                (cache_dir / folder).parent.mkdir(parents=True, exist_ok=True)
                (work_dir / folder).rename(cache_dir / folder)
        finally:
            shutil.rmtree(work_dir, ignore_errors=True)
    return new


def _check_kept(name: str, cache_dir: Path, kept: list[str], files: Mapping[str, Any]) -> None:
    """Raise DataError if a folder that is kept lacks a file of the pack, or has another one in its place."""
    for folder in kept:
        for path in (path for path in files if path.startswith(f"{folder}/")):
            here = cache_dir / path
            if not (here.is_symlink() or here.is_file()) or summary_of(here) != files[path]:
                raise DataError(
                    f"The cache has {cache_dir / folder} already, but {path} there is not the one in {name}: delete "
                    "that folder, and unpack again."
                )


def _checked(name: str, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """The folders and files of an unpacked archive, once it is found to match its manifest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        folders, files = [PurePosixPath(each) for each in manifest["folders"]], dict(manifest["files"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{name} is not a pack: its {MANIFEST} cannot be read ({error}).") from error
    if any(each.is_absolute() or ".." in each.parts for each in folders):
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
    if empty := [each for each in folders if not (folder / each).is_dir()]:
        raise DataError(f"{name} is damaged: its folder {empty[0]} is missing.")
    return [each.as_posix() for each in folders], files


def main(task: str, cell: str, overrides: list[str]) -> None:
    """Fetch what the experiment ``cell`` of ``task`` needs, and pack it into runs/<task>-<cell>.tar or .tar.xz."""
    fetched = [fetch(cfg) for cfg in cell_configs(task, cell, overrides).values()]
    cache_dir, folders = fetched[0].cache_dir, sorted({folder for one in fetched for folder in one.folders})
    size = sum(bytes_below(cache_dir / folder) for folder in folders)
    ending = "tar.xz" if size < MOST_COMPRESSED_BYTES else "tar"
    archive = ROOT / "runs" / f"{task}-{cell}.{ending}"
    digest = pack(cache_dir, folders, archive)
    for folder in (folder for one in fetched for folder in one.read_in_place):
        print(f"{folder} is read in place and is not in the pack: copy it to the same path on the other machine.")
    print(f"{archive}: {archive.stat().st_size / 1e6:,.1f} MB, unpacked {size / 1e6:,.1f} MB, SHA-256 {digest}")
    print(f"On the other machine: make unpack PACK=<path to {archive.name}>, then run as usual with LION_OFFLINE=1.")


def unpack_here(archive: Path) -> None:
    """Unpack into this machine's cache, which LION_CACHE sets."""
    if not archive.is_file():
        raise DataError(f"There is no pack {archive}: name one with PACK=<file>.")
    cache_dir = cache_of(resolved(composed("image_classification", [])))
    new = unpack(archive, cache_dir)
    print(f"{cache_dir}: unpacked {', '.join(new) or 'nothing new'} from a pack with SHA-256 {sha256_of(archive)}")


if __name__ == "__main__":
    with one_sentence():
        if sys.argv[1:2] == ["--unpack"]:
            unpack_here(Path(*sys.argv[2:3]))
        else:
            main(**arguments("python -m experiments.harness.pack", __doc__))
