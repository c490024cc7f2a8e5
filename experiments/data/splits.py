"""Draw rows of a data set: samples, and which training rows are held out for validation."""

import numpy as np

from experiments.harness.errors import ConfigError, DataError
from experiments.harness.seeds import derive_seed


def sample(rows: int, size: int) -> np.ndarray:
    """Indices of ``size`` of ``rows`` rows, int64 [size], in a random order that is the same everywhere."""
    return np.random.default_rng(derive_seed("sample", rows)).permutation(rows)[:size]


def shuffled(rows: int, seed: int | None) -> np.ndarray:
    """The order of training rows from whose end the validation split is taken, int64 [rows]; ``seed`` redraws it."""
    name = ("validation split",) if seed is None else ("validation split", seed)
    return np.random.default_rng(derive_seed(*name)).permutation(rows)


def num_kept(training_images: int, val_size: int, key: str) -> int:
    """How many training images are left without ``val_size``. ConfigError, naming ``key``, if all or none are."""
    if not 0 < val_size < training_images:
        raise ConfigError(f"{key}={val_size} must be above 0 and leave some of the {training_images} training images.")
    return training_images - val_size


def drawn_groups(train: np.ndarray, val: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a new train and a new val split, int64 each, as indices into the old train followed by the old val.

    ``train`` and ``val`` are the group numbers of their rows, int64 [rows]. Groups are moved to val in a random order
    given by ``seed``, skipping those that no longer fit, so val gets about as many rows as before, and never more.
    Raises DataError if no group fits.
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
            f"data.split_seed={seed} draws whole groups, but none of the {len(names)} is small enough for the "
            f"validation split of {len(val)} rows: set it to null."
        )
    held_out = np.isin(group, taken)
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
