"""What an image is conditioned on, in the words of the U-Nets of diffusers."""

import hashlib
import json
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from hydra.utils import get_method
from torch import Tensor, nn

from experiments.data.sample import sample
from experiments.diffusion.config import DiffusionConfig
from experiments.diffusion.pictures import Pictures
from experiments.diffusion.sets import Sets
from experiments.harness.stored_rows import stored_rows
from experiments.pretrained.locked import Locked, build_locked

TEXTS_AT_ONCE = 16_384
"""A tokenizer takes 17 KB of memory a text until they are arrays."""


class Conditions(Protocol):
    """From the condition of an image to what its U-Net takes besides the noisy image and the timestep."""

    def numbers(self, pictures: Pictures) -> np.ndarray:
        """What the pictures are conditioned on as whole numbers, int32 or int64 ``[pictures, ...]``."""

    def of_samples(self, test: Pictures, count: int) -> np.ndarray:
        """What samples 0 to ``count - 1`` are conditioned on, int32 or int64 ``[count, ...]``."""

    def hidden(self, numbers: Tensor) -> Tensor:
        """The same shape, saying nothing of the image."""

    def arguments(self, numbers: Tensor) -> dict[str, Tensor]:
        """Keyword arguments of the U-Net."""


class ClassConditions:
    """Class numbers, for UNet2DModel; the number after the last class means none."""

    def __init__(self, num_classes: int, batch_size: int) -> None:
        """``batch_size`` samples, from the first, are a subset of their own for the kernel distance."""
        self._num_classes, self._batch_size = num_classes, batch_size

    def numbers(self, pictures: Pictures) -> np.ndarray:
        """The classes, int64 ``[pictures]``."""
        return np.asarray(pictures.conditions, np.int64)

    def of_samples(self, test: Pictures, count: int) -> np.ndarray:
        """Each class in its turn, int64 ``[count]``; drawn classes where a batch has not room for all: neighbours in
        the order of classes are alike (ImageNet's dogs), and a batch stands for the whole.
        """
        if self._batch_size >= self._num_classes:
            return np.arange(count) % self._num_classes
        rows = max(count, self._num_classes)
        return sample(rows, rows)[:count] % self._num_classes

    def hidden(self, numbers: Tensor) -> Tensor:
        """No class."""
        return torch.full_like(numbers, self._num_classes)

    def arguments(self, numbers: Tensor) -> dict[str, Tensor]:
        """``class_labels``."""
        return {"class_labels": numbers}


class TextConditions:
    """Captions, for UNet2DConditionModel, through a text encoder that is never trained; no token (0) means no text.

    The encoder takes tokens int64 ``[N, T]`` and gives float ``[N, T, D]``. It is no part of the model: neither
    checkpoints nor averaged weights hold it.
    """

    def __init__(self, cfg: DiffusionConfig, sets: Sets) -> None:
        weights = sets.weights["text"].load() if "text" in sets.weights else {}
        self._text, self._weights, self._cache_dir = cfg.text, weights, sets.cache_dir
        self._weights_fingerprint = sets.weights["text"].fingerprint if weights else None
        self._encoder = Locked(build_locked(cfg.text.encoder, weights))

    def numbers(self, pictures: Pictures) -> np.ndarray:
        """The captions' tokens, int32 ``[pictures, context_length]``, computed once and mapped from disk."""
        texts = list(pictures.conditions)
        return self._tokens(texts)

    def of_samples(self, test: Pictures, count: int) -> np.ndarray:
        """The captions of the first ``count`` test pictures."""
        return self._tokens(list(test.conditions[:count]))

    def hidden(self, numbers: Tensor) -> Tensor:
        """No text."""
        return torch.zeros_like(numbers)

    def arguments(self, numbers: Tensor) -> dict[str, Tensor]:
        """``encoder_hidden_states`` and ``encoder_attention_mask``."""
        self._encoder.to(numbers.device)
        return {"encoder_hidden_states": self._encoder(numbers), "encoder_attention_mask": numbers != 0}

    def _tokens(self, texts: list[str]) -> np.ndarray:
        cfg = self._text
        digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
        identity = json.dumps([cfg.tokenizer, cfg.context_length, self._weights_fingerprint, digest])
        tokenize = get_method(cfg.tokenizer)

        def chunks(first: int) -> Iterator[np.ndarray]:
            for start in range(first, len(texts), TEXTS_AT_ONCE):
                chunk = tokenize(texts[start : start + TEXTS_AT_ONCE], cfg.context_length, self._weights)
                yield chunk.astype(np.int32)

        stored = stored_rows("diffusion-tokens", identity, self._cache_dir, "tokens", len(texts), chunks)
        return stored.load()["tokens"]


def predict(model: nn.Module, noisy: Tensor, timesteps: Tensor, arguments: dict[str, Tensor]) -> Tensor:
    """The network's output, float32 ``[N, 3, H, W]``, for noisy images of that shape and timesteps int64 ``[N]``.

    ``low_resolution`` among the arguments is an image of that shape, which super-resolution sees beside the noisy one.
    """
    arguments = dict(arguments)
    if "low_resolution" in arguments:
        noisy = torch.cat([noisy, arguments.pop("low_resolution")], 1)
    output: Tensor = model(noisy, timesteps, **arguments, return_dict=False)[0]
    return output.float()
