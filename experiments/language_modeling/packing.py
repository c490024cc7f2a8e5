"""Write documents to token files on disk, in one pass, which resumes after a kill, with a tokenizer trained on them.

Only what was written up to the last journal entry counts; longer files are truncated to it.

The tokenizer is a byte-level BPE, which encodes any text losslessly. Tokenizing a text in pieces gives the same tokens
as tokenizing it as a whole if it is cut where the tokenizer would split it anyway: before a space or newline that
follows a word.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.data.text import folded
from experiments.harness.errors import DataError
from experiments.harness.files import write_aside
from experiments.language_modeling.documents import Source, folded_key

if TYPE_CHECKING:
    from tokenizers import Tokenizer


SEPARATOR = "<|endoftext|>"
SEPARATOR_ID = 0
SMALLEST_VOCAB = 1 + 256
PIECE_CHARS = 16_384
"""Small enough that a batch keeps all cores busy."""
_UP_TO_A_WORDS_END = re.compile(r"(?s:.*)\S(?=[ \n])")


BATCH_BYTES = 4_000_000
"""Text tokenized at once, by all cores."""
CHECKPOINT_BYTES = 64_000_000
"""Text between two journal entries."""


def train_tokenizer(pieces: Iterable[str], vocab_size: int) -> "Tokenizer":
    """A tokenizer of at most ``vocab_size`` entries (and at least SMALLEST_VOCAB): the separator, 256 bytes, and merges
    that occur at least twice.

    It depends only on the text, not on the number of threads or on how the text is cut into pieces. No text is
    tokenized to the separator, not even one that spells it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(pieces, trainer)
    trained = json.loads(tokenizer.to_str())
    trained["added_tokens"] = []  # otherwise the tokenizer would look for the separator in texts
    tokenizer = Tokenizer.from_str(json.dumps(trained))
    assert tokenizer.token_to_id(SEPARATOR) == SEPARATOR_ID
    return tokenizer


def cut(texts: Iterable[str]) -> Iterator[str]:
    """Recut a text, given in pieces of any length, into pieces of at most PIECE_CHARS characters.

    A piece ends before a space or newline that follows a word, or anywhere if there is none.
    """
    rest = ""
    for text in texts:
        text, start = rest + text, 0
        while len(text) - start > PIECE_CHARS:
            end = start + PIECE_CHARS
            # Look one character ahead, for the space after a word that ends exactly here.
            if found := _UP_TO_A_WORDS_END.match(text, start, end + 1):
                end = found.end()
            yield text[start:end]
            start = end
        rest = text[start:]
    if rest:
        yield rest


@dataclass
class Counts:
    """The progress of a split, and what was found so far."""

    documents_read: int = 0
    documents: int = 0
    empty_documents: int = 0
    """left out because they contain only white space and invisible characters"""
    duplicates: int = 0
    """left out of train because val or test has the same text, ignoring white space and case"""
    tokens: int = 0
    bytes: int = 0
    words: int = 0
    done: bool = False


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest little-endian unsigned type that can represent every token."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


def split_files(directory: Path, split: str) -> dict[str, Path]:
    """The files of a split: tokens, and for each document int64 starts, num_bytes, num_words."""
    return {name: directory / f"{split}_{name}.bin" for name in ("tokens", "starts", "num_bytes", "num_words")}


class Journal:
    """Records in journal.json what is safely on disk of a set that is packed from ``source`` into ``directory``.

    A directory partly filled from a different source is emptied.
    """

    def __init__(self, directory: Path, source: Mapping[str, Any]) -> None:
        self._path = directory / "journal.json"
        self._content: dict[str, Any] = json.loads(self._path.read_text()) if self._path.exists() else {}
        if self._content.get("source") != source:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            self._content = {"source": source, "splits": {}}
            self._write()

    def counts(self, split: str) -> Counts:
        """The progress of the split."""
        return Counts(**self._content["splits"].get(split, {}))

    def save(self, split: str, counts: Counts) -> None:
        """Record that the split's files contain this much."""
        self._content["splits"][split] = asdict(counts)
        self._write()

    def _write(self) -> None:
        write_aside(self._path, json.dumps(self._content))


