"""Splits made of some documents of others."""

from dataclasses import replace

import numpy as np

from experiments.harness.seeds import derive_seed
from experiments.language_modeling.token_files import TokenSet, TokenSplit


def chosen(split: TokenSplit, numbers: np.ndarray) -> TokenSplit:
    """The documents ``numbers`` (int64 [documents]) of a split, in that order and in memory."""
    documents = [split.tokens[split.starts[number] : split.starts[number + 1]] for number in numbers]
    return TokenSplit(
        tokens=np.concatenate(documents),
        starts=np.cumsum([0, *map(len, documents)], dtype=np.int64),
        num_bytes=split.num_bytes[numbers],
        num_words=split.num_words[numbers],
    )


def redrawn(tokens: TokenSet, seed: int) -> TokenSet:
    """The set with other documents for validation, as many as before: drawn by ``seed`` out of train and val together.

    The test stays as it is, and so does the tokenizer, which has seen what now is validation. Documents with the very
    tokens of one that is drawn leave train.
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
