"""Data sets as arrays on disk, decoded once and identified by their content.

``prepare`` turns the ``data`` group of a config into a folder of .npy files under the cache directory, from the first
of its sources that works. The *fingerprint* of a data set is the SHA-256 over its arrays' names, types, shapes and
contents, so it does not depend on where the files came from, and a modified cache is noticed when it is loaded.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import get_method

from experiments.harness.errors import DataError
from experiments.harness.files import first_changed, lock, sha256_of
from experiments.harness.offline import is_offline
from experiments.harness.sources import announce, check_sources, describe, fetch, first_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedData:
    """A decoded data set in the cache."""

    directory: Path
    """holds manifest.json and one <name>.npy per array"""
    fingerprint: str
    """SHA-256, 64 hex digits; see ``fingerprint_of``"""
    arrays: dict[str, dict[str, Any]]
    """dtype, shape and SHA-256 of the content of each array, by name"""

    def load(self) -> dict[str, np.ndarray]:
        """All arrays by name, read-only and memory-mapped. Every byte is checked against the fingerprint, once for each
        change of a file (``first_changed``). Raises DataError, naming the file, if it was changed or truncated.
        """
        loaded = {}
        for name in self.arrays:
            path = self.directory / f"{name}.npy"
            try:
                loaded[name] = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise DataError(f"{path} cannot be read ({error}). {delete_advice(self.directory)}") from error

        def digest(path: Path) -> str:
            array = loaded[path.stem]  # only its size: what is read through it would stay in this process's memory
            return json.dumps(_summary(array, sha256_of(path, start=path.stat().st_size - array.nbytes)))

        expected = {f"{name}.npy": json.dumps(summary) for name, summary in self.arrays.items()}
        if changed := first_changed(self.directory, expected, digest):
            path = self.directory / changed
            raise DataError(f"{path} was changed after it was decoded. {delete_advice(self.directory)}")
        return loaded


def delete_advice(directory: Path) -> str:
    """How to repair a damaged cache folder."""
    again = "fetch it or unpack it again" if is_offline() else "rerun the same command, which prepares it again"
    return f"Delete the folder {directory} and {again}."


def _summary(array: np.ndarray, digest: str) -> dict[str, Any]:
    return {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": digest}


def fingerprint_of(arrays: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 of the table {name: {dtype, shape, sha256 of the bytes in C order}} as compact JSON with sorted keys."""
    return hashlib.sha256(json.dumps(arrays, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def joint_fingerprint(parts: Mapping[str, str | None]) -> str:
    """SHA-256 over the fingerprints of named parts, None for a part that is absent; their order does not matter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check_fingerprint(data: Mapping[str, Any], found: str) -> None:
    """Raise DataError if the config group ``data`` declares a different fingerprint."""
    if data.get("fingerprint") not in (None, found):
        raise DataError(
            f"data={data['name']} has the fingerprint {found} here, but its config declares {data['fingerprint']}; "
            "a different version, or a different order of rows, needs its own config."
        )


def open_set(data: Mapping[str, Any], cache_dir: Path) -> Any:
    """Open the set of a ``data`` config with the function that its key ``access`` names, by default ``prepare``."""
    return (get_method(data["access"]) if "access" in data else prepare)(data, cache_dir)


def prepare(data: Mapping[str, Any], cache_dir: Path) -> PreparedData:
    """The data set that ``data`` declares, from the cache, else from the first of its sources that has it.

    ``data`` is the resolved config group as plain containers; the keys ``name``, ``fingerprint`` (64 hex digits, or
    None if it is not known in advance) and ``sources`` (see experiments/harness/sources.py) are used. Processes that
    prepare the same data set wait for the first. If every source fails, one DataError gives the reason for each.
    """
    check_sources(data, required={"decode"}, optional={"options"})
    identity = data["fingerprint"] or json.dumps(data["sources"], sort_keys=True)
    directory = cache_folder(data["name"], identity, cache_dir)
    unless_prepared(data, directory, lambda: first_of(data, partial(_prepare_from, data, directory)))
    return _open(directory, data["fingerprint"])


def cache_folder(name: str, identity: str, cache_dir: Path) -> Path:
    """Where the cache keeps what ``identity`` identifies."""
    return cache_dir.expanduser() / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:10]}"


def unless_prepared(data: Mapping[str, Any], directory: Path, make: Callable[[], None]) -> None:
    """Call ``make`` in one process at a time, unless ``directory`` exists. For a set without a fingerprint it is called
    again if the local files have changed since; if they no longer exist, the cached copy is kept.
    """
    made_of, partial = (directory.with_name(f"{directory.name}.{ending}") for ending in ("files", "partial"))
    local = [] if data["fingerprint"] else [source["path"] for source in data["sources"] if source["kind"] == "local"]
    paths = [path for folder in local for path in sorted(Path(folder).expanduser().rglob("*")) if path.is_file()]
    here = json.dumps([[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths])

    def has_changed() -> bool:
        return bool(paths) and made_of.exists() and made_of.read_text() != here

    if directory.exists() and not has_changed():
        return
    with lock(directory.with_name(f"{directory.name}.lock")):
        if has_changed():
            log.warning("data=%s: its files have changed and are read again", data["name"])
            for stale in (directory, partial):
                shutil.rmtree(stale, ignore_errors=True)
        if not directory.exists():  # another process may have prepared it while this one waited
            if paths:
                made_of.write_text(here)
            make()


def cached_arrays(
    name: str, identity: str, cache_dir: Path, compute: Callable[[], Mapping[str, np.ndarray]]
) -> PreparedData:
    """The result of ``compute``, from the cache if it was computed before under this ``name`` and ``identity``, which
    must identify everything that the arrays depend on. Processes that need the same arrays wait for the first.
    """

    def make(work_dir: Path) -> None:
        shutil.rmtree(work_dir, ignore_errors=True)  # what a killed process left
        _write(compute(), identity, work_dir)

    return cached(name, identity, cache_dir, make)


def cached(name: str, identity: str, cache_dir: Path, make: Callable[[Path], None]) -> PreparedData:
    """The folder that ``make`` fills, from the cache if it was made before under this ``name`` and ``identity``. It is
    given a temporary path, where a killed process may have left something.
    """
    directory = cache_folder(name, identity, cache_dir)
    if not directory.exists():
        with lock(directory.with_name(directory.name + ".lock")):
            if not directory.exists():
                work_dir = directory.with_name(directory.name + ".partial")
                make(work_dir)
                work_dir.rename(directory)
    return _open(directory, None)


def _open(directory: Path, declared: str | None) -> PreparedData:
    return PreparedData(directory, *read_manifest(directory, declared, "arrays"))


def read_manifest(directory: Path, declared: str | None, key: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """The fingerprint in manifest.json, and the table under ``key`` from which it is computed. Raises DataError if they
    do not match, or if the config has ``declared`` another fingerprint.
    """
    path = directory / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
        fingerprint, table = manifest["fingerprint"], manifest[key]
    except (OSError, ValueError, LookupError) as error:
        raise DataError(f"{path} cannot be read ({error}). {delete_advice(directory)}") from error
    if fingerprint_of(table) != fingerprint or declared not in (None, fingerprint):
        raise DataError(f"{path} was changed since it was written. {delete_advice(directory)}")
    return fingerprint, table


def _prepare_from(data: Mapping[str, Any], directory: Path, source: Mapping[str, Any]) -> None:
    """Fill ``directory`` from one source. The caller holds the lock."""
    work_dir = directory.with_name(directory.name + ".partial")
    announce(data, source)
    shutil.rmtree(work_dir, ignore_errors=True)  # what a killed process left
    work_dir.mkdir()
    try:
        arrays = get_method(source["decode"])(fetch(source, work_dir), **source.get("options", {}))
        fingerprint = _write(arrays, describe(source), work_dir / "arrays")
        if (declared := data["fingerprint"]) not in (None, fingerprint):
            raise DataError(
                f"it decoded to the fingerprint {fingerprint}, but the config declares {declared}; a different data "
                "set, or a different version, needs its own config."
            )
        (work_dir / "arrays").rename(directory)
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)


def _write(arrays: Mapping[str, np.ndarray], source: str, directory: Path) -> str:
    """Write arrays and manifest into a new ``directory``; returns their fingerprint."""
    directory.mkdir()
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    for name, array in contiguous.items():
        np.save(directory / f"{name}.npy", array, allow_pickle=False)
    digests = {name: (array, hashlib.sha256(array.data).hexdigest()) for name, array in contiguous.items()}
    return write_manifest(digests, source, directory)


def write_manifest(arrays: Mapping[str, tuple[np.ndarray, str]], source: str, directory: Path) -> str:
    """Write manifest.json for ``arrays``, each with the SHA-256 of its bytes in C order. Returns the fingerprint."""
    summaries = {name: _summary(*array) for name, array in sorted(arrays.items())}
    fingerprint = fingerprint_of(summaries)
    manifest = {"fingerprint": fingerprint, "source": source, "arrays": summaries}
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return fingerprint
