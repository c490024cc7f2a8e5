"""A causal model for large vocabularies, which never holds the logits of all tokens of a batch during training.

Its loss would otherwise keep three copies of them in float32, each 8 GB for 8 192 tokens and a vocabulary of 256 000.
PyTorch's ``linear_cross_entropy`` also works in chunks, but it ignores autocast and needs PyTorch 2.15.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import GPT2Config, GPT2LMHeadModel

from experiments.language_modeling.likelihood import UNCOUNTED


class ChunkedGPT2(GPT2LMHeadModel):
    """GPT-2 that computes the logits of ``chunk`` tokens at a time, and again in the backward pass.

    With bf16 the chunks' gradients of the output weights, each rounded to bfloat16 as that of all tokens would be, are
    also added in bfloat16.
    """

    def __init__(self, config: GPT2Config, chunk: int) -> None:
        super().__init__(config)
        self.chunk = chunk

    def forward(self, input_ids: Tensor, targets: Tensor | None = None) -> Any:
        """Tokens int64 ``[N, T]`` to ``.logits``; or with ``targets`` int64 ``[N, T]``, to their negative
        log-likelihoods, float32 ``[N * T]``, 0 if UNCOUNTED.
        """
        if targets is None:
            return super().forward(input_ids)
        hidden = self.transformer(input_ids).last_hidden_state.flatten(0, 1)
        chunks = zip(hidden.split(self.chunk), targets.flatten().split(self.chunk), strict=True)
        return torch.cat(
            [checkpoint(self._nats, *each, use_reentrant=False, preserve_rng_state=False) for each in chunks]
        )

    def _nats(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self.lm_head(hidden).float()
        return F.cross_entropy(logits, targets, ignore_index=UNCOUNTED, reduction="none")
