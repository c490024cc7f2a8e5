"""What a language modelling run reads: packed tokens on disk. ``open_tokens`` is its data.access.

The folder of a set in the cache contains tokenizer.json, for each split the files written by packing.py, and
manifest.json, which describes them. The *fingerprint* is the SHA-256 over the table of the files' sizes and contents,
so it does not depend on where the text came from.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.utils import get_method

from experiments.harness.errors import ConfigError, DataError
from experiments.harness.files import first_changed, sha256_of, write_aside
from experiments.harness.prepared_data import (
    cache_folder,
    delete_advice,
    fingerprint_of,
    read_manifest,
    unless_prepared,
)
from experiments.harness.seeds import derive_seed
from experiments.harness.sources import announce, check_sources, describe, fetch, first_of
from experiments.language_modeling.documents import Corpus, Source, folded_key, hold_out
from experiments.language_modeling.packing import (
    SMALLEST_VOCAB,
    Counts,
    Journal,
    SplitWriter,
    cut,
    pack_split,
    packing_progress,
    split_files,
    token_dtype,
    train_tokenizer,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer


log = logging.getLogger(__name__)

SPLITS = ("val", "test", "train")
"""In the order in which they are packed."""
_IDENTITY_KEYS = ("vocab_size", "tokenizer_bytes", "held_out_share")


@dataclass(frozen=True)
class TokenSplit:
    """The concatenated documents of a split, each preceded by a separator."""

    tokens: np.ndarray
    """uint16, or uint32 for a vocabulary of more than 65 536, [tokens]; memory-mapped read-only"""
    starts: np.ndarray
    """int64 [documents + 1]: position of each document's separator in ``tokens``; the last entry is ``len(tokens)``"""
    num_bytes: np.ndarray
    """int64 [documents]: length of each text in UTF-8"""
    num_words: np.ndarray
    """int64 [documents]: number of words in each text, separated by white space"""


@dataclass(frozen=True)
class TokenSet:
    """A tokenized text set in the cache."""

    directory: Path
    fingerprint: str
    splits: Mapping[str, TokenSplit]
    """train, val and test"""

    def tokenizer(self) -> "Tokenizer":
        """The tokenizer of the text."""
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self.directory / "tokenizer.json"))


def open_tokens(data: Mapping[str, Any], cache_dir: Path) -> TokenSet:
    """The text set that ``data`` declares, from the cache, else packed from the first of its sources that has it.

    ``data`` is the resolved config group as plain containers, with the keys ``name``, ``fingerprint``, ``sources`` (see
    experiments/harness/sources.py; a decoder gets a folder's path or a hub repository's address and returns a
    ``documents.Corpus``), ``vocab_size``, ``tokenizer_bytes`` (how much of the training split the tokenizer is trained
    on; null: all), and ``held_out_share``, for sources that only have a training split. Every byte is checked against
    the fingerprint. Processes that need the same set wait for the first; what a killed process has packed is kept.
    """
    check_sources(data, required={"decode"}, optional={"options"})
    if data["vocab_size"] < SMALLEST_VOCAB:
        raise ConfigError(
            f"data.vocab_size={data['vocab_size']}, but the separator and 256 bytes already make {SMALLEST_VOCAB}."
        )
    identity = json.dumps([data["fingerprint"] or data["sources"], *(data[key] for key in _IDENTITY_KEYS)])
    directory = cache_folder(data["name"], identity, cache_dir)
    unless_prepared(data, directory, lambda: first_of(data, partial(_make, data, directory)))
    return _open(data, directory)


