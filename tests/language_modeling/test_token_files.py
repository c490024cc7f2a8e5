"""Packed tokens: the content of the files, their source, and the detection of damage."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from experiments.harness.errors import ConfigError, DataError
from experiments.language_modeling import packing
from experiments.language_modeling.data import TokenSet, open_tokens
from experiments.language_modeling.decode import pg19
from experiments.language_modeling.documents import Corpus, hold_out
from tests.language_modeling.smoke_runs import BOOKS, book, books_source, data_config, write_books
from tests.language_modeling.tables_on_disk import write_parquet

FOLDERS = {"train": "train", "val": "validation", "test": "test"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_books(tmp_path / "pg19")


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "BATCH_BYTES", 900)
    monkeypatch.setattr(packing, "CHECKPOINT_BYTES", 5000)
    monkeypatch.setattr(packing, "PIECE_CHARS", 200)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "manifest.json"}


def manifest(tokens: TokenSet) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tokens.directory / "manifest.json").read_text())
    return found


def check_against_each_document_alone(tokens: TokenSet, split: str, texts: list[str]) -> None:
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tokens.directory / "tokenizer.json"))
    packed = tokens.splits[split]
    alone = [[0, *theirs(text)["input_ids"]] for text in texts]
    np.testing.assert_array_equal(packed.tokens, np.concatenate(alone))
    np.testing.assert_array_equal(packed.starts, np.cumsum([0, *map(len, alone)]))
    np.testing.assert_array_equal(packed.num_bytes, [len(text.encode()) for text in texts])
    np.testing.assert_array_equal(packed.num_words, [len(text.split()) for text in texts])


@pytest.mark.usefixtures("small_batches")
def test_token_files_hold_each_document_after_a_separator(folder: Path, tmp_path: Path) -> None:
    odd = "<|endoftext|> in a text,\r\n" + "x" * 1000 + " \x00 😀\n"
    (folder / "train" / "00003.txt").write_text(odd, newline="")
    tokens = open_tokens(data_config(books_source(folder)), tmp_path / "cache")
    for split, name in FOLDERS.items():
        files = sorted((folder / name).glob("*.txt"))
        texts = [file.read_bytes().decode() for file in files]
        if split == "train":  # a word that is longer than a piece has other tokens than as a whole
            start, end = tokens.splits["train"].starts[3:5]
            assert tokens.tokenizer().decode(tokens.splits["train"].tokens[start + 1 : end].tolist()) == odd
            assert (tokens.splits["train"].tokens[start:end] == 0).sum() == 1
            assert tokens.splits["train"].num_words[3] == len(odd.split())
            assert tokens.splits["train"].num_bytes[3] == len(odd.encode())
        else:
            check_against_each_document_alone(tokens, split, texts)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(300, np.uint16), (2**16, np.uint16), (2**16 + 1, np.uint32)])
def test_the_token_dtype_fits_the_vocabulary(folder: Path, tmp_path: Path, vocab_size: int, dtype: type) -> None:
    tokens = open_tokens(data_config(books_source(folder), vocab_size=vocab_size), tmp_path / "cache")
    check_against_each_document_alone(tokens, "train", [book(f"train {number}") for number in range(BOOKS["train"])])
    assert tokens.splits["val"].tokens.dtype == dtype
    with pytest.raises(ValueError, match="read-only"):
        tokens.splits["val"].tokens[0] = 1


def test_the_tokenizer_is_trained_on_the_first_bytes_of_the_training_split(folder: Path, tmp_path: Path) -> None:
    data = data_config(books_source(folder), vocab_size=2000)
    whole = open_tokens(data, tmp_path / "cache")
    first = open_tokens({**data, "tokenizer_bytes": 100}, tmp_path / "cache")
    expected = packing.train_tokenizer([book("train 0")], 2000)
    assert first.tokenizer().to_str() == expected.to_str()
    assert whole.tokenizer().get_vocab_size() > expected.get_vocab_size()


def test_the_fingerprint_does_not_depend_on_where_the_texts_are_stored(folder: Path, tmp_path: Path) -> None:
    first = open_tokens(data_config(books_source(folder)), tmp_path / "cache")
    for split, name in FOLDERS.items():
        texts = [file.read_text() for file in sorted((folder / name).glob("*.txt"))]
        write_parquet(tmp_path / "tables" / "data" / f"{name}-0.parquet", {"text": texts})
        assert manifest(first)["splits"][split]["documents"] == len(texts)
    tables = data_config(books_source(tmp_path / "tables"), fingerprint=first.fingerprint)
    second = open_tokens(tables, tmp_path / "cache")
    assert second.fingerprint == first.fingerprint
    assert second.directory != first.directory
    assert contents(second.directory) == contents(first.directory)
    nowhere = data_config(books_source(tmp_path / "nowhere"), fingerprint=first.fingerprint)
    assert open_tokens(nowhere, tmp_path / "cache").directory == second.directory, "it is there already"
    with pytest.raises(DataError, match=f"{first.fingerprint}, but the config declares {'0' * 64}"):
        open_tokens(data_config(books_source(folder), fingerprint="0" * 64), tmp_path / "cache")


def test_training_documents_that_are_also_held_out_are_dropped_and_counted(folder: Path, tmp_path: Path) -> None:
    duplicate = (folder / "validation" / "00001.txt").read_text()
    (folder / "train" / "00002.txt").write_text(duplicate.upper().replace("\n", "  \n\t"))
    (folder / "train" / "00004.txt").write_text(" \n\t ")
    (folder / "test" / "00000.txt").write_text("\ufeff\u200b\n")
    tokens = open_tokens(data_config(books_source(folder)), tmp_path / "cache")
    kept = [book(f"train {number}") for number in range(BOOKS["train"]) if number not in (2, 4)]
    check_against_each_document_alone(tokens, "train", kept)
    check_against_each_document_alone(tokens, "val", [book(f"validation {number}") for number in range(3)])
    counts = manifest(tokens)["splits"]
    assert counts["train"] | {"tokens": 0} == {
        "documents_read": 12,
        "documents": 10,
        "empty_documents": 1,
        "duplicates": 1,
        "tokens": 0,
        "bytes": sum(len(text.encode()) for text in kept),
        "words": sum(len(text.split()) for text in kept),
        "done": True,
    }
    assert (counts["test"]["empty_documents"], counts["val"]["duplicates"]) == (1, 0)
    assert counts["train"]["tokens"] == len(tokens.splits["train"].tokens)


def unsplit_books(root: str) -> Corpus:
    """A corpus without held-out splits."""
    return {"train": pg19(root)["train"]}


def test_a_set_without_held_out_splits_is_split_by_hash(folder: Path, tmp_path: Path) -> None:
    source = {**books_source(folder), "decode": f"{__name__}.unsplit_books"}
    tokens = open_tokens(data_config(source, held_out_share=0.3), tmp_path / "cache")
    for split, documents in hold_out(pg19(str(folder))["train"], 0.3).items():
        check_against_each_document_alone(tokens, split, ["".join(document.pieces()) for document in documents(0)])
    assert sum(len(split.num_bytes) for split in tokens.splits.values()) == BOOKS["train"]
    with pytest.raises(DataError, match=r"set data\.held_out_share"):
        open_tokens(data_config(source), tmp_path / "cache")


TOKEN_FILES = ("train_tokens.bin", "val_starts.bin", "test_num_words.bin", "tokenizer.json")


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *itertools.product(TOKEN_FILES, ("changed", "cut", "removed")),
        *itertools.product(["manifest.json"], ("changed", "cut", "emptied")),
    ],
)
def test_a_damaged_token_file_is_refused_by_name(folder: Path, tmp_path: Path, file: str, damage: str) -> None:
    data = data_config(books_source(folder))
    path = open_tokens(data, tmp_path / "cache").directory / file
    content = path.read_bytes()
    if damage == "changed":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut":
        path.write_bytes(content[:-2])
    elif damage == "emptied":
        path.write_text("{}")
    else:
        path.unlink()
    with pytest.raises(DataError, match=rf"{file} .*Delete the folder {path.parent}"):
        open_tokens(data, tmp_path / "cache")


def test_a_failing_text_source_falls_back_to_the_next_and_all_failures_are_named(folder: Path, tmp_path: Path) -> None:
    bad = write_books(tmp_path / "bad")
    (bad / "train" / "00005.txt").write_bytes(b"abc\xff")
    empty = write_books(tmp_path / "empty")
    for path in (empty / "test").iterdir():
        path.write_text("\n")
    sources = [books_source(path) for path in (tmp_path / "missing", bad, empty, folder)]
    tokens = open_tokens({**data_config(sources[0]), "sources": sources}, tmp_path / "cache")
    assert manifest(tokens)["source"] == f"local {folder}"
    check_against_each_document_alone(tokens, "train", [book(f"train {number}") for number in range(BOOKS["train"])])
    with pytest.raises(DataError) as caught:
        open_tokens({**data_config(sources[0]), "sources": sources[:3]}, tmp_path / "cache")
    message = str(caught.value)
    assert "data=small cannot be opened" in message
    assert f"local {tmp_path / 'missing'}: there is no folder" in message
    assert f"local {bad}: {bad / 'train' / '00005.txt'} is not UTF-8: invalid start byte at byte 3" in message
    assert f"local {empty}: its split test has no documents (3 were left out): add some, or, if" in message


def test_four_documents_that_hash_into_no_validation_split_end_with_advice(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    source = {"kind": "local", "path": str(tmp_path), "decode": "experiments.language_modeling.documents.texts"}
    with pytest.raises(DataError, match=r"its split val has no documents .* set another data\.held_out_share\."):
        open_tokens(data_config(source, held_out_share=0.01), tmp_path / "cache")


def test_a_misspelt_source_key_is_refused_before_packing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="A source of data=small, of kind local, has no key pth"):
        open_tokens(data_config({**books_source(tmp_path), "pth": "x"}), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_vocabulary_smaller_than_257_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.vocab_size=256, but the separator and 256 bytes already make 257"):
        open_tokens(data_config(books_source(tmp_path), vocab_size=256), tmp_path / "cache")


def test_a_hub_source_is_addressed_by_repository_and_revision(tmp_path: Path) -> None:
    source = {"kind": "hub", "repo": "emozilla/pg19", "revision": "abc", "decode": f"{__name__}.tell_root"}
    with pytest.raises(DataError, match="the root is hf://datasets/emozilla/pg19@abc"):
        open_tokens(data_config(source), tmp_path / "cache")


def tell_root(root: str) -> Corpus:
    raise DataError(f"the root is {root}")
