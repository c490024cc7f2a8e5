"""Tokenizers: texts to int64 ``[texts, context_length]``, padded with 0."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

TEXTS_AT_ONCE = 16_384
"""A tokenizer needs 17 KB of memory per text until the tokens are in an array."""


def clip(texts: Sequence[str], context_length: int, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """CLIP's byte-pair encoding with 49 408 entries, from open_clip."""
    from open_clip import SimpleTokenizer

    tokens: np.ndarray = SimpleTokenizer(context_length=context_length)(list(texts)).numpy()
    return tokens


def word_piece(texts: Sequence[str], context_length: int, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """The tokenizer that comes with the weights, as their array ``tokenizer``."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(weights["tokenizer"].tobytes().decode())
    tokenizer.enable_truncation(context_length)
    tokenizer.enable_padding(length=context_length)
    return np.array([encoding.ids for encoding in tokenizer.encode_batch(list(texts))], np.int64)


def in_chunks(
    tokenize: Callable[..., np.ndarray],
    texts: Sequence[str],
    context_length: int,
    weights: Mapping[str, np.ndarray],
    first: int,
) -> Iterator[np.ndarray]:
    """The tokens of the texts from number ``first`` on, TEXTS_AT_ONCE at a time."""
    for start in range(first, len(texts), TEXTS_AT_ONCE):
        yield tokenize(texts[start : start + TEXTS_AT_ONCE], context_length, weights)
