"""Committed runs, rerun from their records."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.harness.errors import ConfigError
from experiments.study import rerun
from experiments.study.publish import publishing
from experiments.study.replicates import Replicate, ReplicateRun, read_replicate, write_replicate
from experiments.study.rerun import Different, verify
from experiments.study.verify import Record, drawn
from tests.conftest import MakeConfig, unpinned
from tests.study.conftest import execute_all, make_study

Row = dict[str, Any]


@pytest.fixture
def published(make_config: MakeConfig, runs_dir: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first of two published replicates without a search; the data are found where the study found them."""
    study = make_study(make_config, "study=fixed", "study.numbers=0-1", "study.confirm=2", runs_dir)
    execute_all(study, make_config)
    with publishing(study, "command"):
        pass
    monkeypatch.setenv("LION_CACHE", study.config["run"]["cache_dir"])
    found = {key: study.config["data"][key] for key in ("access", "sources")}
    monkeypatch.setattr(rerun, "with_sources", lambda recorded: {**found, **recorded})
    return study.results / "replicates/0.parquet"


def run_of(path: Path) -> str:
    """Lion's first run."""
    return read_replicate(path).of("lion", "confirm")[0].run_id


def rewrite(path: Path, **changes: Callable[[Any], Any]) -> None:
    """Change text fields of Lion's first run in its published replicate."""
    replicate = read_replicate(path)

    def changed(run: ReplicateRun) -> ReplicateRun:
        return replace(run, **{name: change(getattr(run, name)) for name, change in changes.items()})

    runs = tuple(changed(run) if run.run_id == run_of(path) else run for run in replicate.runs)
    write_replicate(path, replace(replicate, runs=runs))


def rewrite_rows(path: Path, change: Callable[[Row], None]) -> None:
    def rewritten(text: str) -> str:
        rows = [json.loads(line) for line in text.splitlines()]
        for row in rows:
            change(row)
        return "".join(json.dumps(row) + "\n" for row in rows)

    rewrite(path, metrics=rewritten)


def with_other_instructions(path: Path) -> None:
    """Make the record say that it was computed with a different instruction set."""
    replicate = read_replicate(path)
    environment = json.loads(json.dumps(replicate.environment))
    environment["arithmetic"]["aten"] = "AVX512"
    write_replicate(path, replace(replicate, environment=environment))


def of_another_machine(path: Path) -> None:
    """Change the record as a different instruction set would."""
    with_other_instructions(path)
    rewrite_rows(path, lambda row: row.update({key: 1.001 * row[key] for key in row if key.startswith("train/g")}))


def test_a_rerun_matches_its_record_and_leaves_it_unchanged(published: Path, tmp_path: Path) -> None:
    before = published.read_bytes()
    assert verify(published, run_of(published), tmp_path / "again").startswith("identical, ")
    assert published.read_bytes() == before
    assert list((tmp_path / "again").glob("*/lion-s0-*"))


def test_verification_ignores_times_and_memory(published: Path, tmp_path: Path) -> None:
    def slower(row: Row) -> None:
        row.update({key: 2 * row[key] for key in row if key.startswith(("time/", "cost/"))})

    rewrite_rows(published, slower)
    assert verify(published, run_of(published), tmp_path / "again").startswith("identical, ")


@pytest.mark.parametrize("in_another_arithmetic", [False, True])
def test_verification_names_a_changed_value_for_any_recorded_arithmetic(
    published: Path, tmp_path: Path, in_another_arithmetic: bool
) -> None:
    def change(row: Row) -> None:
        if row["step"] == 8 and "val/loss" in row:
            row["val/loss"] += 1e-12

    rewrite_rows(published, change)
    if in_another_arithmetic:
        with_other_instructions(published)
    with pytest.raises(Different, match="differs from step 8 on: val/loss is "):
        verify(published, run_of(published), tmp_path / "again")


def test_verification_names_missing_rows_other_statuses_and_damaged_files(published: Path, tmp_path: Path) -> None:
    whole = published.read_bytes()
    rewrite(published, metrics=lambda text: "".join(text.splitlines(keepends=True)[:-1]))
    with pytest.raises(Different, match=r"has \d+ rows, recorded \d+"):
        verify(published, run_of(published), tmp_path / "1")
    published.write_bytes(whole)
    rewrite(published, status=lambda text: text.replace('"complete"', '"diverged"'))
    with pytest.raises(Different, match="is complete, recorded diverged"):
        verify(published, run_of(published), tmp_path / "2")
    name = run_of(published)
    published.write_bytes(whole[:-100])
    with pytest.raises(Different, match=r"the record cannot be read: .*0\.parquet"):
        verify(published, name, tmp_path / "3")


