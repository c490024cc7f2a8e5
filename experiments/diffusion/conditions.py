"""What an image is conditioned on, as arguments of diffusers' U-Nets."""

from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.data.splits import sample
from experiments.diffusion.config import DiffusionConfig
from experiments.diffusion.data import ConditionedImages, DiffusionSets
from experiments.pretrained.locked import Locked, build_locked
from experiments.pretrained.tokenizers import stored_tokens


class Conditions(Protocol):
    """Converts the condition of an image to the U-Net's arguments besides the noisy image and the timestep."""

    def numbers(self, images: ConditionedImages) -> np.ndarray:
        """The images' conditions as integers, int32 or int64 ``[images, ...]``."""

    def of_samples(self, test: ConditionedImages, count: int) -> np.ndarray:
        """The conditions of samples 0 to ``count - 1``, int32 or int64 ``[count, ...]``."""

    def on_host(self, numbers: np.ndarray) -> Tensor:
        """A batch of conditions, int64 ``[N, ...]``."""

    def hidden(self, numbers: Tensor) -> Tensor:
        """The unconditional value, in the same shape."""

    def arguments(self, numbers: Tensor) -> dict[str, Tensor]:
        """Keyword arguments of the U-Net."""


class ClassConditions:
    """Class indices, for UNet2DModel; the index after the last class means none."""

    def __init__(self, num_classes: int, batch_size: int) -> None:
        """Each ``batch_size`` samples, from the first on, form one subset for the kernel distance."""
        self._num_classes, self._batch_size = num_classes, batch_size

    def numbers(self, images: ConditionedImages) -> np.ndarray:
        """The classes, int64 ``[images]``."""
        return np.asarray(images.conditions, np.int64)

    def of_samples(self, test: ConditionedImages, count: int) -> np.ndarray:
        """All classes in turn, int64 ``[count]``; randomly drawn classes if a batch cannot hold all of them, because
        neighbouring classes are similar (ImageNet's dogs) and each batch should be representative.
        """
        if self._batch_size >= self._num_classes:
            return np.arange(count) % self._num_classes
        rows = max(count, self._num_classes)
        return sample(rows, rows)[:count] % self._num_classes

    def on_host(self, numbers: np.ndarray) -> Tensor:
        """The classes."""
        return torch.from_numpy(numbers.astype(np.int64))

    def hidden(self, numbers: Tensor) -> Tensor:
        """No class."""
        return torch.full_like(numbers, self._num_classes)

    def arguments(self, numbers: Tensor) -> dict[str, Tensor]:
        """``class_labels``."""
        return {"class_labels": numbers}


class TextConditions:
    """Captions, for UNet2DConditionModel, encoded by a frozen text encoder; all tokens 0 means no text.

    The encoder takes tokens int64 ``[N, T]`` and returns float ``[N, T, D]``. It is not part of the model, so neither
    checkpoints nor averaged weights contain it.
    """

    def __init__(self, cfg: DiffusionConfig, sets: DiffusionSets) -> None:
        self._text, self._weights, self._cache_dir = cfg.text, sets.weights.get("text"), sets.cache_dir
        self._encoder = Locked(build_locked(cfg.text.encoder, self._weights.load() if self._weights else {}))
        self._trims = getattr(self._encoder.module, "takes_trimmed", False)

    def numbers(self, images: ConditionedImages) -> np.ndarray:
        """The captions' tokens, int32 ``[images, context_length]``, computed once and memory-mapped."""
        return self._tokens(list(images.conditions))

    def of_samples(self, test: ConditionedImages, count: int) -> np.ndarray:
        """The captions of the first ``count`` test images."""
        return self._tokens(list(test.conditions[:count]))

    def on_host(self, numbers: np.ndarray) -> Tensor:
        """The tokens, trimmed to the longest text if the encoder sets ``takes_trimmed``. They are trimmed here, because
        on a GPU the length would have to be read back.
        """
        longest = max(1, int((numbers != 0).any(0).sum())) if self._trims else numbers.shape[1]
        return torch.from_numpy(numbers[:, :longest].astype(np.int64))

    def hidden(self, numbers: Tensor) -> Tensor:
        """No text."""
        return torch.zeros_like(numbers)

    def arguments(self, numbers: Tensor) -> dict[str, Tensor]:
        """``encoder_hidden_states`` and ``encoder_attention_mask``, always of full context length: the U-Net may also
        pool over the padding, and should not depend on the other texts of a batch.
        """
        self._encoder.to(numbers.device)
        absent = self._text.context_length - numbers.shape[1]
        return {
            "encoder_hidden_states": F.pad(self._encoder(numbers), (0, 0, 0, absent)),
            "encoder_attention_mask": F.pad(numbers != 0, (0, absent)),
        }

    def _tokens(self, texts: list[str]) -> np.ndarray:
        text = self._text
        given = text.tokenizer, texts, text.context_length, self._weights, self._cache_dir
        return stored_tokens("diffusion-tokens", *given, dtype=np.int32)[0]
