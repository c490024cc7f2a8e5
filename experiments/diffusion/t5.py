"""Imagen's text encoder: T5-XXL's, 4.8 billion parameters, from the hub."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

REPO, REVISION = "google/t5-v1_1-xxl", "3db67ab1af984cf10548a73467f0e5bca2aaaeb2"


class T5XXL(nn.Module):
    """Tokens int64 ``[N, T]``, padded with 0, to float ``[N, T, 4096]``."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import T5EncoderModel

        # bfloat16, because this model overflows in float16. The repository has only a pickle; transformers then asks
        # the hub's converter for safetensors. UNVERIFIED: it was never downloaded.
        self.encoder = T5EncoderModel.from_pretrained(
            REPO, revision=REVISION, dtype=torch.bfloat16, use_safetensors=True
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """The hidden states of the last layer."""
        states: Tensor = self.encoder(tokens, attention_mask=tokens != 0).last_hidden_state
        return states.float()


def tokenize(texts: Sequence[str], context_length: int, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """T5's tokens, int64 ``[texts, context_length]``, padded with 0; ``weights`` are unused."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(REPO, revision=REVISION)
    encoded = tokenizer(list(texts), max_length=context_length, padding="max_length", truncation=True)
    return np.array(encoded["input_ids"], np.int64)
