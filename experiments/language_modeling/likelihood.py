"""The negative log-likelihood of tokens under a model."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNCOUNTED = -100
"""The target of a position that does not count, PyTorch's ignore_index"""
LOGITS_IN_MEMORY = 2**27
"""In one forward pass without gradients: 512 MiB in float32. Sums depend on it only through rounding."""


def token_nats(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The negative log-likelihood float32 ``[N * T]`` for inputs and targets int64 ``[N, T]``; 0 if UNCOUNTED."""
    logits = model(inputs).logits
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=UNCOUNTED, reduction="none")


def summed_nats(
    model: nn.Module,
    read: Callable[[np.ndarray], tuple[Tensor, Tensor]],
    numbers: np.ndarray,
    texts: np.ndarray,
    context_length: int,
    vocab_size: int,
) -> dict[str, Tensor]:
    """``nats_each``, the sums over the counted tokens of each text (0 if another process has its rows), ``nats``, the
    sum over all of them, and ``count``, the number of these tokens; float64.

    ``read`` returns inputs and targets of the rows ``numbers``, at most ``context_length`` long; ``texts`` int64 ``[all
    rows]`` is the text that each row belongs to.
    """
    device = next(model.parameters()).device
    sums = {name: torch.zeros((), dtype=torch.float64, device=device) for name in ("nats", "count")}
    sums["nats_each"] = torch.zeros(int(texts.max()) + 1, dtype=torch.float64, device=device)
    rows = max(1, LOGITS_IN_MEMORY // (context_length * vocab_size))
    for start in range(0, len(numbers), rows):
        batch_numbers = numbers[start : start + rows]
        inputs, targets = (tensor.to(device) for tensor in read(batch_numbers))
        nats = token_nats(model, inputs, targets)
        sums["nats"] += nats.sum(dtype=torch.float64)
        of_rows = nats.view(len(batch_numbers), -1).sum(1, dtype=torch.float64)
        sums["nats_each"].index_add_(0, torch.from_numpy(texts[batch_numbers]).to(device), of_rows)
        sums["count"] += (targets != UNCOUNTED).sum()
    return sums
