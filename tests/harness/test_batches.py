import itertools
import multiprocessing
import shutil
import sys
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from experiments.harness.batches import MicroBatches, MicroBatchKeys, ShieldedLoader, _epoch_order, sample_indices
from experiments.harness.config import TrainConfig
from experiments.harness.errors import ConfigError
from tests.conftest import MakeConfig, built

TRAIN = TrainConfig(steps=9, batch_size=32, micro_batch_size=16)


def test_every_epoch_visits_each_sample_once_in_a_new_order() -> None:
    epochs = sample_indices(10, seed=3, first=0, count=40).reshape(4, 10)
    assert (np.sort(epochs) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize(("first", "count"), [(0, 3), (7, 6), (25, 31), (99, 1)])
def test_the_sample_order_does_not_depend_on_where_reading_starts(first: int, count: int) -> None:
    whole = sample_indices(10, seed=3, first=0, count=100)
    assert (sample_indices(10, seed=3, first=first, count=count) == whole[first : first + count]).all()


def test_different_seeds_give_different_sample_orders() -> None:
    assert (sample_indices(100, 0, 0, 100) != sample_indices(100, 1, 0, 100)).any()


@pytest.fixture
def dataset(make_config: MakeConfig) -> MicroBatches:
    task = built(make_config("data.flip=true"))
    return MicroBatches(task.batch, task.num_train, seed=5, train=TRAIN)


def batches(
    dataset: MicroBatches, steps: range = range(TRAIN.steps), share: range = range(2), workers: int = 0
) -> list[dict[str, Any]]:
    return list(ShieldedLoader(dataset, MicroBatchKeys(dataset, steps, share), workers, pin=False))


def assert_same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_does_not_depend_on_the_number_of_threads(workers: int) -> None:
    """The contrast of a large image depends on a mean, whose last bits depend on the number of threads."""

    def mean(indices: np.ndarray, seeds: list[int]) -> dict[str, Any]:
        values = torch.rand(10**6, generator=torch.Generator().manual_seed(0))
        return {"mean": values.mean(), "threads": torch.get_num_threads()}

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = mean(np.arange(4), [0] * 4)
        torch.set_num_threads(2)
        found = batches(MicroBatches(mean, 100, seed=0, train=TRAIN), workers=workers)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert found == [expected] * 18


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_resumed_run_sees_the_same_remaining_batches(dataset: MicroBatches, workers: int) -> None:
    torch.rand(17)  # earlier draws do not matter
    assert_same(batches(dataset, range(4, TRAIN.steps), workers=workers), batches(dataset)[8:])


def test_processes_split_the_micro_batches_of_a_single_process(dataset: MicroBatches) -> None:
    alone = batches(dataset)
    assert_same(batches(dataset, share=range(0, 2, 2)), alone[0::2])
    assert_same(batches(dataset, share=range(1, 2, 2)), alone[1::2])


def test_augmentation_differs_between_visits_of_a_sample(dataset: MicroBatches) -> None:
    task_batch = dataset.make_batch
    first, second = (task_batch(np.array([7] * 8), [visit * 100 + i for i in range(8)])["images"] for visit in (1, 2))
    assert not torch.equal(first, second)


def test_micro_batch_keys_are_lazy(dataset: MicroBatches) -> None:
    keys = MicroBatchKeys(dataset, range(3, 10**9), range(1, 8, 4))
    assert len(keys) == 2 * (10**9 - 3)
    assert [(key.step, key.g) for key in itertools.islice(keys, 3)] == [(3, 1), (3, 5), (4, 1)]


def test_workers_do_not_shuffle_the_samples_themselves() -> None:
    """Each would hold the order of an epoch, 112 MB for ImageNet-21k, and take 0.7 s to make it."""

    def shuffled(indices: np.ndarray, seeds: list[int]) -> dict[str, Any]:
        return {"epochs": _epoch_order.cache_info().misses}

    found = batches(MicroBatches(shuffled, 40, seed=0, train=TRAIN), workers=2)
    assert len({batch["epochs"] for batch in found}) == 1, "made since the workers were forked"


class Unsendable:
    def __reduce__(self) -> Any:
        raise OSError("no space left in shared memory")


class OneBatch(Dataset[dict[str, Any]]):
    def __init__(self, batch: dict[str, Any]) -> None:
        self.batch = batch

    def __getitem__(self, key: int) -> dict[str, Any]:
        return self.batch


def test_a_worker_that_cannot_send_a_batch_ends_the_run_instead_of_hanging() -> None:
    loader = ShieldedLoader(OneBatch({"images": Unsendable()}), range(4), num_workers=1, pin=False)
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        next(iter(loader))


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator")
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_for_a_gpu_have_no_gaps_and_keep_their_memory_layout(workers: int) -> None:
    whole = torch.arange(48).view(2, 3, 2, 4)
    batch = {
        "gaps": whole[..., :3],
        "same": whole[:1].expand(5, -1, -1, -1),
        "images": whole.movedim(-1, 1),
        "damaged": 0,
    }
    batch["numpy"] = np.arange(3)
    found = next(iter(ShieldedLoader(OneBatch(batch), range(4), workers, pin=True)))
    assert isinstance(found["numpy"], torch.Tensor)
    assert all(torch.equal(torch.as_tensor(value), torch.as_tensor(batch[name])) for name, value in found.items())
    assert found["gaps"].is_contiguous()
    assert found["images"].stride() == whole.movedim(-1, 1).stride()
    for name in ("gaps", "same", "images"):
        assert torch.ops.aten.is_non_overlapping_and_dense(found[name])


def test_workers_end_with_the_reading_even_if_it_fails_while_the_iterator_is_in_use() -> None:
    loader = ShieldedLoader(OneBatch({}), range(4), num_workers=2, pin=False)
    with suppress(KeyError), loader.reading() as batches:
        assert len(multiprocessing.active_children()) == 2
        raise KeyError(next(batches))
    assert not multiprocessing.active_children()


def test_data_workers_are_refused_where_they_cannot_be_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigError, match=r"run.num_workers=2 needs Linux.*set run.num_workers=0"):
        ShieldedLoader(OneBatch({}), range(4), num_workers=2, pin=False)


def test_batches_too_large_for_shared_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = ShieldedLoader(OneBatch({"images": torch.zeros(1_500_000)}), range(4), num_workers=2, pin=False)
    assert next(iter(loader))["images"].shape == (1_500_000,)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=8_000_000))
    with pytest.raises(ConfigError, match=r"run\.num_workers=2 may prefetch 24 MB of batches, but .* has 8 MB free"):
        iter(loader)
