"""Transformers in the paper's sizes: GPT-2's causal architecture and BERT's bidirectional one.

GPT-2's, with tied embeddings, learned positions and 32 000 tokens, has the parameter counts of the paper's section 4.4
(110 M, 336 M, 731 M) with the numbers of layers and widths of its Table 10. Neither has dropout.
"""

from importlib import import_module

import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from transformers import AttentionInterface, BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from experiments.language_modeling.chunked import ChunkedGPT2
from experiments.language_modeling.config import LanguageModelingConfig
from experiments.language_modeling.likelihood import rows_at_once, token_nats

INIT_STD = 0.02
"""Standard deviation of the initial weights in GPT-2 and BERT, at widths from 768 up"""

# PyTorch's attention, registered under a name for which transformers builds no masks. Nothing is padded on the left,
# and building a mask inspects the data, which would wait for the GPU in every step and is impossible on the meta
# device.
ATTENTION = "sdpa_without_masks"
AttentionInterface.register(ATTENTION, sdpa_attention_forward)


def causal(
    vocab_size: int,
    context_length: int,
    layers: int,
    width: int,
    heads: int,
    init_std: float = INIT_STD,
    activation: str = "gelu_new",
    loss_chunk: int | None = None,
) -> nn.Module:
    """Tokens int64 ``[N, T]`` to ``.logits``, float ``[N, T, vocab_size]``, for the token after each.

    ``loss_chunk`` is the number of tokens whose logits exist at a time in training, None for all: see chunked.py.
    ``activation`` is a name in transformers. ``gelu_pytorch_tanh`` is the same function as ``gelu_new`` in one kernel,
    which only keeps its input for the backward pass: it needs less than half of the GPU memory, but rounds differently.
    """
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=context_length,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        initializer_range=init_std,
        activation_function=activation,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation=ATTENTION,  # type: ignore[call-arg]  # handed on to the base class
    )
    return GPT2LMHeadModel(config) if loss_chunk is None else ChunkedGPT2(config, loss_chunk)


def bidirectional(
    vocab_size: int,
    context_length: int,
    layers: int,
    width: int,
    heads: int,
    init_std: float = INIT_STD,
    activation: str = "gelu",
) -> nn.Module:
    """Tokens int64 ``[N, T]`` to ``.logits``, float ``[N, T, vocab_size]``, for the token at each position."""
    config = BertConfig(
        vocab_size=vocab_size,
        max_position_embeddings=context_length,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        type_vocab_size=1,
        hidden_act=activation,
        initializer_range=init_std,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation=ATTENTION,  # type: ignore[call-arg]  # handed on to the base class
    )
    return BertForMaskedLM(config)


def build_model(cfg: LanguageModelingConfig) -> nn.Module:
    """The model described by ``cfg.model``, with the vocabulary, context and objective in ``cfg``."""
    extra_tokens = import_module(cfg.objective).EXTRA_TOKENS
    model: nn.Module = instantiate(
        cfg.model, vocab_size=cfg.data.vocab_size + extra_tokens, context_length=cfg.context_length
    )
    return model


def training_loss(model: nn.Module, cfg: LanguageModelingConfig, inputs: Tensor, targets: Tensor) -> Tensor:
    """The objective's loss for ``inputs`` and ``targets``, int64 ``[N, T]``, of the possibly wrapped model of ``cfg``,
    in nats per token.
    """
    is_chunked = cfg.model.get("loss_chunk") is not None
    nats = model(inputs, targets) if is_chunked else token_nats(model, inputs, targets)
    loss: Tensor = import_module(cfg.objective).mean_loss(nats, targets)
    return loss


def meta_model(cfg: LanguageModelingConfig) -> nn.Module:
    """The model on the device ``meta``."""
    with torch.device("meta"):
        return build_model(cfg)


def meta_loss(model: nn.Module, cfg: LanguageModelingConfig, samples: int) -> Tensor:
    """The loss of this many sequences, on the device of ``model``."""
    tokens = torch.zeros(samples, cfg.context_length, dtype=torch.int64, device=next(model.parameters()).device)
    return training_loss(model, cfg, tokens, tokens)


def meta_evaluation(model: nn.Module, cfg: LanguageModelingConfig) -> Tensor:
    """The negative log-likelihoods of a batch of an evaluation, which computes all of its logits together."""
    rows = rows_at_once(cfg.context_length, cfg.data.vocab_size)
    tokens = torch.zeros(rows, cfg.context_length, dtype=torch.int64, device=next(model.parameters()).device)
    return token_nats(model, tokens, tokens)
