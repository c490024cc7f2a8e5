"""Where a run's checkpoints lie, and whether they are whole: files, or folders with a file of each process."""

import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

WHOLE, SHARDED = ".pt", ".sharded"
"""A checkpoint that one process has written, and one of a run with ``run.shards``, which is a folder."""


def checkpoint_name(step: int, written: Path) -> str:
    """``step-<8 digits>-<16 hex>`` and what tells files from folders; the name carries the digest."""
    return f"step-{step:08d}-{digest_of(written)}{SHARDED if written.is_dir() else WHOLE}"


def checkpoints(directory: Path) -> list[Path]:
    """Those of a run, oldest first."""
    return sorted(path for path in directory.glob("step-*") if path.suffix in (WHOLE, SHARDED))


def is_whole(checkpoint: Path) -> bool:
    """Whether it is what was written."""
    return digest_of(checkpoint) == checkpoint.stem.rsplit("-", 1)[1]


def digest_of(path: Path) -> str:
    """16 hexadecimal digits of the SHA-256 of a file, or of the names and digests of a folder's files."""
    if not path.is_dir():
        return _sha256(path)[:16]
    files = sorted(path.iterdir())
    with ThreadPoolExecutor() as pool:
        lines = [f"{file.name} {digest}\n" for file, digest in zip(files, pool.map(_sha256, files), strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove(path: Path) -> None:
    """Delete a file or a folder. A folder that is half gone has a name that RunRecord clears away."""
    if not path.is_dir():
        path.unlink()
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    path.rename(aside)
    shutil.rmtree(aside)
