"""Writes small tables in the formats of the hub."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_parquet(path: Path, columns: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return path


def write_json_lines(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": "https://example.org"} for text in texts]
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def write_wiki40b(folder: Path, split: str, *shards: list[str]) -> None:
    """Articles of a language, in the columns of the hub."""
    for number, texts in enumerate(shards):
        columns = {"wikidata_id": ["Q1"] * len(texts), "text": texts, "version_id": ["1"] * len(texts)}
        write_parquet(folder / f"{split}-{number:05d}-of-{len(shards):05d}.parquet", columns)
