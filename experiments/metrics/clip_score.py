"""CLIP score: how well an image fits its caption (Hessel et al. 2021), as the mean cosine that the paper plots."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

BATCH_SIZE = 64


def clip_scores(image_vectors: Tensor, text_vectors: Tensor) -> Tensor:
    """Cosine of each image and its text, both float ``[N, D]``, clamped at 0: float64 ``[N]``."""
    return F.cosine_similarity(image_vectors.double(), text_vectors.double()).clamp(min=0)


class ClipScorer:
    """Scores images with an ``open_clip`` model."""

    def __init__(self, name: str, weights: str, device: torch.device) -> None:
        import open_clip

        self._model = open_clip.create_model(name, pretrained=weights, device=device).eval()
        self._tokenize = open_clip.get_tokenizer(name)
        self._mean, self._std = (
            torch.tensor(values, device=device)[:, None, None]
            for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
        )
        self._size = self._model.visual.image_size[0]

    def scores(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Scores float64 ``[N]`` of images uint8 ``[N, 3, H, W]``, on the model's device, and their texts."""
        scores = []
        for start in range(0, len(images), BATCH_SIZE):
            batch = images[start : start + BATCH_SIZE].float() / 255
            size = (self._size, self._size)
            resized = F.interpolate(batch, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
            tokens = self._tokenize(list(texts[start : start + BATCH_SIZE])).to(images.device)
            with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
                vectors = self._model.encode_image((resized - self._mean) / self._std), self._model.encode_text(tokens)
            scores.append(clip_scores(*vectors))
        return torch.cat(scores)
