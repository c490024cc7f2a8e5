"""Generated labelled sentences, generated GLUE in the hub's layout, and smoke runs on them."""

import bz2
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.finetuning.glue import TASKS
from tests.conftest import MakeConfig, configs, generated_set

WORDS = {"fresh": ["great", "moving", "funny", "superb"], "rotten": ["dull", "awful", "clumsy", "boring"]}
ROWS = {"train": 60, "validation": 12, "validation_matched": 12, "validation_mismatched": 12}


def review_file(reviews: list[dict[str, str]]) -> bytes:
    """A file like the package's, with a plot summary before the reviews."""
    table = io.StringIO()
    writer = csv.DictWriter(table, ["category", "text", "movie_name", "has_plot_and_reviews"])
    writer.writeheader()
    writer.writerows([{"category": "plot", "text": "A man goes west.", "movie_name": "west"}, *reviews])
    return bz2.compress(table.getvalue().encode())


def reviews(films: int = 30, sentences: int = 8) -> list[dict[str, str]]:
    """Sentences whose class depends on one of their words."""
    rng = np.random.default_rng(0)
    rows = []
    for film in range(films):
        for number in range(sentences):
            category = str(rng.choice(sorted(WORDS)))
            text = f"Scene {number} of film {film} is {rng.choice(WORDS[category])}, they say."
            rows.append({"category": category, "text": text, "movie_name": f"film_{film}"})
    return rows


def glue_rows(task: str, split: str) -> dict[str, Any]:
    """Columns of one split; the first word determines the label."""
    rng, count = np.random.default_rng(len(task) + len(split)), ROWS[split]
    answers = TASKS[task].answers
    labels = rng.integers(0, len(answers), count) if answers else np.round(rng.uniform(0, 5, count), 2)
    columns: dict[str, Any] = {}
    for column in TASKS[task].columns:
        columns[column] = [f"{'abcdef'[int(label)] * 3} {column} {row:02}" for row, label in enumerate(labels)]
    return {**columns, "label": labels.tolist(), "idx": list(range(count))}


def write_glue(folder: Path) -> Path:
    """Parquet files as on the hub."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for task in TASKS:
        (folder / task).mkdir(parents=True)
        for split in ("train", *TASKS[task].test_splits.values()):
            pq.write_table(pa.table(glue_rows(task, split)), folder / task / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="session")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that replace the real sentences with the generated ones."""
    folder = tmp_path_factory.mktemp("reviews")
    (folder / "rotten_tomatoes_corpus_full.csv.bz2").write_bytes(review_file(reviews()))
    sources = f"[{{kind: local, path: '{folder}', decode: experiments.finetuning.decode.rotten_tomatoes}}]"
    return [*generated_set("reviews", sources, tmp_path_factory.mktemp("cache")), "run.device=cpu"]


@pytest.fixture(scope="session")
def datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep generated sets out of the user's cache."""
    import datasets  # type: ignore[import-untyped]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="session")
def glue_folder(tmp_path_factory: pytest.TempPathFactory, datasets_cache: None) -> Path:
    """Generated GLUE."""
    return write_glue(tmp_path_factory.mktemp("glue"))


@pytest.fixture
def make_classification(sentences: list[str], smoke: list[str]) -> MakeConfig:
    """A smoke run of the classifier on the generated sentences that writes below ``tmp_path``."""
    return configs("finetuning", [*smoke, *sentences])


@pytest.fixture
def make_glue(glue_folder: Path, smoke: list[str]) -> MakeConfig:
    """A smoke run of the tiny T5 on the generated GLUE that writes below ``tmp_path``."""
    source = f"data.sources=[{{kind: local, path: '{glue_folder}'}}]"
    return configs("finetuning", [*smoke, "experiment=finetuning/glue_smoke", source, "run.device=cpu"])
