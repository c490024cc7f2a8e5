"""Frozen networks or parts of networks, and their outputs, which are computed once."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from experiments.harness.arithmetic import describe_arithmetic
from experiments.harness.prepared_data import cached_arrays
from experiments.pretrained.weights import Weights, load_weights

LOCKED_BATCH_SIZE = 64
"""Inputs per forward pass of a frozen part; up to rounding, it only affects speed."""

Inputs = Callable[[np.ndarray], Tensor]
"""Indices, int64 [N], to a network's inputs: [N, ...]"""


def rows_of(array: np.ndarray) -> Inputs:
    """The rows of an array as inputs."""
    return lambda numbers: torch.from_numpy(array[numbers])


def joined(first: Inputs, count: int, second: Inputs) -> Inputs:
    """Inputs 0 to ``count - 1`` of the first, followed by those of the second."""

    def inputs(numbers: np.ndarray) -> Tensor:
        of_first = numbers < count
        places = np.concatenate([np.flatnonzero(of_first), np.flatnonzero(~of_first)])
        return torch.cat([first(numbers[of_first]), second(numbers[~of_first] - count)])[np.argsort(places)]

    return inputs


class Locked(nn.Module):
    """A frozen module: no gradient, no optimizer state, always in eval mode."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "Locked":
        """Stay in eval mode; otherwise batch statistics would change, and dropout would add noise."""
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        """The module's output, without an autograd graph."""
        with torch.no_grad():
            output: Tensor = self.module(inputs)
        return output


def build_locked(config: Any, weights: Weights) -> nn.Module:
    """Instantiate ``config`` in eval mode. Without weights it is random, but the same for every run and seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        locked: nn.Module = instantiate(config, _convert_="all")
    load_weights(locked, weights)
    return locked.eval()


@dataclass(frozen=True)
class LockedPart:
    """A frozen part of a network, and where its outputs are cached."""

    identity: str
    """identifies everything its outputs depend on besides the inputs"""
    build: Callable[[], nn.Module]
    device: torch.device
    cache_dir: Path
    fingerprints: dict[str, str]
    """receives the fingerprints of the outputs, by their folder in the cache"""

    def outputs(self, inputs: Inputs, count: int, fingerprint: str) -> Inputs:
        """The outputs for inputs 0 to ``count - 1``, float32, computed unless they are in the cache.

        ``fingerprint`` identifies the inputs.
        """
        identity = json.dumps([self.identity, count, fingerprint, describe_arithmetic(self.device)])
        stored = cached_arrays(
            "locked-outputs", identity, self.cache_dir, lambda: {"outputs": self._all(inputs, count)}
        )
        self.fingerprints[stored.directory.name] = stored.fingerprint
        return rows_of(stored.load()["outputs"])

    def _all(self, inputs: Inputs, count: int) -> np.ndarray:
        module = self.build().to(self.device)
        outputs = []
        with torch.no_grad():
            for start in range(0, count, LOCKED_BATCH_SIZE):
                batch = inputs(np.arange(start, min(start + LOCKED_BATCH_SIZE, count)))
                outputs.append(module(batch.to(self.device)).float().cpu().numpy())
        return np.concatenate(outputs)
