"""Sources on the hub, with the real libraries and a server that answers like the hub."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.harness.config import resolved
from experiments.harness.source_code import ROOT
from experiments.language_modeling.data import open_tokens
from experiments.language_modeling.documents import PUBLISHED_SPLITS
from tests.conftest import configs
from tests.language_modeling.hub_server import hub_server
from tests.language_modeling.tables_on_disk import write_json_lines, write_parquet

make_plain = configs("language_modeling")
OPEN = """
import json, sys
from pathlib import Path
from experiments.language_modeling.data import open_tokens
print(open_tokens(json.loads(sys.argv[1]), Path(sys.argv[2])).fingerprint)
"""


def write_wiki40b(folder: Path) -> None:
    for name in PUBLISHED_SPLITS.values():
        for shard in range(2):
            texts = [f"\n_START_ARTICLE_\nArtikel {name} {shard} {number}" for number in range(5)]
            write_parquet(folder / "de" / f"{name}-{shard:05d}-of-00002.parquet", {"text": texts})


def write_c4(folder: Path) -> None:
    for name, shards, of in (("train", 2, 1024), ("validation", 8, 8)):
        for shard in range(shards):
            texts = [f"page {number} of {name} {shard}" for number in range(3)]
            write_json_lines(folder / "en" / f"c4-{name}.{shard:05d}-of-{of:05d}.json.gz", texts)


@pytest.mark.parametrize(("name", "write"), [("lm_wiki40b", write_wiki40b), ("lm_c4", write_c4)])
def test_streamed_hub_files_are_packed_like_local_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, write: Any
) -> None:
    folder = tmp_path / name.removeprefix("lm_")
    write(folder)
    monkeypatch.setenv("LION_DATA", str(tmp_path))
    language = ["data.language=de"] if name == "lm_wiki40b" else []
    data = resolved(make_plain(f"data={name}", *language))["data"]
    (source,) = [source for source in data["sources"] if source["kind"] == "hub"]
    with hub_server(folder, source["repo"], source["revision"]) as (address, requests):
        settings = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-c", OPEN, json.dumps({**data, "sources": [source]}), str(tmp_path / "hub cache")]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == open_tokens(data, tmp_path / "cache").fingerprint
    assert all(source["revision"] in request for request in requests)
    kept = [path for path in (tmp_path / "hf").rglob("*") if path.suffix in (".parquet", ".gz", ".arrow")]
    assert not kept, "streamed, not stored"
