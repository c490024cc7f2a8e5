"""Whatever bytes are in one of the suite's files, reading it gives a result or an error message, no traceback."""

import json
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.harness.archives import unpack
from experiments.harness.checkpoint import load_checkpoint
from experiments.harness.damage import find_damage
from experiments.harness.errors import SuiteError
from experiments.harness.record import read_metrics, read_status
from experiments.harness.tracking import rows_sent
from experiments.study.identity import check_folder
from experiments.study.replicates import read_replicate
from experiments.study.sweep import quoted

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(["step", "status", "study"]), values),
    max_leaves=6,
)
CONTENTS = st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode() + b"\n")
FILES = ("status.json", "metrics.jsonl", "config.yaml", "environment.json", "parameter_groups.json", "0.parquet")

READERS: dict[str, Callable[[Path], object]] = {
    "status": read_status,
    "metrics": read_metrics,
    "damage": lambda folder: find_damage(folder, read_status(folder) or {"status": "complete"}),
    "checkpoint": load_checkpoint,
    "published study": lambda folder: check_folder(folder, {}),
    "replicate": lambda folder: read_replicate(folder / "0.parquet"),
    "rows sent": lambda folder: rows_sent(folder / "wandb_rows_sent"),
}


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=60, deadline=None)
@given(contents=st.lists(CONTENTS, min_size=len(FILES) + 3, max_size=len(FILES) + 3))
def test_reading_arbitrary_bytes_gives_a_result_or_an_error_message(reader: str, contents: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "lion-s0-0123456789"
        run.mkdir()
        for name, content in zip(
            (*FILES, "study.json", "wandb_rows_sent", "step-00000003-0.pt"), contents, strict=True
        ):
            (run / name).write_bytes(content)
        with suppress(SuiteError):
            READERS[reader](run)


@settings(max_examples=60, deadline=None)
@given(
    content=st.binary(max_size=200),
    suffix=st.sampled_from([".zip", ".whl", ".tar.gz", ".tgz", ".tar.xz"]),
    start=st.sampled_from([b"", b"PK\x03\x04", b"\x1f\x8b\x08\x00", b"\xfd7zXZ\x00"]),
)
def test_arbitrary_archives_are_unpacked_or_refused(content: bytes, suffix: str, start: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / f"archive{suffix}"
        archive.write_bytes(start + content)
        with suppress(SuiteError):
            unpack(archive, Path(folder) / "unpacked")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "secret.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", "b")
    content = bytearray(archive.read_bytes())
    content[6] |= 1  # the flag in the member's own header, and in the directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(SuiteError, match=r"cannot be unpacked: .*encrypted"):
        unpack(archive, tmp_path / "unpacked")


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=0x2FFF), max_size=20))
def test_hydra_reads_a_quoted_value_unchanged(value: str) -> None:
    override = OverridesParser.create().parse_override(f"run.runs_dir={quoted(value)}")
    assert override.value() == value