def _make(data: Mapping[str, Any], directory: Path, source: Mapping[str, Any]) -> None:
    """Fill ``directory`` from one source. The caller holds the lock."""
    announce(data, source)
    fetched = directory.with_name(directory.name + ".fetched")
    work_dir = directory.with_name(directory.name + ".partial")
    shutil.rmtree(fetched, ignore_errors=True)  # what a killed process left
    fetched.mkdir()
    try:
        corpus = _corpus(data, source, fetched)
        counts = _pack(data, corpus, source, work_dir)
    finally:
        shutil.rmtree(fetched, ignore_errors=True)
    files = _file_summaries(work_dir)
    fingerprint = fingerprint_of(files)
    if data["fingerprint"] not in (None, fingerprint):
        shutil.rmtree(work_dir)
        raise DataError(
            f"it gave the fingerprint {fingerprint}, but the config declares {data['fingerprint']}; different texts or "
            "another vocabulary need their own config. With data.fingerprint=null, any fingerprint is accepted and "
            "becomes part of the run's name."
        )
    manifest = {
        "fingerprint": fingerprint,
        "source": describe(source),
        "vocab_size": data["vocab_size"],
        "splits": {split: asdict(of_split) for split, of_split in counts.items()},
        "files": files,
    }
    write_aside(work_dir / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    work_dir.rename(directory)
    (directory / "journal.json").unlink()


def _corpus(data: Mapping[str, Any], source: Mapping[str, Any], fetched: Path) -> Corpus:
    decode = get_method(source["decode"])
    # Files on the hub are streamed by address; sources.fetch would download them.
    hub = source["kind"] == "hub"
    root = f"hf://datasets/{source['repo']}@{source['revision']}" if hub else str(fetch(source, fetched))
    corpus: Corpus = decode(root, **source.get("options", {}))
    if set(corpus) == set(SPLITS):
        return corpus
    assert set(corpus) == {"train"}, f"{source['decode']} gives the splits {', '.join(corpus)}"
    if data["held_out_share"] is None:
        raise DataError("it only has a training split: set data.held_out_share to hold some of it out.")
    return hold_out(corpus["train"], data["held_out_share"])


def _pack(data: Mapping[str, Any], corpus: Corpus, source: Mapping[str, Any], work_dir: Path) -> dict[str, Counts]:
    """Write the tokenizer and token files of ``corpus`` into ``work_dir``, which may already contain a part of them."""
    journal = Journal(work_dir, source)
    held_out = {folded_key(document) for split in ("val", "test") for document in corpus[split](0)}
    tokenizer = _tokenizer(data, corpus["train"], held_out, work_dir / "tokenizer.json")
    with packing_progress(data["name"]) as show:
        for split in SPLITS:
            counts = journal.counts(split)
            if not counts.done:
                writer = SplitWriter(work_dir, split, tokenizer, token_dtype(data["vocab_size"]), counts)
                pack_split(corpus[split], held_out if split == "train" else set(), writer, journal, show)
                log.info(
                    "data=%s: %s has %d documents, %d tokens; left out: %d empty ones, %d that are also held out",
                    data["name"],
                    split,
                    counts.documents,
                    counts.tokens,
                    counts.empty_documents,
                    counts.duplicates,
                )
    return {split: journal.counts(split) for split in SPLITS}


def _tokenizer(data: Mapping[str, Any], train: Source, held_out: set[bytes], path: Path) -> "Tokenizer":
    """The tokenizer in ``path``, trained first if it does not exist."""
    from tokenizers import Tokenizer

    if not path.exists():
        trained = train_tokenizer(_training_pieces(train, held_out, data["tokenizer_bytes"]), data["vocab_size"])
        write_aside(path, trained.to_str(pretty=True))
        if trained.get_vocab_size() < data["vocab_size"]:
            entries = trained.get_vocab_size()
            log.warning("data=%s: its text only yields a vocabulary of %d entries", data["name"], entries)
    return Tokenizer.from_file(str(path))


def _training_pieces(train: Source, held_out: set[bytes], limit_bytes: int | None) -> Iterator[str]:
    """The text of the training split in pieces, up to the piece that reaches the limit."""
    seen_bytes = 0
    for document in train(0):
        if folded_key(document) in held_out:
            continue
        for piece in cut(document.pieces()):
            yield piece
            seen_bytes += len(piece.encode())
            if limit_bytes is not None and seen_bytes >= limit_bytes:
                return


def _file_summaries(directory: Path) -> dict[str, dict[str, Any]]:
    paths = [path for split in SPLITS for path in split_files(directory, split).values()]
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in [directory / "tokenizer.json", *paths]
    }


def _open(data: Mapping[str, Any], directory: Path) -> TokenSet:
    fingerprint, files = read_manifest(directory, data["fingerprint"], "files")
    try:
        changed = first_changed(directory, {name: summary["sha256"] for name, summary in files.items()}, sha256_of)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}). {delete_advice(directory)}") from error
    if changed:
        raise DataError(f"{directory / changed} was changed since it was packed. {delete_advice(directory)}")
    splits = {split: _mapped(directory, split, token_dtype(data["vocab_size"])) for split in SPLITS}
    return TokenSet(directory, fingerprint, splits)


def _mapped(directory: Path, split: str, dtype: np.dtype) -> TokenSplit:
    dtypes: dict[str, Any] = {"tokens": dtype, "starts": "<i8", "num_bytes": "<i8", "num_words": "<i8"}
    files = split_files(directory, split).items()
    return TokenSplit(**{name: np.memmap(path, dtypes[name], mode="r") for name, path in files})


def chosen(split: TokenSplit, numbers: np.ndarray) -> TokenSplit:
    """The documents ``numbers`` (int64 [documents]) of a split, in that order, in memory."""
    documents = [split.tokens[split.starts[number] : split.starts[number + 1]] for number in numbers]
    return TokenSplit(
        tokens=np.concatenate(documents),
        starts=np.cumsum([0, *map(len, documents)], dtype=np.int64),
        num_bytes=split.num_bytes[numbers],
        num_words=split.num_words[numbers],
    )


def redrawn(tokens: TokenSet, seed: int) -> TokenSet:
    """The set with equally many other validation documents, drawn by ``seed`` from train and val together.

    The test split stays the same, and so does the tokenizer, which may have been trained on what is now validation.
    Documents with the same tokens as a validation document are removed from train.
    """
    train, val = tokens.splits["train"], tokens.splits["val"]
    pool = TokenSplit(
        tokens=np.concatenate([train.tokens, val.tokens]),
        starts=np.concatenate([train.starts, train.starts[-1] + val.starts[1:]]),
        num_bytes=np.concatenate([train.num_bytes, val.num_bytes]),
        num_words=np.concatenate([train.num_words, val.num_words]),
    )
    documents = [document.tobytes() for document in np.split(pool.tokens, pool.starts[1:-1])]
    order = np.random.default_rng(derive_seed("split", seed)).permutation(len(documents))
    held_out, rest = np.sort(order[: len(val.num_bytes)]), np.sort(order[len(val.num_bytes) :])
    texts = {documents[number] for number in held_out}
    kept = np.array([number for number in rest if documents[number] not in texts])
    return replace(tokens, splits={**tokens.splits, "train": chosen(pool, kept), "val": chosen(pool, held_out)})
