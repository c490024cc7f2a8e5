"""Models that write answers to prompts: encoder-decoder and causal models with one interface.

Both take tokens int64 ``[N, T]``, padded on the right with -1, and every text ends with the end-of-text token. An
encoder-decoder reads the prompt and writes the answer; a causal model continues after the prompt, whose end-of-text
token separates the two. Up to rounding, results do not depend on what else is in the batch.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig

from experiments.harness.errors import ConfigError
from experiments.harness.optimizer import mark_pretrained

IGNORED = -100
"""The label that ``transformers`` ignores in a loss."""


class AnswerModel(nn.Module):
    """What both have in common."""

    auto_class: Any

    def __init__(self, config: PreTrainedConfig, weights: Mapping[str, str] | None = None) -> None:
        """With random weights, or with those of ``weights``: see ``build_network``."""
        super().__init__()
        self.network = build_network(self.auto_class, config, weights)

    def _greedy(self, prompts: Tensor, end: int, most_tokens: int) -> Tensor:
        """What the network generates, int64 ``[N, T]``, including what it begins with, padded with ``end``."""
        generated: Tensor = self.network.generate(
            input_ids=prompts.clamp(min=0),
            attention_mask=(prompts >= 0).long(),
            max_new_tokens=most_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=end,
            pad_token_id=end,
            synced_gpus=False,  # a sharded model is whole in an evaluation, and processes have different texts
        )
        return generated


class EncoderDecoder(AnswerModel):
    """T5 and similar models."""

    auto_class = AutoModelForSeq2SeqLM

    def forward(self, prompts: Tensor, answers: Tensor) -> Tensor:
        """Negative log-likelihood of each answer, the sum over its tokens in nats, float32 ``[N]``."""
        labels = answers.masked_fill(answers < 0, IGNORED)
        logits = self.network(
            input_ids=prompts.clamp(min=0),
            attention_mask=padding_mask(prompts),
            decoder_input_ids=self.network.prepare_decoder_input_ids_from_labels(labels),
            use_cache=False,
        ).logits
        return answer_loss(logits, labels)

    def write(self, prompts: Tensor, end: int, most_tokens: int) -> Tensor:
        """Decode answers greedily: int64 ``[N, up to most_tokens]``, padded with ``end``."""
        return self._greedy(prompts, end, most_tokens)[:, 1:]  # without the decoder's start token


class CausalModel(AnswerModel):
    """GPT-2 and similar models."""

    auto_class = AutoModelForCausalLM

    def forward(self, prompts: Tensor, answers: Tensor) -> Tensor:
        """Negative log-likelihood of each answer, the sum over its tokens in nats, float32 ``[N]``."""
        tokens = torch.cat([padded_left(prompts), answers], 1)
        places = torch.arange(tokens.shape[1], device=tokens.device)
        logits = self.network(
            input_ids=tokens.clamp(min=0),
            attention_mask=padding_mask(tokens) & (places <= places[:, None]),
            position_ids=((tokens >= 0).long().cumsum(1) - 1).clamp(min=0),
            use_cache=False,
        ).logits[:, prompts.shape[1] - 1 : -1]  # logits at position t predict token t + 1
        return answer_loss(logits, answers.masked_fill(answers < 0, IGNORED))

    def write(self, prompts: Tensor, end: int, most_tokens: int) -> Tensor:
        """Decode answers greedily: int64 ``[N, up to most_tokens]``, padded with ``end``."""
        prompts = padded_left(prompts)
        return self._greedy(prompts, end, most_tokens)[:, prompts.shape[1] :]


def build_network(auto_class: Any, config: PreTrainedConfig, weights: Mapping[str, str] | None) -> Any:
    """The network of ``config`` in training mode, initialized from PyTorch's global generator or with ``weights``.

    ``weights`` has the keys path (a repository on the hub, or a folder) and optionally revision. Only safetensors are
    read, and no code is executed. Raises ConfigError if tensors are missing from the weights.
    """
    if weights is None:
        return auto_class.from_config(config)
    network, loaded = auto_class.from_pretrained(
        weights["path"],
        revision=weights.get("revision", "main"),
        config=config,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    if absent := [*loaded["missing_keys"], *loaded["mismatched_keys"]]:
        raise ConfigError(
            f"The weights of model.trained.weights.path={weights['path']} lack {len(absent)} of the tensors that "
            f"model.trained.config describes, such as {sorted(map(str, absent))[0]}."
        )
    mark_pretrained(network)
    return network.train()  # it is loaded in eval mode, without dropout


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy ``[N]`` of logits ``[N, T, vocabulary]`` (any float dtype; computed in float32), summed over the
    tokens whose label is not IGNORED.
    """
    # Flattened, because the two-dimensional loss has no deterministic implementation on a GPU.
    each = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return each.view(labels.shape).sum(1)


def padding_mask(tokens: Tensor) -> Tensor:
    """Which tokens may be attended to, bool ``[N, 1, 1, T]``.

    transformers uses a four-dimensional mask as it is. It would inspect a two-dimensional one, to drop it if nothing
    is padded, and so wait for the GPU in every forward pass.
    """
    return (tokens >= 0)[:, None, None]


def padded_left(tokens: Tensor) -> Tensor:
    """The same texts, padded on the left."""
    return tokens.gather(1, (tokens >= 0).long().argsort(dim=1, stable=True))
