"""A run's checkpoints on disk, and whether they are intact: files, or folders with one file from each process."""

import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from experiments.harness.files import sha256_of

WHOLE, SHARDED = ".pt", ".sharded"
"""Suffixes of a checkpoint written by one process (a file), and of one written with ``run.shards`` (a folder)."""


def checkpoint_name(step: int, written: Path) -> str:
    """``step-<8 digits>-<16 hex digits of its digest>``, and a suffix that distinguishes files from folders."""
    return f"step-{step:08d}-{digest_of(written)}{SHARDED if written.is_dir() else WHOLE}"


def step_of(checkpoint: Path) -> int:
    """The number of steps after which it was written."""
    return int(checkpoint.name.split("-")[1])


def checkpoints(directory: Path) -> list[Path]:
    """A run's checkpoints, oldest first."""
    return sorted(path for path in directory.glob("step-*") if path.suffix in (WHOLE, SHARDED))


def is_whole(checkpoint: Path) -> bool:
    """Whether the checkpoint still matches the digest in its name."""
    return digest_of(checkpoint) == checkpoint.stem.rsplit("-", 1)[1]


def digest_of(path: Path) -> str:
    """First 16 hex digits of the SHA-256 of a file, or of the names and digests of a folder's files."""
    if not path.is_dir():
        return sha256_of(path)[:16]
    files = sorted(path.iterdir())
    with ThreadPoolExecutor() as pool:
        lines = [f"{file.name} {digest}\n" for file, digest in zip(files, pool.map(sha256_of, files), strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def remove(path: Path) -> None:
    """Delete a file or folder. A folder is renamed first, so that RunRecord removes it if it is half deleted."""
    if not path.is_dir():
        path.unlink()
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    path.rename(aside)
    shutil.rmtree(aside)
