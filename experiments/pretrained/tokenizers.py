"""Tokenizers: texts to int64 ``[texts, context_length]``, padded with 0; and tokens that are computed only once."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from hydra.utils import get_method

from experiments.harness.prepared_data import PreparedData
from experiments.harness.stored_rows import stored_rows

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


def stored_tokens(
    name: str,
    tokenizer: str,
    texts: Sequence[str],
    context_length: int,
    weights: PreparedData | None,
    cache_dir: Path,
    dtype: type = np.int64,
) -> tuple[np.ndarray, str]:
    """The tokens of the texts, ``dtype`` ``[texts, context_length]``, computed once and memory-mapped, and what
    identifies them. ``tokenizer`` names a function as above, which gets the arrays of ``weights``.
    """
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    identity = json.dumps([tokenizer, context_length, weights and weights.fingerprint, digest])
    tokenize, arrays = get_method(tokenizer), weights.load() if weights else {}

    def chunks(first: int) -> Iterator[np.ndarray]:
        for start in range(first, len(texts), TEXTS_AT_ONCE):
            chunk: np.ndarray = tokenize(texts[start : start + TEXTS_AT_ONCE], context_length, arrays)
            yield chunk.astype(dtype, copy=False)

    return stored_rows(name, identity, cache_dir, "tokens", len(texts), chunks).load()["tokens"], identity
