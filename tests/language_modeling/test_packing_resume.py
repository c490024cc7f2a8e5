"""Killed packing continues from its journal, and processes that need the same set wait for the first."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.harness.source_code import ROOT
from experiments.language_modeling import decode, packing
from experiments.language_modeling.data import TokenSet, open_tokens
from experiments.language_modeling.documents import Corpus, Document
from tests.language_modeling.smoke_runs import BOOKS, books_source, data_config, write_books
from tests.language_modeling.test_lm_data_configs import OPEN

SMALL_BATCHES = {"BATCH_BYTES": 900, "CHECKPOINT_BYTES": 5000}
"""A book has about 2 000 bytes."""
KILLED = """
import json, os, signal, sys
from pathlib import Path
from experiments.language_modeling import packing
from experiments.language_modeling.data import open_tokens
packing.BATCH_BYTES, packing.CHECKPOINT_BYTES = 900, 5000
add, added = packing.SplitWriter.add, []
def add_and_die(self, texts):
    added.append(1)
    add(self, texts)
    for file in self._files.values():
        file.flush()
    if len(added) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
packing.SplitWriter.add = add_and_die
open_tokens(json.loads(sys.argv[1]), Path(sys.argv[2]))
"""


class Interrupted(BaseException):
    """Ways in which packing is interrupted from outside."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in SMALL_BATCHES.items():
        monkeypatch.setattr(packing, name, value)
    return write_books(tmp_path / "pg19")


def files(tokens: TokenSet) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in tokens.directory.iterdir()}


@pytest.mark.parametrize("documents", range(0, BOOKS["train"], 2))
def test_interrupted_packing_resumes_where_it_stopped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, documents: int
) -> None:
    data = data_config(books_source(folder), tokenizer_bytes=1)
    whole = open_tokens(data, tmp_path / "whole")
    original, skipped, stop = decode.pg19, list[int](), [documents]

    def watched_books(root: str) -> Corpus:
        corpus = original(root)

        def train(skip: int) -> Iterator[Document]:
            skipped.append(skip)
            for number, document in enumerate(corpus["train"](skip), skip):
                if number in stop:
                    raise Interrupted
                yield document

        return {**corpus, "train": train}

    monkeypatch.setattr(decode, "pg19", watched_books)
    with pytest.raises(Interrupted):
        open_tokens(data, tmp_path / "cut")
    (partial,) = (tmp_path / "cut").glob("*.partial")
    journal = json.loads((partial / "journal.json").read_text())["splits"]
    read = journal.get("train", {"documents_read": 0})["documents_read"]
    assert documents - 3 < read <= documents or read == 0 == documents // 3
    stop.clear()
    again = open_tokens(data, tmp_path / "cut")
    assert skipped[-1] == read, "what is on disk is not packed again"
    assert files(again) == files(whole)
    assert sorted(path.suffix for path in (tmp_path / "cut").iterdir()) == ["", ".checked", ".files", ".lock"]


@pytest.mark.parametrize("documents", [2, 14])
def test_killed_packing_resumes_to_the_same_bytes(folder: Path, tmp_path: Path, documents: int) -> None:
    data = data_config(books_source(folder))
    command = [sys.executable, "-c", KILLED, json.dumps(data), str(tmp_path / "cut"), str(documents)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (partial,) = (tmp_path / "cut").glob("*.partial")
    assert (partial / "val_tokens.bin").stat().st_size > 0
    again = open_tokens(data, tmp_path / "cut")
    assert files(again) == files(open_tokens(data, tmp_path / "whole"))


def test_packing_started_from_another_source_is_not_resumed(folder: Path, tmp_path: Path) -> None:
    data = data_config(books_source(folder))
    command = [sys.executable, "-c", KILLED, json.dumps(data), str(tmp_path / "cut"), "14"]
    subprocess.run(command, cwd=ROOT, capture_output=True)
    (partial,) = (tmp_path / "cut").glob("*.partial")
    journal = json.loads((partial / "journal.json").read_text())
    (partial / "journal.json").write_text(json.dumps({**journal, "source": books_source(tmp_path)}))
    (partial / "tokenizer.json").write_text("from another source")
    assert files(open_tokens(data, tmp_path / "cut")) == files(open_tokens(data, tmp_path / "whole"))


def test_two_processes_pack_a_set_only_once(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", OPEN, json.dumps(data_config(books_source(folder))), str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    fingerprints = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(fingerprints) == 1
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == ["", ".checked", ".files", ".lock"]
