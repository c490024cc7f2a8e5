"""Data workers of every task where Python's default start method is forkserver, as it is from Python 3.14 on.

On Linux the suite's loader forks whatever the default is: workers then share the data in memory, and inherit the tasks,
most of which hold a lambda or a module, which cannot be pickled. Only batches are, on their way back.
"""

import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.harness.batches import MicroBatches
from tests.conftest import MakeConfig, built, executed, rows
from tests.every_task.conftest import CASES
from tests.harness.test_batches import assert_same, batches
from tests.lit.test_lit_run import CACHED

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, workers start as Python starts them")


@pytest.fixture(autouse=True)
def forkserver() -> Iterator[None]:
    """As Python 3.14 starts processes."""
    method = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("forkserver", force=True)
    yield
    multiprocessing.set_start_method(method, force=True)


@pytest.mark.parametrize("case", CASES)
def test_data_workers_deliver_the_batches_of_a_run_without_workers(case: str, make: MakeConfig) -> None:
    cfg = make(*(["data.flip=true"] if case == "image_classification" else []))
    task = built(cfg)
    dataset = MicroBatches(task.batch, task.num_train, cfg.seed, cfg.train)
    expected, found = (batches(dataset, range(3), share=range(1), workers=workers) for workers in (0, 2))
    assert_same(found, expected)


@pytest.mark.parametrize(("case", "more"), [("image_classification, files", []), ("lit", CACHED)])
def test_runs_whose_evaluation_or_frozen_network_uses_workers_have_the_same_rows(
    make: MakeConfig, more: list[str], tmp_path: Path
) -> None:
    made = []
    for workers in (0, 2):
        folders = [f"run.runs_dir={tmp_path}/{workers}/runs", f"run.cache_dir={tmp_path}/{workers}/cache"]
        made.append(rows(executed(make(*more, f"run.num_workers={workers}", *folders))))
    assert made[0] == made[1] != []
