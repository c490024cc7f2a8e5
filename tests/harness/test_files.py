"""Files of cached data are read again only if they may have changed; of several paths, the first file is taken."""

import os
from pathlib import Path

import pytest

from experiments.harness.files import first_changed, first_file, sha256_of

CONTENT = {"a.npy": b"one", "b.npy": b"two"}
SHA256 = {  # of sha256sum
    "a.npy": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
    "b.npy": "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    return folder


def changed_and_read(folder: Path) -> tuple[str | None, list[str]]:
    """What ``first_changed`` finds, and the files that it reads to find it."""
    read = []

    def digest(path: Path) -> str:
        read.append(path.name)
        return sha256_of(path)

    return first_changed(folder, SHA256, digest), read


def test_unchanged_files_are_read_only_once(folder: Path) -> None:
    assert changed_and_read(folder) == (None, ["a.npy", "b.npy"])
    assert changed_and_read(folder) == (None, [])


@pytest.mark.parametrize("content", [b"TWO", b"two!"])
def test_a_changed_file_is_found_even_if_its_time_is_set_back(folder: Path, content: bytes) -> None:
    changed_and_read(folder)
    path, before = folder / "b.npy", (folder / "b.npy").stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert changed_and_read(folder) == ("b.npy", ["b.npy"])
    assert changed_and_read(folder) == ("b.npy", ["b.npy"]), "a changed file is never remembered as checked"


def test_other_expected_content_is_checked_anew(folder: Path) -> None:
    changed_and_read(folder)
    assert first_changed(folder, {"a.npy": SHA256["b.npy"]}, sha256_of) == "a.npy"


def test_damaged_memories_of_checks_are_ignored(folder: Path) -> None:
    changed_and_read(folder)
    (folder.parent / "data.checked").write_text("{")
    assert changed_and_read(folder) == (None, ["a.npy", "b.npy"])


def test_a_cache_that_cannot_be_written_is_checked_each_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, content: str) -> None:
        raise PermissionError(path)

    monkeypatch.setattr("experiments.harness.files.write_aside", refuse)
    assert changed_and_read(folder) == changed_and_read(folder) == (None, ["a.npy", "b.npy"])


def test_the_first_path_that_is_a_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("b", "c"):
        (tmp_path / name).touch()
    missing, folder = str(tmp_path / "a"), str(tmp_path)
    assert first_file([missing, folder, "~/b", str(tmp_path / "c")]) == tmp_path / "b"
    assert first_file([missing, folder]) is None
