"""Unpack downloaded archives without trusting anything inside them."""

import lzma
import shutil
import stat
import struct
import subprocess
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from experiments.harness.errors import DataError

_FORMAT_FAULTS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError)
MAX_UNPACKED_BYTES = 8 * 2**30
"""The largest set that the suite downloads from a registry unpacks to 0.2 GiB; anything far larger is a zip bomb."""


def unpack(archive: Path, folder: Path, most_bytes: int | None = None) -> None:
    """Unpack a wheel or zip, a tar archive of any compression, or a Debian package into ``folder``. Raises DataError
    for a member with an absolute name, a ``..`` or a link out of the folder, a device, a total of more than
    ``most_bytes`` (MAX_UNPACKED_BYTES), or an unreadable archive; the caller then discards ``folder``.
    """
    most_bytes = MAX_UNPACKED_BYTES if most_bytes is None else most_bytes
    try:
        if archive.suffix in (".whl", ".zip"):
            _unpack_zip(archive, folder, most_bytes)
        elif archive.suffix == ".deb":
            _unpack_deb(archive, folder, most_bytes)
        else:
            with tarfile.open(archive) as tar:
                _unpack_tar(tar, archive.name, folder, most_bytes)
    except (*_FORMAT_FAULTS, OSError, RuntimeError) as error:  # RuntimeError: a member is encrypted
        # tarfile lists, on a line each, what every kind of compression finds wrong.
        reason = "it is not a tar archive, or its beginning is damaged" if "\n" in str(error) else error
        raise DataError(f"{archive.name} cannot be unpacked: {reason}.") from error


def _unpack_zip(archive: Path, folder: Path, most_bytes: int) -> None:
    with zipfile.ZipFile(archive) as file:
        unpacked_bytes = 0
        for member in file.infolist():
            if stat.S_ISLNK(member.external_attr >> 16):
                raise DataError(f"{archive.name} is refused: its member {member.filename!r} is a link.")
            unpacked_bytes += member.file_size
            _check(archive.name, member.filename, unpacked_bytes, most_bytes)
        file.extractall(folder)  # reads no more of a member than the size it declares


def _unpack_tar(tar: tarfile.TarFile, name: str, folder: Path, most_bytes: int) -> None:
    unpacked_bytes = 0
    for member in tar:
        unpacked_bytes += member.size
        _check(name, member.name, unpacked_bytes, most_bytes)
        tar.extract(member, folder, filter="data")  # refuses links that leave the folder, and devices


def _unpack_deb(archive: Path, folder: Path, most_bytes: int) -> None:
    if shutil.which("dpkg-deb") is None:
        raise DataError(f"{archive.name} cannot be unpacked: there is no dpkg-deb on this machine.")
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as tar,
    ):
        _unpack_tar(tar, archive.name, folder, most_bytes)
    if process.returncode:
        raise DataError(f"{archive.name} cannot be unpacked: dpkg-deb ended with code {process.returncode}.")


def _check(archive_name: str, member_name: str, unpacked_bytes: int, most_bytes: int) -> None:
    path = PurePosixPath(member_name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{archive_name} is refused: its member {member_name!r} would be written outside the folder.")
    if unpacked_bytes > most_bytes:
        raise DataError(f"{archive_name} is refused: it unpacks to more than {most_bytes / 2**30:.0f} GiB.")
