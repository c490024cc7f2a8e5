"""One archive of everything a cell's runs need, to carry to machines without a network.

    python -m experiments.harness.pack image_classification mini

A pack holds folders of the cache, and pack.json with the size and SHA-256 of every file. It leaves out what a run can
compute from them (tokens, features of frozen networks). unpack.py unpacks it.
"""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

from experiments.harness.explained import one_sentence
from experiments.harness.fetch import arguments, bytes_below, cell_config, fetch, tasks_of
from experiments.harness.files import sha256_of
from experiments.harness.source_code import ROOT

MANIFEST = "pack.json"
MOST_COMPRESSED_BYTES = 2**29
"""xz compresses 2 MB a second; larger packs are photos and weights, which hardly shrink."""


def pack(cache_dir: Path, folders: list[Path], archive: Path) -> str:
    """Write ``folders`` of the cache to ``archive`` (.tar.xz or .tar); the same content gives the same bytes. Returns
    the archive's SHA-256.
    """
    paths = [path for folder in sorted(folders) for path in sorted((cache_dir / folder).rglob("*"))]
    paths = [path for path in paths if path.is_symlink() or path.is_file()]
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


def summary_of(path: Path) -> dict[str, Any]:
    """What pack.json says of a file or link."""
    if path.is_symlink():
        return {"link": os.readlink(path)}
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def main(task: str, cell: str, overrides: list[str]) -> None:
    """Fetch what the experiment ``cell`` of ``task`` needs, and pack it into runs/<task>-<cell>.tar or .tar.xz."""
    fetched = [fetch(cell_config(name, cell, overrides)) for name in tasks_of(task)]
    cache_dir, folders = fetched[0].cache_dir, sorted({folder for one in fetched for folder in one.folders})
    size = sum(bytes_below(cache_dir / folder) for folder in folders)
    ending = "tar.xz" if size < MOST_COMPRESSED_BYTES else "tar"
    archive = ROOT / "runs" / f"{task}-{cell}.{ending}"
    digest = pack(cache_dir, folders, archive)
    for folder in (folder for one in fetched for folder in one.read_in_place):
        print(f"{folder} is read in place and is not in the pack: copy it to the same path on the other machine.")
    print(f"{archive}: {archive.stat().st_size / 1e6:,.1f} MB, unpacked {size / 1e6:,.1f} MB, SHA-256 {digest}")
    print(f"On the other machine: make unpack PACK={archive.name}, then run as usual with LION_OFFLINE=1.")


if __name__ == "__main__":
    with one_sentence():
        main(**arguments("python -m experiments.harness.pack", __doc__))