def pack_split(
    source: Source,
    held_out: Set[bytes],
    writer: "SplitWriter",
    journal: Journal,
    show: Callable[[str, Counts], None],
) -> None:
    """Write the documents of ``source`` that ``writer`` does not have yet, except those with a key in ``held_out``.

    ``show`` is called after every document.
    """
    counts = writer.counts
    safe_bytes = counts.bytes
    for document in source(counts.documents_read):
        counts.documents_read += 1
        if not any(folded(piece) for piece in document.pieces()):
            counts.empty_documents += 1
        elif held_out and folded_key(document) in held_out:
            counts.duplicates += 1
        else:
            writer.add(document.pieces())
        show(writer.split, counts)
        if counts.bytes - safe_bytes >= CHECKPOINT_BYTES:
            writer.flush()
            journal.save(writer.split, counts)
            safe_bytes = counts.bytes
    if not counts.documents:
        raise DataError(
            f"its split {writer.split} has no documents ({counts.documents_read} were left out): add some, or, if it "
            "is held out of the training split, add some there or set another data.held_out_share."
        )
    writer.finish()
    counts.done = True
    journal.save(writer.split, counts)


class SplitWriter:
    """Appends documents to the files of a split, starting after ``counts``."""

    def __init__(self, directory: Path, split: str, tokenizer: "Tokenizer", dtype: np.dtype, counts: Counts) -> None:
        self.split, self.counts = split, counts
        self._tokenizer, self._dtype = tokenizer, dtype
        self._files = {}
        for name, path in split_files(directory, split).items():
            self._files[name] = path.open("ab")
            size = counts.tokens * dtype.itemsize if name == "tokens" else 8 * counts.documents
            assert path.stat().st_size >= size, f"{path} is shorter than its journal says"
            self._files[name].truncate(size)
        self._pieces: list[str] = []
        self._opens_document: list[bool] = []
        self._piece_bytes = 0
        self._lengths: list[tuple[int, int]] = []

    def add(self, texts: Iterable[str]) -> None:
        """Append one document, given in pieces of any length."""
        num_bytes = num_words = 0
        in_word = False
        for piece in cut(texts):
            self._opens_document.append(num_bytes == 0)
            self._pieces.append(piece)
            size = len(piece.encode())
            num_bytes += size
            num_words += len(piece.split()) - (in_word and not piece[0].isspace())
            in_word = not piece[-1].isspace()
            self._piece_bytes += size
            if self._piece_bytes >= BATCH_BYTES:
                self._encode()
        self._lengths.append((num_bytes, num_words))
        self.counts.documents += 1
        self.counts.bytes += num_bytes
        self.counts.words += num_words

    def flush(self) -> None:
        """Write everything that was added to disk."""
        self._encode()
        self._write("num_bytes", [num_bytes for num_bytes, _ in self._lengths])
        self._write("num_words", [num_words for _, num_words in self._lengths])
        self._lengths = []
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> None:
        """Flush and close the files; ``starts`` ends with the number of tokens."""
        self._encode()
        self._write("starts", [self.counts.tokens])
        self.flush()
        for file in self._files.values():
            file.close()

    def _encode(self) -> None:
        tokens: list[int] = []
        starts = []
        encodings = self._tokenizer.encode_batch_fast(self._pieces, add_special_tokens=False)
        for opens_document, encoding in zip(self._opens_document, encodings, strict=True):
            if opens_document:
                starts.append(self.counts.tokens + len(tokens))
                tokens.append(SEPARATOR_ID)
            tokens += encoding.ids
        self._files["tokens"].write(np.array(tokens, self._dtype).tobytes())
        self._write("starts", starts)
        self.counts.tokens += len(tokens)
        self._pieces, self._opens_document, self._piece_bytes = [], [], 0

    def _write(self, name: str, values: list[int]) -> None:
        self._files[name].write(np.array(values, "<i8").tobytes())


@contextmanager
def packing_progress(name: str) -> Iterator[Callable[[str, Counts], None]]:
    """Show documents and MB packed so far, and MB/s, on a terminal. Yields a function of a split and its counts."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn(
            f"{name} {{task.description}}: {{task.fields[documents]:,}} documents, {{task.fields[megabytes]:,}} MB"
        ),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    tasks = {}
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:

        def show(split: str, counts: Counts) -> None:
            megabytes = counts.bytes // 10**6
            if split not in tasks:
                tasks[split] = progress.add_task(split, total=None, documents=0, megabytes=megabytes)
            progress.update(tasks[split], completed=counts.bytes, documents=counts.documents, megabytes=megabytes)

        yield show
