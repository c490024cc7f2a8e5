"""Training batches as a function of (seed, step).

The unit of randomness is the micro-batch ``(seed, step, g)``. Nothing here keeps state, so a resumed run, any number of
loader workers or processes, and every optimizer see the same samples in the same order with the same augmentation.
"""

import multiprocessing.queues
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_convert

from experiments.harness.config import TrainConfig
from experiments.harness.errors import ConfigError
from experiments.harness.seeds import derive_seed
from experiments.harness.signals import shielded

SHARED_MEMORY = Path("/dev/shm")
"""Where PyTorch's workers put batches for the run."""
LONGEST_BATCH_S = 1800

MakeBatch = Callable[[np.ndarray, list[int]], dict[str, Any]]


@lru_cache(maxsize=2)
def _epoch_order(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(derive_seed(seed, "order", epoch)).permutation(num_samples)


def sample_indices(num_samples: int, seed: int, first: int, count: int) -> np.ndarray:
    """Samples ``first`` to ``first + count - 1`` of an endless sequence of shuffled epochs, int64 ``[count]``."""
    positions = np.arange(first, first + count)
    epochs = positions // num_samples
    orders = [
        _epoch_order(num_samples, seed, int(epoch))[positions[epochs == epoch] % num_samples]
        for epoch in np.unique(epochs)
    ]
    return np.concatenate(orders)


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread, as loader workers do: on two, a mean over a large image rounds differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class MicroBatchKey(NamedTuple):
    """Micro-batch ``g`` of ``step``, and its samples, int64 ``[micro_batch_size]``."""

    step: int
    g: int
    indices: np.ndarray


class MicroBatches(Dataset[dict[str, Any]]):
    """Micro-batches by key; ``make_batch`` gets sample indices and a seed for each."""

    def __init__(self, make_batch: MakeBatch, num_samples: int, seed: int, train: TrainConfig) -> None:
        self.make_batch, self.num_samples, self.seed, self.train = make_batch, num_samples, seed, train

    def key(self, step: int, g: int) -> MicroBatchKey:
        """The key of a micro-batch."""
        size = self.train.micro_batch_size
        first = step * self.train.batch_size + g * size
        return MicroBatchKey(step, g, sample_indices(self.num_samples, self.seed, first, size))

    def __getitem__(self, key: MicroBatchKey) -> dict[str, Any]:
        seeds = [derive_seed(self.seed, "sample", key.step, key.g, place) for place in range(len(key.indices))]
        with one_thread():
            return self.make_batch(key.indices, seeds)


class MicroBatchKeys(Sampler[MicroBatchKey]):
    """The micro-batch keys of one process, in order, generated lazily.

    A loader iterates over them in the run's process, so that its workers do not each hold the order of an epoch, 112 MB
    for the 14 million images of ImageNet-21k.
    """

    def __init__(self, dataset: MicroBatches, steps: range, micro_batches: range) -> None:
        self._dataset, self._steps, self._micro_batches = dataset, steps, micro_batches

    def __iter__(self) -> Iterator[MicroBatchKey]:
        return (self._dataset.key(step, g) for step in self._steps for g in self._micro_batches)

    def __len__(self) -> int:
        return len(self._steps) * len(self._micro_batches)


class ShieldedLoader(DataLoader[dict[str, Any]]):
    """A loader whose workers survive a signal to the process group, so that the run can still finish its step, and
    whose failures end the run: a worker that cannot deliver a batch, or takes LONGEST_BATCH_S, is a RuntimeError.
    """

    def __init__(self, dataset: Dataset[dict[str, Any]], sampler: Iterable[Any], num_workers: int, pin: bool) -> None:
        if num_workers and sys.platform != "linux":
            raise ConfigError(
                f"run.num_workers={num_workers} needs Linux, where workers are forked and so share the data. "
                "Elsewhere, set run.num_workers=0."
            )
        timeout = LONGEST_BATCH_S if num_workers else 0
        # Python 3.14's default would copy the data to each worker, by pickle, which most tasks do not allow.
        super().__init__(
            dataset, batch_size=None, sampler=sampler, num_workers=num_workers, pin_memory=pin, timeout=timeout,
            worker_init_fn=_end_with_the_queue, multiprocessing_context="fork" if num_workers else None,
            collate_fn=without_gaps if pin else None,  # type: ignore[arg-type]  # of one batch, as batch_size is None
            # By default a loader draws from the global generator, which also initializes a run's weights.
            generator=torch.Generator(),
        )  # fmt: skip

    def __iter__(self) -> Any:
        """Raises ConfigError if the prefetched batches would not fit into shared memory, which would hang the run."""
        first = next(iter(self.sampler), None)
        if self.num_workers and first is not None:
            size = sum(getattr(value, "nbytes", 0) for value in self.dataset[first].values())
            needed = self.num_workers * (self.prefetch_factor or 2) * size
            free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else needed
            if needed > free:
                raise ConfigError(
                    f"run.num_workers={self.num_workers} may prefetch {needed / 1e6:.0f} MB of batches, but "
                    f"{SHARED_MEMORY} has {free / 1e6:.0f} MB free: lower it, or enlarge {SHARED_MEMORY} (docker run "
                    "--shm-size)."
                )
        with shielded():
            return super().__iter__()

    @contextmanager
    def reading(self) -> Iterator[Iterator[dict[str, Any]]]:
        """Iterate, and end the workers with the context. They ignore signals, so a process that raises while its
        traceback still refers to the iterator would wait for them forever.
        """
        batches = iter(self)
        try:
            yield batches
        finally:
            if self.num_workers:
                batches._shutdown_workers()


def _end_with_the_queue(worker: int) -> None:
    """Make this worker exit if its queue thread fails. By default Python drops the batch, and the run waits forever."""

    def end(error: Exception, batch: Any) -> None:
        print(f"A data worker cannot deliver a batch: {error}", file=sys.stderr, flush=True)
        os._exit(1)

    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(end)  # type: ignore[attr-defined]


def without_gaps(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch, with copies of tensors that are parts of larger ones: PyTorch moves a tensor with gaps to a GPU by way
    of memory that is not pinned, for which the host may wait.
    """
    converted = default_convert(batch)  # as by default
    return {name: value.clone() if _is_part(value) else value for name, value in converted.items()}


def _is_part(value: Any) -> bool:
    return isinstance(value, Tensor) and value.nbytes != value.untyped_storage().nbytes()


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch on the device."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
