"""Unpacking: harmless archives are extracted; members that would escape the folder are refused and write nothing."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from experiments.harness import archives
from experiments.harness.archives import unpack
from experiments.harness.errors import DataError


def write_tar(path: Path, *members: tuple[str, bytes, int, str]) -> Path:
    """Members are (name, content, type, link target)."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content, kind, target in members:
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(content), bytes([kind]), target
            tar.addfile(member, io.BytesIO(content))
    return path


FILE, HARD_LINK, SYMBOLIC_LINK = ord(tarfile.REGTYPE), ord(tarfile.LNKTYPE), ord(tarfile.SYMTYPE)


def test_a_tar_with_files_and_an_inner_link_is_unpacked(tmp_path: Path) -> None:
    archive = write_tar(
        tmp_path / "a.tgz", ("package/x", b"content", FILE, ""), ("package/sub/y", b"", SYMBOLIC_LINK, "../x")
    )
    unpack(archive, tmp_path / "out")
    assert (tmp_path / "out/package/x").read_bytes() == b"content"
    assert (tmp_path / "out/package/sub/y").read_bytes() == b"content"


@pytest.mark.parametrize(
    "members",
    [
        [("../escaped", b"bad", FILE, "")],
        [("package/../../escaped", b"bad", FILE, "")],
        [("{tmp}/escaped", b"bad", FILE, "")],
        [("link", b"", SYMBOLIC_LINK, "../escaped")],
        [("link", b"", SYMBOLIC_LINK, "{tmp}/secret")],
        [("link", b"", HARD_LINK, "../secret")],
        [("link", b"", SYMBOLIC_LINK, ".."), ("link/escaped", b"bad", FILE, "")],
        [("device", b"", ord(tarfile.CHRTYPE), "")],
    ],
)
def test_a_tar_that_escapes_its_folder_is_refused(tmp_path: Path, members: list[tuple[str, bytes, int, str]]) -> None:
    (tmp_path / "secret").write_text("secret")
    filled = [(name.format(tmp=tmp_path), data, kind, to.format(tmp=tmp_path)) for name, data, kind, to in members]
    archive = write_tar(tmp_path / "a.tgz", *filled)
    with pytest.raises(DataError, match=r"a\.tgz"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "escaped").exists()
    assert not [path for path in tmp_path.glob("out/**/*") if path.is_symlink() or path.is_file()]


@pytest.mark.parametrize("name", ["../escaped", "{tmp}/escaped", "a/../../escaped", "..\\escaped"])
def test_a_zip_that_escapes_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "a.whl"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name.format(tmp=tmp_path), "bad")
    with pytest.raises(DataError, match="outside the folder"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "escaped").exists()
    assert not list(tmp_path.glob("out/**/*"))


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="is a link"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_an_archive_that_unpacks_to_too_many_bytes_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("x", bytes(1500))
            file.writestr("y", bytes(1500))
    else:
        write_tar(tmp_path / "a.tgz", ("x", bytes(1500), FILE, ""), ("y", bytes(1500), FILE, ""))
    unpack(tmp_path / f"a.{kind}", tmp_path / "enough")
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 2999)
    with pytest.raises(DataError, match="unpacks to more than"):
        unpack(tmp_path / f"a.{kind}", tmp_path / "out")


@pytest.mark.parametrize("name", ["a.tgz", "a.whl", "a.deb"])
def test_a_file_that_is_not_an_archive_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"<html>Not Found</html>")
    with pytest.raises(DataError, match=rf"\A{name} cannot be unpacked: .*\Z"):  # on one line
        unpack(tmp_path / name, tmp_path / "out")
