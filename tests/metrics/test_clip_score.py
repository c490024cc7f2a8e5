"""Scoring batches of images with a stand-in for open_clip's model; agreement.py checks the score itself."""

from collections.abc import Sequence
from types import SimpleNamespace

import open_clip
import pytest
import torch
from torch import Tensor, nn

from experiments.metrics.clip_score import ClipScorer


class MeanColour(nn.Module):
    """Embeds an image as the mean of each colour channel; texts are channel numbers."""

    visual = SimpleNamespace(image_size=(8, 8))

    def encode_image(self, images: Tensor) -> Tensor:
        assert images.shape[1:] == (3, 8, 8)
        mean, std = (torch.tensor(values) for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
        return images.mean((2, 3)) * std + mean  # the pixels before normalization

    def encode_text(self, tokens: Tensor) -> Tensor:
        return torch.eye(3)[tokens]


def tokenize(texts: Sequence[str]) -> Tensor:
    return torch.tensor([["red", "green", "blue"].index(text) for text in texts])


def test_each_image_is_scored_with_its_own_text_across_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip, "create_model", lambda name, pretrained, device: MeanColour())
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: tokenize)
    monkeypatch.setattr("experiments.metrics.clip_score.BATCH_SIZE", 2)
    images = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    images[0, 0] = images[1, 2] = images[2, 2] = 255
    scores = ClipScorer("ViT-L-14", "openai", torch.device("cpu")).scores(images, ["red", "green", "blue"])
    torch.testing.assert_close(scores, torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64), atol=1e-6, rtol=0)