def test_a_rerun_with_other_arithmetic_is_judged_by_the_spread_of_seeds(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_another_machine(published)
    assert verify(published, run_of(published), tmp_path / "1").startswith(
        "with different arithmetic: differs from step "
    )
    printed = capsys.readouterr().out
    assert printed.index("made with aten AVX512, here it is AVX2") < printed.index("complete")

    def better(row: Row) -> None:
        row.update({key: row[key] + 50 for key in row if key == "test/top1"})

    rewrite_rows(published, better)
    with pytest.raises(
        Different, match="in its final metrics by more than 3 standard deviations of the confirm runs: test/top1"
    ):
        verify(published, run_of(published), tmp_path / "2")


def test_a_first_row_beyond_rounding_error_fails_verification(published: Path, tmp_path: Path) -> None:
    of_another_machine(published)
    rewrite_rows(published, lambda row: row.update({key: 1.2 * row[key] for key in row if key == "train/loss"}))
    with pytest.raises(Different, match="differs in its first row by more than 5%: train/loss"):
        verify(published, run_of(published), tmp_path / "again")


def write_runs(folder: Path, number: int, seeds: Sequence[int], hardware: dict[str, str]) -> Path:
    """A replicate of runs ``lion-s<seed>`` of which only the names and the instruction set matter."""
    fields: Any = dict.fromkeys(("status", "metrics", "parameter_groups"), "{}")
    fields["config"] = '{"train": {"instruction_set": "avx2"}}'
    runs = tuple(ReplicateRun(f"lion-s{n}", "lion", "search", 1, n, 1.0, 0, (0.5,), **fields) for n in seeds)
    path = folder / f"lit/mini/study/replicates/{number}.parquet"
    write_replicate(path, Replicate(number, {"hardware": hardware}, {}, runs))
    return path


def test_the_draw_of_runs_to_verify_depends_on_the_seed(tmp_path: Path) -> None:
    path = write_runs(tmp_path, 3, range(40), {})
    assert drawn(tmp_path, None, 3, seed=1) == drawn(tmp_path, None, 3, seed=1) != drawn(tmp_path, None, 3, seed=2)
    assert drawn(tmp_path, "lion-s7", 2, seed=1) == [Record(path, "lion-s7", "avx2")]
    with pytest.raises(ConfigError, match="There is no run lion-s99"):
        drawn(tmp_path, "lion-s99", 2, seed=1)
    with pytest.raises(ConfigError, match="There is no run to rerun on this machine"):
        drawn(tmp_path / "empty", None, 2, seed=1)


@pytest.mark.parametrize("has_gpu", [False, True])
def test_runs_made_on_a_gpu_are_drawn_only_on_a_machine_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], has_gpu: bool
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    write_runs(tmp_path, 0, [0], {})
    write_runs(tmp_path, 1, [1], {"gpu": "NVIDIA H200"})
    found = {record.run_id for record in drawn(tmp_path, None, 2, seed=0)}
    assert found == ({"lion-s0", "lion-s1"} if has_gpu else {"lion-s0"})
    assert ("1 of 2 replicates were made on a GPU" in capsys.readouterr().out) != has_gpu
    assert [record.run_id for record in drawn(tmp_path, "lion-s1", 1, seed=0)] == ["lion-s1"]


@pytest.mark.parametrize(
    "name", ["lm_articles_512", "cifar10", "ft_rotten_tomatoes", "lit_drawings", "diffusion_cifar10"]
)
def test_the_sources_of_a_recorded_data_set_come_from_its_config(name: str) -> None:
    found = rerun.with_sources({"name": name, "vocab_size": 7})
    assert found["vocab_size"] == 7
    assert found["inception_sources" if name == "diffusion_cifar10" else "sources"]


def test_the_verify_command_fails_and_names_a_run_that_cannot_be_rerun(published: Path) -> None:
    results = published.parents[4]
    name = run_of(published)
    command = [sys.executable, "-m", "experiments.study.verify", "--results", str(results), "--run", name]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=unpinned())
    # conf/data has no file for the tests' small data set.
    assert result.returncode == 1, result.stdout
    assert f"{published.relative_to(results)} {name}: cannot be rerun" in result.stdout
    assert "1 of 1 do not agree with their records" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "nope"], "There is no run nope under "),
        (["--number", "-1"], "N (--number) must be at least 1, but it is -1."),
        (["--number", "0"], "N (--number) must be at least 1, but it is 0."),
    ],
)
def test_a_verification_of_nothing_is_refused_in_one_sentence(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    write_runs(tmp_path, 0, [0], {})
    command = [sys.executable, "-m", "experiments.study.verify", "--results", str(tmp_path), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith(f"error: {message}")
