"""docs/your-own.md: every listing is short, and every command runs on the listings' files at the smoke scale."""

import csv
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from experiments.finetuning.data import text_splits
from experiments.finetuning.decode import labelled_tables
from experiments.harness.errors import DataError
from experiments.harness.prepared_data import prepare
from experiments.harness.source_code import ROOT
from experiments.image_classification.data import open_image_set
from tests import forked
from tests.conftest import status_of
from tests.image_classification.small_imagenet import encoded, photo

PAGE = (ROOT / "docs" / "your-own.md").read_text()
LISTINGS = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]
LONGEST = 20
NO_AVERAGE = "train.ema_decay=null"
"""Averages are switched off as in tests/conftest.py, which explains why."""
needs_optuna = pytest.mark.skipif(
    find_spec("hydra_plugins.hydra_optuna_sweeper") is None, reason="hydra-optuna-sweeper is not installed"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with all listings, the working directory of the commands; their /data is a folder in it."""
    for name, text in LISTINGS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text.replace(" /data/", f" {tmp_path}/data/"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library cache")
    return tmp_path


def at_smoke(command: str, folder: Path, *more: str) -> list[str]:
    """A command of the page, at the smoke scale and below ``folder``."""
    python, *arguments = shlex.split(command)
    assert python == "python"
    places = [f"run.{name}_dir={folder}/{name}" for name in ("runs", "results", "cache")]
    return [sys.executable, *arguments, "scale=smoke", "run.wandb=disabled", *places, *more]


def run(command: str, folder: Path, *more: str) -> str:
    """The output, if the command succeeds."""
    result = forked.run(at_smoke(command, folder, *more))
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def command_with(*words: str) -> str:
    """The only command of the page that contains all these words, and no other sweeper."""
    swept = [word for word in ("-m hydra/sweeper=study", "-m hydra/sweeper=optuna") if word not in words]
    (found,) = [line for line in COMMANDS if all(word in line for word in words) and not any(s in line for s in swept)]
    return found


def finished(folder: Path) -> dict[str, float]:
    """The metrics of the only run."""
    (path,) = folder.glob("runs/*/*/status.json")
    status = status_of(path.parent)
    assert status["status"] == "complete"
    metrics: dict[str, float] = status["metrics"]
    return metrics


@pytest.mark.parametrize(("name", "text"), LISTINGS, ids=[name for name, _ in LISTINGS])
def test_every_listing_has_at_most_20_lines(name: str, text: str) -> None:
    assert len([line for line in text.splitlines() if line.strip()]) <= LONGEST


def test_the_optimizer_listing_trains(folder: Path, digits: list[str]) -> None:
    run(command_with("optimizer=mine", "image"), folder, *digits)
    assert "test/top1" in finished(folder)
    (path,) = folder.glob("runs/*/mine-s0-*")
    assert json.loads((path / "parameter_groups.json").read_text())["decay"]


@pytest.mark.slow  # the task listing's study has this optimizer too
def test_the_optimizer_listing_runs_in_a_study(folder: Path, digits: list[str]) -> None:
    run(command_with("-m hydra/sweeper=study", "optimizer=mine,adamw"), folder, *digits, NO_AVERAGE)
    (summary,) = (json.loads(path.read_text()) for path in folder.rglob("summary.json"))
    assert {name: optimizer["trials"] for name, optimizer in summary["optimizers"].items()} == {"mine": 3, "adamw": 3}


def test_the_model_listing_trains(folder: Path, digits: list[str]) -> None:
    run(command_with("model=perceptron"), folder, *digits)
    assert "test/top1" in finished(folder)
    (environment,) = (json.loads(path.read_text()) for path in folder.rglob("environment.json"))
    assert environment["model"]["trained_parameters"] == 28 * 28 * 32 + 32 + 32 * 10 + 10


def test_the_experiment_listing_trains(folder: Path, digits: list[str]) -> None:
    command = command_with("experiment=image_classification/longer")
    shown = forked.run([sys.executable, *shlex.split(command)[1:], "--cfg", "job"])
    assert shown.returncode == 0, shown.stderr
    config = yaml.safe_load(shown.stdout)
    assert (config["scale"], config["train"]["steps"], config["run"]["gpus"]) == ("gpu", 2500, 0.125)
    assert config["model"]["model_name"] == "vit_small_patch16_224"

    small = ["data=mnist5k", "model=convnet_tiny", "flatness.samples=100", "train.batch_size=32", "train.steps=4"]
    small += ["train.micro_batch_size=16", "schedule.warmup_steps=1", "train.log_every=2", "train.evaluate_every=2"]
    run(command, folder, *digits, *small)
    assert "test/top1" in finished(folder)


def pictures() -> dict[str, list[tuple[str, bytes, str]]]:
    """File name, image bytes and class of each row, in several sizes, by split."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(20, 60, (180, 2)).tolist()
    rows = [
        (f"{number}.png", encoded(photo(number, (width, height)), "PNG"), ["cat", "dog", "emu"][number % 3])
        for number, (width, height) in enumerate(sizes)
    ]
    return {"train": rows[:150], "test": rows[150:]}


def class_folders(source: Path) -> None:
    for split, rows in pictures().items():
        for name, content, label in rows:
            (source / split / label).mkdir(parents=True, exist_ok=True)
            (source / split / label / name).write_bytes(content)


def pictures_and_a_table(source: Path) -> None:
    for split, rows in pictures().items():
        (source / split).mkdir(parents=True)
        for name, content, _ in rows:
            (source / split / name).write_bytes(content)
        write_csv(source / split / "metadata.csv", {"file_name": [r[0] for r in rows], "label": [r[2] for r in rows]})


def hubs_pictures(source: Path) -> None:
    for split, rows in pictures().items():
        images = [{"bytes": content, "path": name} for name, content, _ in rows]
        write_parquet(source / f"data/{split}-00000-of-00001.parquet", {"image": images, "label": [r[2] for r in rows]})


def write_csv(path: Path, columns: dict[str, list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns.keys(), *zip(*columns.values(), strict=True)])


def write_parquet(path: Path, columns: Mapping[str, Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path)


def write_json_lines(path: Path, columns: dict[str, list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_image_listing_trains_on_class_folders(folder: Path) -> None:
    class_folders(folder / "data/images")
    more = ["flatness.draws=0", "flatness.samples=1000"]  # more than there are
    run(command_with("data=my_images"), folder, *more)
    assert "test/top1" in finished(folder)


@pytest.mark.parametrize("write", [class_folders, pictures_and_a_table, hubs_pictures])
def test_every_image_layout_gives_the_same_labels(folder: Path, write: Callable[[Path], None]) -> None:
    write(folder / "data/images")
    unset: dict[str, Any] = {"train_images": None, "v2_sources": [], "real_sources": [], "initial_run": None}
    opened = open_image_set(settings(folder, "my_images") | unset, folder)
    for split, rows in ((opened.train, pictures()["train"]), (opened.test, pictures()["test"])):
        expected = {content: ["cat", "dog", "emu"].index(label) for _, content, label in rows}
        assert {split.encoded(row): int(split.labels[row]) for row in range(len(split))} == expected


def settings(folder: Path, name: str) -> dict[str, Any]:
    """A data set from a listing, as a reader of the page would open it."""
    read: dict[str, Any] = yaml.safe_load((folder / f"my_conf/data/{name}.yaml").read_text())
    return read


def document(number: int) -> str:
    return f"Document {number}: " + " ".join(f"word{number * place % 97}" for place in range(1, 120))


@pytest.mark.parametrize("split", [["."], ["train"] * 30 + ["validation"] * 5 + ["test"] * 5])
def test_the_text_listing_trains_and_changed_texts_are_another_run(folder: Path, split: list[str]) -> None:
    texts, more = folder / "data/texts", ["data.held_out_share=null"] if len(split) > 1 else []
    for number in range(40):
        path = texts / split[number % len(split)] / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document(number))
    run(command_with("data=my_texts"), folder, *more)
    assert finished(folder)["test/bits_per_byte"] > 0
    (texts / split[0] / "0.txt").write_text("Another text altogether, which is new. " * 20)
    run(command_with("data=my_texts"), folder, *more)
    assert len([*folder.glob("runs/*/*/status.json")]) == 2, "texts that have changed are another run"


def test_the_text_table_listing_trains(folder: Path) -> None:
    source, texts = folder / "data/text_tables", [document(number) for number in range(34)]
    write_parquet(source / "data/train-00000-of-00001.parquet", {"text": texts[:30]})
    write_parquet(source / "data/validation-00000-of-00001.parquet", {"text": texts[30:32]})
    write_json_lines(source / "test.jsonl", {"text": texts[32:]})
    run(command_with("data=my_text_tables"), folder)
    assert finished(folder)["test/bits_per_byte"] > 0


def reviews(labels: list[str]) -> dict[str, dict[str, list[str]]]:
    texts = [f"Review {number} says it is {'good' if number % 2 else 'bad'}." for number in range(90)]
    parts = {"train": slice(70), "test": slice(70, 90)}
    return {split: {"text": texts[own], "label": (labels * 45)[own]} for split, own in parts.items()}


TABLES: dict[str, Callable[[Path, str, dict[str, list[str]]], None]] = {
    "csv": lambda source, split, columns: write_csv(source / f"{split}.csv", columns),
    "json lines": lambda source, split, columns: write_json_lines(source / f"{split}.jsonl", columns),
    "parquet": lambda source, split, columns: write_parquet(source / f"{split}.parquet", columns),
    "hub": lambda source, split, columns: write_parquet(source / f"data/{split}-00000-of-00001.parquet", columns),
}


def test_the_labelled_text_listing_trains(folder: Path) -> None:
    for split, columns in reviews(["0", "1"]).items():
        TABLES["csv"](folder / "data/reviews", split, columns)
    run(command_with("data=my_reviews"), folder)
    assert "test/accuracy" in finished(folder)


@pytest.mark.parametrize("kind", ["local", "hub"])
@pytest.mark.parametrize("layout", TABLES)
def test_every_layout_of_labelled_texts_gives_the_same_labels(
    folder: Path, layout: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = reviews(["bad", "good"])
    for split, columns in rows.items():
        TABLES[layout](folder / "data/reviews", split, columns)
    data = settings(folder, "my_reviews")
    (source,) = data["sources"]
    if kind == "hub":
        source |= {"kind": "hub", "repo": source.pop("path"), "revision": "main"}
    splits = text_splits(prepare(data, folder / "cache").load())
    assert "not read" not in caplog.text, "every file is read"
    label_of = {
        text: int(label == "good") for columns in rows.values() for text, label in zip(*columns.values(), strict=True)
    }
    for texts in splits.values():
        assert texts.labels.tolist() == [label_of[text] for text in texts.texts]
    assert sorted(splits["test"].texts) == sorted(rows["test"]["text"])
    assert sorted([*splits["train"].texts, *splits["val"].texts]) == sorted(rows["train"]["text"])
    assert 2 < len(splits["val"].texts) < 20, "15 % of 70"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,class\nx,1\n", r"a\.csv has no column label, only text, class: set options\.label of its sou"),
        ("a.csv", 'text,label\nx,1\n" ",1\n', r"a\.csv has no text in row 1: it is ' '"),
        ("a.csv", "text,label\nx,1\ny\n", r"a\.csv has 1 cells in row 1, but 2 columns"),
        ("a.csv", "text,label\nx,1\ny,\n", r"split train has the label '' in row 1"),
        ("a.jsonl", '{"text": "x", "label": 0}\n["y", 1]\n', r"a\.jsonl has no JSON object in line 2, but \['y', 1\]"),
        ("a.jsonl", '{"text": "x", "label": 0}\n{"label": 1}\n', r"a\.jsonl has no text in row 1: it is None"),
        ("a.jsonl", '{"text": "x"', r"a\.jsonl has invalid JSON in line 1"),
    ],
)
def test_a_malformed_table_is_refused_by_file_and_row(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        labelled_tables(tmp_path)


def test_an_undeclared_data_key_is_refused_with_the_remedy(folder: Path) -> None:
    config = folder / "my_package/my_task/conf/my_task.yaml"
    config.write_text(config.read_text().replace("sources: []}", "sources: [], bias: 3}"))
    result = forked.run(at_smoke(command_with("experiments my_package.my_task", "optimizer=lion"), folder))
    assert result.returncode == 2
    assert "my_task.yaml sets data.bias, which SineData does not declare: correct its name" in result.stderr
    assert "declare it in a subclass" in result.stderr


def test_the_task_listing_trains(folder: Path) -> None:
    run(command_with("experiments my_package.my_task", "optimizer=lion"), folder)
    metrics = finished(folder)
    assert metrics["test/error"] == pytest.approx(metrics["test/loss"] ** 0.5)


@pytest.mark.parametrize(
    "launcher",
    [[], pytest.param(["hydra/launcher=ray_local", "+hydra.launcher.ray.init.num_cpus=2"], marks=pytest.mark.slow)],
    ids=["in one process", "on Ray"],
)
def test_a_study_of_the_task_and_optimizer_listings_runs(folder: Path, launcher: list[str]) -> None:
    command = command_with("-m hydra/sweeper=study", "my_package.my_task").replace("optimizer=lion,adamw", "")
    more = ["study=smoke", "optimizer=mine,adamw", *launcher]
    typed = [*at_smoke(command, folder, *more), "--config-dir", "my_conf"]
    # On Ray a new process, as its workers are.
    result = subprocess.run(typed, capture_output=True, text=True, check=False) if launcher else forked.run(typed)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = folder.rglob("study.json")
    assert json.loads(path.read_text())["command"].startswith("python -m experiments my_package.my_task --multirun ")
    page = (path.parent / "README.md").read_text()
    assert re.search(r"test root mean square error \(lower is better\) \|.*\| 0\.\d{3} \|", page), "as METRICS declares"


@needs_optuna
def test_optuna_finds_the_best_value_and_ranks_divergence_worst(folder: Path, digits: list[str]) -> None:
    smoke = [*digits, "study.validation_metric=val/calibrated_loss", NO_AVERAGE]
    run(command_with("-m hydra/sweeper=optuna"), folder, *smoke, "hydra/launcher=basic")
    found = yaml.safe_load((folder / "runs/.hydra/optimization_results.yaml").read_text())
    values = [status_of(path.parent)["metrics"]["val/calibrated_loss"] for path in folder.glob("runs/*/*/status.json")]
    assert (len(values), found["best_value"]) == (4, min(values))

    command = command_with("-m hydra/sweeper=optuna").replace("tag(log,interval(1e-5,1e-2))", "choice(0.001,1e30)")
    output = run(command, folder, *smoke, "hydra/launcher=basic", "hydra/sweeper/sampler=grid")
    assert "diverged" in output
    found = yaml.safe_load((folder / "runs/.hydra/optimization_results.yaml").read_text())
    assert found["best_params"] == {"optimizer.lr": 0.001}
