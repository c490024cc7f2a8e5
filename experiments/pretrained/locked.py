"""Frozen networks or parts of networks, and their outputs, which are computed only once."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.utils.data import Dataset

from experiments.harness.accelerator import device_of
from experiments.harness.arithmetic import describe_arithmetic
from experiments.harness.batches import ShieldedLoader, one_thread
from experiments.harness.config import Config
from experiments.harness.progress_bar import track
from experiments.harness.stored_rows import stored_rows
from experiments.pretrained.weights import Weights, load_weights

LOCKED_BATCH_SIZE = 64
"""Inputs per forward pass of a frozen part; up to rounding, it only affects speed."""

Inputs = Callable[[np.ndarray], Tensor]
"""Maps indices, int64 [N], to a network's inputs, [N, ...]."""


@dataclass(frozen=True)
class Rows:
    """The rows of an array as inputs."""

    array: np.ndarray
    bf16: bool = False
    """whether its int16 are the bits of bfloat16, which NumPy does not have; the inputs are float32"""

    def __call__(self, numbers: np.ndarray) -> Tensor:
        """The rows with these indices."""
        rows = torch.from_numpy(self.array[numbers])
        return rows.view(torch.bfloat16).float() if self.bf16 else rows


def joined(first: Inputs, count: int, second: Inputs) -> Inputs:
    """Inputs 0 to ``count - 1`` of ``first``, followed by those of ``second``."""

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
    """Instantiate ``config`` in eval mode. Without weights it is random, but identical for every run and seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        locked: nn.Module = instantiate(config, _convert_="all")
    load_weights(locked, weights)
    return locked.eval()


class _Batches(Dataset[dict[str, Tensor]]):
    """Input batches of a frozen part, by the index of their first input."""

    def __init__(self, inputs: Inputs, count: int) -> None:
        self._inputs, self._count = inputs, count

    def __getitem__(self, start: int) -> dict[str, Tensor]:
        with one_thread():
            return {"inputs": self._inputs(np.arange(start, min(start + LOCKED_BATCH_SIZE, self._count)))}


@dataclass(frozen=True)
class LockedPart:
    """A frozen part of a network, and where its outputs are cached."""

    identity: str
    """identifies everything that its outputs depend on besides the inputs"""
    build: Callable[[], nn.Module]
    device: torch.device
    cache_dir: Path
    fingerprints: dict[str, str]
    """receives the fingerprints of the outputs, by their folder in the cache"""
    bf16: bool
    """whether to compute and store the outputs in bfloat16, which halves the space"""
    workers: int
    """number of processes that prepare the inputs"""

    def outputs(self, inputs: Inputs, count: int, fingerprint: str) -> Inputs:
        """The outputs for inputs 0 to ``count - 1``, which ``fingerprint`` identifies, as float32; cached."""
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
        return Rows(stored.load()["outputs"], self.bf16)

    def _all(self, inputs: Inputs, count: int, first: int) -> Iterator[np.ndarray]:
        """Batches of outputs, starting at input ``first``: float32, or the bits of bfloat16 as int16."""
        module = self.build().to(self.device)
        starts = range(first, count, LOCKED_BATCH_SIZE)
        loader = ShieldedLoader(_Batches(inputs, count), starts, self.workers, pin=self.device.type == "cuda")
        with loader.reading() as batches:
            for batch in track(batches, "features of a frozen network"):
                with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                    outputs = module(batch["inputs"].to(self.device, non_blocking=True))
                if self.bf16:
                    yield outputs.bfloat16().cpu().view(torch.int16).numpy()
                else:
                    yield outputs.float().cpu().numpy()


def locked_part(
    cfg: Config, identity: str, build: Callable[[], nn.Module], cache_dir: Path, fingerprints: dict[str, str]
) -> LockedPart:
    """A frozen part of a run's network, on the run's device and in its precision."""
    bf16 = cfg.train.precision == "bf16"
    return LockedPart(identity, build, device_of(cfg.run), cache_dir, fingerprints, bf16, cfg.run.num_workers)
