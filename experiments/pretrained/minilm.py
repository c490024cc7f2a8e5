"""MiniLM in two parts, so that the lower one can be frozen and the upper one trained."""

from torch import Tensor, nn
from transformers import BertConfig, BertModel

LAYERS = 6


def _bert() -> BertModel:
    """MiniLM-L6-H384 without dropout, with random weights."""
    return BertModel(
        BertConfig(
            hidden_size=384,
            num_hidden_layers=LAYERS,
            num_attention_heads=12,
            intermediate_size=1536,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="sdpa",  # type: ignore[call-arg]  # handed on to the base class
        ),
        add_pooling_layer=False,
    )


class Encoder(nn.Module):
    """Some of MiniLM's layers, with the parameter names of its weights."""

    def __init__(self, layers: range) -> None:
        super().__init__()
        every = _bert().encoder.layer
        self.layer = nn.ModuleDict({str(number): every[number] for number in layers})

    def forward(self, hidden: Tensor, is_token: Tensor) -> Tensor:
        """Hidden states float ``[N, T, 384]``; only positions where bool ``is_token [N, T]`` are attended to."""
        for layer in self.layer.values():
            hidden = layer(hidden, attention_mask=is_token[:, None, None, :])
        return hidden


class LowerLayers(nn.Module):
    """Embeddings and the first ``layers`` layers: tokens int64 ``[N, T]`` to float ``[N, T, 384]``, 0 at padding."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embeddings = _bert().embeddings
        self.encoder = Encoder(range(layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """Hidden states."""
        is_token = tokens != 0
        return self.encoder(self.embeddings(tokens), is_token) * is_token[..., None]


class UpperLayers(nn.Module):
    """The layers above ``LowerLayers(layers)``: from its outputs to the mean over the tokens, float ``[N, 384]``."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.encoder = Encoder(range(layers, LAYERS))

    def forward(self, hidden: Tensor) -> Tensor:
        """The text's features."""
        is_token = hidden.any(-1)
        hidden = self.encoder(hidden, is_token) * is_token[..., None]
        return hidden.sum(1) / is_token.sum(1, keepdim=True)
