"""Forward passes without gradients."""

from collections.abc import Callable

import torch
from torch import Tensor


def in_parts(forward: Callable[..., Tensor], most: int, *inputs: Tensor) -> Tensor:
    """``forward(*inputs)``, whose first dimension is the samples'. On a CPU it takes at most ``most`` at a time: what
    layers pass on then stays in its caches, which saves two fifths of the time, and memory.

    The parts are equal, because for very few samples PyTorch uses other kernels, which round differently.
    """
    if inputs[0].device.type != "cpu":
        return forward(*inputs)
    parts = -(-len(inputs[0]) // most)
    return torch.cat([forward(*part) for part in zip(*(each.tensor_split(parts) for each in inputs), strict=True)])
