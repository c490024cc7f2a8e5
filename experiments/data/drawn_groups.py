"""Another choice of what is held out for validation, which keeps together what belongs together."""

import numpy as np

from experiments.harness.errors import DataError
from experiments.harness.seeds import derive_seed


def drawn_groups(train: np.ndarray, val: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a new train and a new val, int64 each, counted over the old train and the old val behind it.

    ``train`` and ``val`` are the numbers of their rows' groups, int64 [rows]; as many groups as were in val are drawn
    by ``seed`` out of all. DataError where that leaves none to train on.
    """
    group = np.concatenate([train, val])
    drawn = np.random.default_rng(derive_seed("split", seed)).permutation(np.unique(group))
    if len(drawn) == len(np.unique(val)):
        raise DataError(
            f"data.split_seed={seed} draws whole groups, but the validation split has rows of all {len(drawn)} groups: "
            "set it to null."
        )
    held_out = np.isin(group, drawn[: len(np.unique(val))])
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
