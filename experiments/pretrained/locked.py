"""Networks, or parts of them, that training leaves as they are, and their outputs, which are computed once."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import Dataset

from experiments.harness.arithmetic import describe_arithmetic
from experiments.harness.batches import ShieldedLoader, one_thread
from experiments.harness.stored_rows import stored_rows
from experiments.pretrained.weights import Weights, load_weights

LOCKED_BATCH_SIZE = 64
"""Inputs in one forward pass of a locked part; only its speed depends on it, up to rounding."""

Inputs = Callable[[np.ndarray], Tensor]
"""Numbers, int64 [N], to what a network takes: [N, ...]"""


@dataclass(frozen=True)
class Rows:
    """Inputs that are rows of an array."""

    array: np.ndarray

    def __call__(self, numbers: np.ndarray) -> Tensor:
        """Those rows."""
        return torch.from_numpy(self.array[numbers])


@dataclass(frozen=True)
class HalfRows:
    """Inputs that are rows of an array of bfloat16, stored as int16, which NumPy knows: float32."""

    array: np.ndarray

    def __call__(self, numbers: np.ndarray) -> Tensor:
        """Those rows."""
        return torch.from_numpy(self.array[numbers]).view(torch.bfloat16).float()


def joined(first: Inputs, count: int, second: Inputs) -> Inputs:
    """Inputs 0 to ``count - 1`` of the first, and behind them those of the second."""

    def inputs(numbers: np.ndarray) -> Tensor:
        of_first = numbers < count
        places = np.concatenate([np.flatnonzero(of_first), np.flatnonzero(~of_first)])
        return torch.cat([first(numbers[of_first]), second(numbers[~of_first] - count)])[np.argsort(places)]

    return inputs


class Locked(nn.Module):
    """A module that training leaves as it is: no gradient, no optimizer state, always in evaluation mode."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "Locked":
        """Stay in evaluation mode: batch statistics would change, and dropout would add noise."""
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        """The module's output, without a graph."""
        with torch.no_grad():
            output: Tensor = self.module(inputs)
        return output


def build_locked(config: Any, weights: Weights) -> nn.Module:
    """What ``config`` instantiates, in evaluation mode. Without weights it is random, and the same for every run and
    seed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        locked: nn.Module = instantiate(config, _convert_="all")
    load_weights(locked, weights)
    return locked.eval()


class _Batches(Dataset[dict[str, Tensor]]):
    """Inputs of a locked part by the number of the first."""

    def __init__(self, inputs: Inputs, count: int) -> None:
        self._inputs, self._count = inputs, count

    def __getitem__(self, start: int) -> dict[str, Tensor]:
        with one_thread():
            return {"inputs": self._inputs(np.arange(start, min(start + LOCKED_BATCH_SIZE, self._count)))}


@dataclass(frozen=True)
class LockedPart:
    """A locked part of a network, and where its outputs are kept."""

    identity: str
    """tells what its outputs depend on, besides the inputs"""
    build: Callable[[], nn.Module]
    device: torch.device
    cache_dir: Path
    fingerprints: dict[str, str]
    """takes those of the outputs, by their folder in the cache"""
    bf16: bool
    """compute and keep them in bfloat16, in half the space"""
    workers: int
    """processes that make its inputs"""

    def outputs(self, inputs: Inputs, count: int, fingerprint: str) -> Inputs:
        """Its outputs for inputs 0 to ``count - 1``, float32, computed unless they are in the cache.

        ``fingerprint`` tells the inputs.
        """
        depends_on = [self.identity, count, fingerprint, describe_arithmetic(self.device)]
        stored = stored_rows(
            "locked-outputs",
            json.dumps([*depends_on, "bf16"] if self.bf16 else depends_on),
            self.cache_dir,
            "outputs",
            count,
            lambda first: self._all(inputs, count, first),
        )
        self.fingerprints[stored.directory.name] = stored.fingerprint
        rows = stored.load()["outputs"]
        return HalfRows(rows) if self.bf16 else Rows(rows)

    def _all(self, inputs: Inputs, count: int, first: int) -> Iterator[np.ndarray]:
        """Batch by batch from input ``first`` on: float32, or the bits of bfloat16 as int16."""
        module = self.build().to(self.device)
        starts = range(first, count, LOCKED_BATCH_SIZE)
        loader = ShieldedLoader(_Batches(inputs, count), starts, self.workers, pin=self.device.type == "cuda")
        console = Console(stderr=True)
        watched = track(
            loader, "features of a locked network", console=console, transient=True, disable=not console.is_terminal
        )
        for batch in watched:
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                outputs = module(batch["inputs"].to(self.device, non_blocking=True))
            if self.bf16:
                yield outputs.bfloat16().cpu().view(torch.int16).numpy()
            else:
                yield outputs.float().cpu().numpy()
