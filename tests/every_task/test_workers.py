"""Data workers of every task where Python's default start method is forkserver, as it is from Python 3.14 on.

On Linux the suite's loader forks whatever the default is: workers then share the data in memory, and inherit the tasks,
most of which hold a lambda or a module, which cannot be pickled. Only batches are, on their way back.
"""

import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from experiments.harness.batches import MicroBatches
from tests.conftest import built, executed, rows
from tests.harness.test_batches import batches
from tests.lit.test_lit_run import CACHED

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, workers start as Python starts them")

CASES: dict[str, tuple[str, list[str]]] = {
    "image_classification": ("make_config", ["data.flip=true"]),
    "image_classification, files": ("compose_small", ["vit_b16_aug"]),
    "lit": ("make_lit", []),
    "language_modeling": ("make_lm", []),
    "language_modeling, masked": ("make_lm", ["experiment=language_modeling/smoke_masked"]),
    "finetuning": ("make_classification", []),
    "finetuning, glue": ("make_glue", []),
    "diffusion": ("make_diffusion", []),
    "diffusion, captions": ("make_text_to_image", []),
}


@pytest.fixture(autouse=True)
def forkserver() -> Iterator[None]:
    """As Python 3.14 starts processes."""
    method = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("forkserver", force=True)
    yield
    multiprocessing.set_start_method(method, force=True)


@pytest.mark.parametrize("case", CASES)
def test_data_workers_deliver_the_batches_of_a_run_without_workers(case: str, request: pytest.FixtureRequest) -> None:
    maker, more = CASES[case]
    cfg = request.getfixturevalue(maker)(*more)
    task = built(cfg)
    dataset = MicroBatches(task.batch, task.num_train, cfg.seed, cfg.train)
    expected = batches(dataset, range(3), share=range(1))
    found = batches(dataset, range(3), share=range(1), workers=2)
    assert len(found) == len(expected) == 3
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


RUNS: dict[str, tuple[str, list[str]]] = {
    "evaluation of files": ("compose_small", ["vit_b16_aug"]),
    "features of a frozen tower": ("make_lit", CACHED),
}


@pytest.mark.parametrize("case", RUNS)
def test_runs_whose_evaluation_or_frozen_network_uses_workers_have_the_same_rows(
    case: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    maker, more = RUNS[case]
    made = []
    for workers in (0, 2):
        folders = [f"run.runs_dir={tmp_path}/{workers}/runs", f"run.cache_dir={tmp_path}/{workers}/cache"]
        cfg = request.getfixturevalue(maker)(*more, f"run.num_workers={workers}", *folders)
        made.append(rows(executed(cfg)))
    assert made[0] == made[1] != []
