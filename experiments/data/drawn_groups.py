"""Another choice of what is held out for validation, which keeps together what belongs together."""

import numpy as np

from experiments.harness.errors import DataError
from experiments.harness.seeds import derive_seed


def drawn_groups(train: np.ndarray, val: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a new train and a new val, int64 each, counted over the old train and the old val behind it.

    ``train`` and ``val`` are the numbers of their rows' groups, int64 [rows]. Groups go to val in an order that
    ``seed`` draws, each that still fits: it gets about as many rows as before, and never more. DataError where none
    fits.
    """
    group = np.concatenate([train, val])
    names, sizes = np.unique(group, return_counts=True)
    taken, room = [], len(val)
    for number in np.random.default_rng(derive_seed("split", seed)).permutation(len(names)):
        if sizes[number] <= room:
            taken.append(names[number])
            room -= sizes[number]
    if not taken:
        raise DataError(
            f"data.split_seed={seed} draws whole groups, but none of the {len(names)} has as few rows as the "
            f"validation split, {len(val)}: set it to null."
        )
    held_out = np.isin(group, taken)
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
