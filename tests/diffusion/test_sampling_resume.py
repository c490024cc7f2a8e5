"""An evaluation that is killed while sampling loses at most one batch and ends with the same bits."""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.diffusion.sample_metrics import SampleCache
from experiments.harness.entry import execute
from experiments.harness.run import locate
from tests import forked
from tests.conftest import Killed, MakeConfig, executed, rows

BATCHES = ["sampling.num_samples=16", "sampling.batch_size=2", "sampling.shown=2", "sampling.steps=2"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The runs folder of the undisturbed run, which the first test that needs it executes."""
    return f"run.runs_dir={tmp_path_factory.mktemp('undisturbed')}"


# The second evaluation begins with the ninth batch.
@pytest.mark.parametrize("killed_at", [pytest.param(1, marks=pytest.mark.slow), 4, 12])
def test_resumed_sampling_regenerates_only_the_interrupted_batch(
    make_diffusion: MakeConfig, undisturbed: str, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    whole = make_diffusion(*BATCHES, undisturbed)
    execute(whole)
    cfg = make_diffusion(*BATCHES)
    original = SampleCache.save
    numbers: list[int] = []

    def counting(self: SampleCache, number: int, arrays: dict[str, np.ndarray]) -> None:
        numbers.append(number)
        if len(numbers) == killed_at:
            raise Killed
        original(self, number, arrays)

    monkeypatch.setattr(SampleCache, "save", counting)
    with suppress(Killed):
        execute(cfg)
    assert len(numbers) == killed_at
    ours, theirs = executed(cfg), locate(whole).directory
    assert rows(ours) == rows(theirs)
    assert (ours / "samples.png").read_bytes() == (theirs / "samples.png").read_bytes()
    assert numbers.count((killed_at - 1) % 8) == 3
    assert len(numbers) == 17
    assert not list(Path(cfg.run.cache_dir).glob("diffusion-samples-*"))


def test_a_run_killed_by_sigkill_while_sampling_resumes_bit_identically(
    make_diffusion: MakeConfig, smoke: list[str], clouds: list[str], tmp_path: Path
) -> None:
    slow = ["sampling.num_samples=8", "sampling.batch_size=2", "sampling.shown=2", "sampling.steps=10"]
    slow += ["train.sample_every=6", "run.checkpoint_every=4"]
    undisturbed = make_diffusion(*slow, f"run.runs_dir={tmp_path}/undisturbed")
    execute(undisturbed)
    cfg = make_diffusion(*slow)
    command = [sys.executable, "-m", "experiments.diffusion", *smoke, *clouds, *slow]
    process = forked.Started(command)
    cache = Path(cfg.run.cache_dir)
    while not list(cache.glob("diffusion-samples-*/batch-000002.npz")):
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.result()
    assert list(cache.glob("diffusion-samples-*/batch-000002.npz")), "killed after the evaluation instead of within"
    ours, theirs = executed(cfg), locate(undisturbed).directory
    assert rows(ours) == rows(theirs)
    assert (ours / "samples.png").read_bytes() == (theirs / "samples.png").read_bytes()


def test_a_truncated_sample_batch_is_not_loaded(tmp_path: Path) -> None:
    finished = SampleCache(tmp_path / "batches")
    arrays: dict[str, Any] = {"features": np.arange(12.0).reshape(3, 4), "shown": np.zeros((1, 2, 2, 3), np.uint8)}
    finished.save(5, arrays)
    loaded = finished.load(5)
    assert loaded is not None
    assert all(np.array_equal(loaded[name], value) for name, value in arrays.items())
    (path,) = (tmp_path / "batches").iterdir()
    path.write_bytes(path.read_bytes()[:-40])
    assert finished.load(5) is None
    assert finished.load(6) is None
    finished.remove()
    assert not (tmp_path / "batches").exists()
