"""Sample rows of a data set that may be sorted, so that the first n rows would not be representative."""

import numpy as np

from experiments.harness.seeds import derive_seed


def sample(rows: int, size: int) -> np.ndarray:
    """Indices of ``size`` of ``rows`` rows, int64 [size], in a random order that is the same everywhere."""
    return np.random.default_rng(derive_seed("sample", rows)).permutation(rows)[:size]
