"""Compose new splits from the documents of existing ones."""

from dataclasses import replace

import numpy as np

from experiments.harness.seeds import derive_seed
from experiments.language_modeling.token_files import TokenSet, TokenSplit


def chosen(split: TokenSplit, numbers: np.ndarray) -> TokenSplit:
    """The documents ``numbers`` (int64 [documents]) of a split, in that order, in memory."""
    documents = [split.tokens[split.starts[number] : split.starts[number + 1]] for number in numbers]
    return TokenSplit(
        tokens=np.concatenate(documents),
        starts=np.cumsum([0, *map(len, documents)], dtype=np.int64),
        num_bytes=split.num_bytes[numbers],
        num_words=split.num_words[numbers],
    )


def redrawn(tokens: TokenSet, seed: int) -> TokenSet:
    """The set with equally many other validation documents, drawn by ``seed`` from train and val together.

    The test split stays the same, and so does the tokenizer, which may have been trained on what is now validation.
    Documents with the same tokens as a validation document are removed from train.
    """
    train, val = tokens.splits["train"], tokens.splits["val"]
    pool = TokenSplit(
        tokens=np.concatenate([train.tokens, val.tokens]),
        starts=np.concatenate([train.starts, train.starts[-1] + val.starts[1:]]),
        num_bytes=np.concatenate([train.num_bytes, val.num_bytes]),
        num_words=np.concatenate([train.num_words, val.num_words]),
    )
    documents = [document.tobytes() for document in np.split(pool.tokens, pool.starts[1:-1])]
    order = np.random.default_rng(derive_seed("split", seed)).permutation(len(documents))
    held_out, rest = np.sort(order[: len(val.num_bytes)]), np.sort(order[len(val.num_bytes) :])
    texts = {documents[number] for number in held_out}
    kept = np.array([number for number in rest if documents[number] not in texts])
    return replace(tokens, splits={**tokens.splits, "train": chosen(pool, kept), "val": chosen(pool, held_out)})
