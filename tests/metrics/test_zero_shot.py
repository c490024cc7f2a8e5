import torch
import torch.nn.functional as F
from open_clip import build_zero_shot_classifier
from torch import Tensor

from experiments.metrics.zero_shot import class_embeddings, prompts


class HashedTexts:
    """A stand-in for CLIP that gives every text a random embedding."""

    def __init__(self, texts: list[str]) -> None:
        self.numbers = {text: number for number, text in enumerate(texts)}
        self.vectors = torch.randn(len(texts), 16, generator=torch.Generator().manual_seed(0))

    def tokenize(self, texts: list[str]) -> Tensor:
        return torch.tensor([self.numbers[text] for text in texts])

    def encode_text(self, tokens: Tensor, normalize: bool) -> Tensor:
        return F.normalize(self.vectors[tokens], dim=-1) if normalize else self.vectors[tokens]


def test_zero_shot_class_embeddings_match_open_clip() -> None:
    names, templates = ["cat", "dog", "truck"], ["a photo of a {}.", "a {}", "many {}s"]
    texts = prompts(names, templates)
    assert texts[:4] == ["a photo of a cat.", "a cat", "many cats", "a photo of a dog."]
    clip = HashedTexts(texts)
    theirs = build_zero_shot_classifier(clip, clip.tokenize, names, templates)
    torch.testing.assert_close(class_embeddings(clip.vectors, 3), theirs.T)


def test_class_embeddings_do_not_depend_on_the_norms_of_prompt_embeddings() -> None:
    vectors = torch.randn(6, 8)
    torch.testing.assert_close(
        class_embeddings(vectors * torch.rand(6, 1).add(0.1), 2), class_embeddings(vectors, 2), rtol=1e-5, atol=1e-6
    )
