"""Imagen's text encoder: T5-XXL's, 4.8 billion parameters, from the hub."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

REPO, REVISION = "google/t5-v1_1-xxl", "3db67ab1af984cf10548a73467f0e5bca2aaaeb2"
SIZES = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
"""Of the repository's config.json"""


class T5XXL(nn.Module):
    """Tokens int64 ``[N, T]``, padded with 0 on the right, to float ``[N, T, 4096]``, 0 at the padding. Up to rounding,
    the output for a text does not depend on T.
    """

    takes_trimmed = True
    """see experiments/diffusion/conditions.py"""

    def __init__(self, sizes: Mapping[str, Any] | None = None) -> None:
        """With the published weights, or with random ones of these ``sizes``."""
        super().__init__()
        from transformers import AutoModelForTextEncoding, T5Config, T5EncoderModel

        # bfloat16, because this model overflows in float16. The repository has only a pickle; transformers then asks
        # the hub's converter for safetensors. UNVERIFIED: it was never downloaded.
        if sizes is None:
            self.encoder = T5EncoderModel.from_pretrained(
                REPO, revision=REVISION, dtype=torch.bfloat16, use_safetensors=True
            )
        else:
            self.encoder = AutoModelForTextEncoding.from_config(T5Config(**sizes), dtype=torch.bfloat16)

    @staticmethod
    def fetch() -> str:
        """Fetch weights and tokenizer, for ``make fetch``; returns their repository on the hub."""
        T5XXL()  # the weights come from the hub's converter
        tokenize(["a"], 1, {})
        return REPO

    def forward(self, tokens: Tensor) -> Tensor:
        """The hidden states of the last layer."""
        is_token = tokens != 0
        # In four dimensions, because transformers would read a mask of two back from the GPU, in every micro-batch.
        states: Tensor = self.encoder(tokens, attention_mask=is_token[:, None, None]).last_hidden_state
        return states.float() * is_token[..., None]


def tokenize(texts: Sequence[str], context_length: int, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """T5's tokens, int64 ``[texts, context_length]``, padded with 0; ``weights`` are unused."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(REPO, revision=REVISION)
    encoded = tokenizer(list(texts), max_length=context_length, padding="max_length", truncation=True)
    return np.array(encoded["input_ids"], np.int64)
