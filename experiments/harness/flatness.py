"""Flatness as the paper measures it: the training loss around the final weights, E[L(w + noise)].

The paper reports this mean over 1000 draws of Gaussian noise but not the size of the noise. The size here is our own
choice, so our values compare optimizers with each other, not with the paper's numbers.

- The noise on a weight is ``flatness.std`` times the root mean square of its tensor. In front of a normalization layer,
  a network computes the same function whatever the scale of a kernel, and optimizers end with kernels of different
  scales (Lion's are 2 to 5 times AdamW's in the inner layers of the mini experiment). Noise of a fixed absolute size
  would measure that scale, not the shape of the loss around the weights (Dinh et al., "Sharp minima can generalize for
  deep nets", 2017; Li et al., "Visualizing the loss landscape", 2018).
- Noise is added to matrices and kernels, the parameters that weight decay applies to, but not to biases, norms and
  embeddings. Li et al. leave out biases and norms too: many biases are near 0, where relative noise vanishes.
- Batch norm keeps the running statistics of the trained weights: they are part of the trained function.
- Draw i of a seed is the same noise for every optimizer, so differences are paired.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from experiments.harness.config import Config
from experiments.harness.errors import ConfigError
from experiments.harness.optimizer import decay_groups
from experiments.harness.seeds import derive_seed
from experiments.harness.task import Evaluator, Metrics, Sums


def flatness(cfg: Config, num_train: int, train_sums: Sums, metrics: Metrics) -> dict[str, Evaluator]:
    """The evaluator "flatness", or none with ``flatness.draws=0``.

    Its metrics are ``train_loss``, the loss at the final weights, and ``perturbed_loss``, its mean over the draws.
    ``train_sums`` are over ``flatness.samples`` of the ``num_train`` training samples, without augmentation and the
    same for every seed; ``metrics`` gives their ``loss``. Raises ConfigError for more samples than there are.
    """
    wanted = cfg.flatness
    if not wanted.draws:
        return {}
    if wanted.samples > num_train:
        raise ConfigError(
            f"flatness.samples={wanted.samples}, but there are {num_train} to train on: set it to at most "
            f"{num_train}, or set flatness.draws=0, which leaves the measurement out."
        )

    def sums(model: nn.Module, process: int, num_processes: int) -> dict[str, Tensor]:
        found = [train_sums(model, process, num_processes)]
        for draw in range(wanted.draws):
            with noise_on_weights(model, wanted.std, derive_seed(cfg.seed, "flatness", draw)):
                found.append(train_sums(model, process, num_processes))
        return {f"{number}/{name}": value for number, one in enumerate(found) for name, value in one.items()}

    def losses(sums: dict[str, Any]) -> dict[str, float]:
        by_draw: list[dict[str, Any]] = [{} for _ in range(wanted.draws + 1)]
        for key, value in sums.items():
            number, _, name = key.partition("/")
            by_draw[int(number)][name] = value
        at_weights, *perturbed = [metrics(one)["loss"] for one in by_draw]
        if not all(map(math.isfinite, perturbed)):
            raise ConfigError(f"flatness.std={wanted.std} makes the training loss overflow: choose a smaller one.")
        return {"train_loss": at_weights, "perturbed_loss": fmean(perturbed)}

    return {"flatness": Evaluator("end", sums, losses)}


@contextmanager
def noise_on_weights(model: nn.Module, std: float, seed: int) -> Iterator[None]:
    """Add Gaussian noise, ``std`` times the root mean square of each tensor, and restore the weights bit for bit at the
    end. Every process of a distributed run draws the same noise.
    """
    weights = [model.get_parameter(name) for name in decay_groups(model)["decay"]]
    assert weights, "a model without matrices has nothing to perturb"
    originals = [weight.detach().clone() for weight in weights]
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same noise whatever the device
    try:
        with torch.no_grad():
            for weight in weights:
                noise = torch.randn(weight.shape, generator=generator).to(weight)
                weight.add_(noise * (std * weight.square().mean().sqrt()))
        yield
    finally:
        with torch.no_grad():
            for weight, original in zip(weights, originals, strict=True):
                weight.copy_(original)
