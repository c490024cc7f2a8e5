"""The text sets under conf/data, from files in their sources' layouts; online, each pinned version still exists."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.harness.config import resolved
from experiments.harness.run_name import run_id
from experiments.harness.source_code import ROOT
from experiments.language_modeling.data import open_tokens
from tests.conftest import configs
from tests.language_modeling.hub_server import hub_server
from tests.language_modeling.tables_on_disk import write_json_lines, write_parquet, write_wiki40b

make_plain = configs("language_modeling")
OPEN = """
import json, sys
from pathlib import Path
from experiments.language_modeling.data import open_tokens
print(open_tokens(json.loads(sys.argv[1]), Path(sys.argv[2])).fingerprint)
"""


def data_of(*overrides: str) -> dict[str, Any]:
    data: dict[str, Any] = resolved(make_plain(*overrides))["data"]
    return data


def streamed_fingerprint(data: dict[str, Any], folder: Path, tmp_path: Path) -> str:
    """That of a set's hub source, with the real libraries and a server that answers like the hub."""
    (source,) = [source for source in data["sources"] if source["kind"] == "hub"]
    with hub_server(folder, source["repo"], source["revision"]) as (address, requests):
        settings = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-c", OPEN, json.dumps({**data, "sources": [source]}), str(tmp_path / "hub cache")]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(source["revision"] in request for request in requests)
    kept = [path for path in (tmp_path / "hf").rglob("*") if path.suffix in (".parquet", ".gz", ".arrow")]
    assert not kept, "streamed, not stored"
    return done.stdout.strip()


def test_wiki40b_of_any_language_is_read_from_hub_files_on_disk_or_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LION_DATA", str(tmp_path))
    for split, count in (("train", 6), ("validation", 2), ("test", 2)):
        shards = [[f"\n_START_ARTICLE_\nČlánek {split} {shard} {n}" for n in range(count)] for shard in range(2)]
        for texts in shards:
            texts[0] = repr(texts[0].encode())
        write_wiki40b(tmp_path / "wiki40b/sk", split, *shards)
    data = data_of("data=lm_wiki40b", "data.language=sk")
    tokens = open_tokens(data, tmp_path / "cache")
    decoded = tokens.tokenizer().decode(tokens.splits["val"].tokens.tolist()).split("<|endoftext|>")
    assert decoded == ["", *(f"Článek validation {shard} {n}" for shard in range(2) for n in range(2))]
    assert len(tokens.splits["train"].num_words) == 12
    assert streamed_fingerprint(data, tmp_path / "wiki40b", tmp_path) == tokens.fingerprint


def test_wiki40b_without_held_out_files_holds_out_training_articles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LION_DATA", str(tmp_path))
    rows = {"text": [f"_START_ARTICLE_\nArtikel {number}" for number in range(200)]}
    write_parquet(tmp_path / "wiki40b" / "de" / "train-00003-of-00010.parquet", rows)
    data = data_of("data=lm_wiki40b", "data.language=de")
    tokens = open_tokens({**data, "sources": data["sources"][::2]}, tmp_path / "cache")
    sizes = {name: len(split.num_words) for name, split in tokens.splits.items()}
    assert sum(sizes.values()) == 200
    assert 0 < sizes["val"] < 30
    assert 0 < sizes["test"] < 30
    assert "training articles will be held out instead" in caplog.text


def test_c4_is_read_from_hub_files_on_disk_or_streamed_up_to_the_configured_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LION_DATA", str(tmp_path))
    for split, count, of in (("train", 3, 1024), ("validation", 8, 8)):
        for shard in range(count):
            path = tmp_path / "c4" / "en" / f"c4-{split}.{shard:05d}-of-{of:05d}.json.gz"
            write_json_lines(path, [f"page {number} of {split} {shard}" for number in range(2)])
    write_json_lines(tmp_path / "c4" / "en" / "c4-train.00200-of-01024.json.gz", ["a page too many"])
    data = data_of("data=lm_c4")
    tokens = open_tokens(data, tmp_path / "cache")
    assert {name: len(split.num_words) for name, split in tokens.splits.items()} == {"train": 6, "val": 8, "test": 8}
    assert streamed_fingerprint(data, tmp_path / "c4", tmp_path) == tokens.fingerprint


def test_different_languages_are_different_runs() -> None:
    plain = [resolved(make_plain("data=lm_wiki40b", f"data.language={name}")) for name in ("de", "fr")]
    assert run_id(plain[0], "f" * 64) != run_id(plain[1], "f" * 64)


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "vocab_size"), [("lm_articles", 2048), ("lm_articles_512", 512), ("lm_speeches", 2048)]
)
def test_pinned_downloads_match_the_declared_text_sets(name: str, vocab_size: int, tmp_path: Path) -> None:
    data = data_of(f"data={name}")
    tokens = open_tokens(data, tmp_path)
    assert tokens.fingerprint == data["fingerprint"]
    assert 45_000 < len(tokens.splits["val"].tokens) < 130_000
    assert tokens.tokenizer().get_vocab_size() == data["vocab_size"] == vocab_size
