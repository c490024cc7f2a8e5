"""A sample of a set whose rows may be sorted by what they are: its first n would stand for their own kind alone."""

import numpy as np

from experiments.harness.seeds import derive_seed


def sample(rows: int, size: int) -> np.ndarray:
    """Numbers of ``size`` of ``rows`` rows, int64 [size], in a drawn order, which is the same everywhere."""
    return np.random.default_rng(derive_seed("sample", rows)).permutation(rows)[:size]
