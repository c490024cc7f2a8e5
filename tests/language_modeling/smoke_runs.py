"""A few generated books, in the layout of PG-19, and runs of language modelling on them."""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeConfig, configs, generated_set

SENTENCE = "the ship sails over a grey sea while old captains tell of storms, whales and naïve sailors — in 1851!"
BOOKS = {"train": 12, "validation": 3, "test": 3}


def book(name: str, num_words: int = 400) -> str:
    """A text determined by ``name``, in lines of ten words."""
    rng = random.Random(name)
    lines = [" ".join(rng.choices(SENTENCE.split(), k=10)) for _ in range(num_words // 10)]
    return f"{name}\n\n" + "\n".join(lines) + "\n"


def write_books(folder: Path) -> Path:
    """BOOKS as text files in a folder for each split."""
    for split, count in BOOKS.items():
        (folder / split).mkdir(parents=True)
        for number in range(count):
            (folder / split / f"{number:05d}.txt").write_text(book(f"{split} {number}"), newline="")
    return folder


def data_config(source: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The arguments of ``open_tokens``, for one source."""
    defaults = {
        "name": "small",
        "fingerprint": None,
        "vocab_size": 300,
        "tokenizer_bytes": None,
        "held_out_share": None,
    }
    return {**defaults, "sources": [source], **more}


def books_source(folder: Path) -> dict[str, Any]:
    return {"kind": "local", "path": str(folder), "decode": "experiments.language_modeling.decode.pg19"}


@pytest.fixture(scope="session")
def books(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that replace a real data set with the generated books."""
    folder = write_books(tmp_path_factory.mktemp("books") / "pg19")
    sources = f"[{{kind: local, path: '{folder}', decode: experiments.language_modeling.decode.pg19}}]"
    generated = generated_set("books", sources, tmp_path_factory.mktemp("cache"))
    return [*generated, "data.vocab_size=300", "run.device=cpu"]


@pytest.fixture
def make_lm(books: list[str], smoke: list[str]) -> MakeConfig:
    """``make_lm("seed=1", ...)``: the config of a smoke run on the generated books that writes below ``tmp_path``."""
    return configs("language_modeling", [*smoke, *books])
