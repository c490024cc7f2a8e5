"""Edge cases of zero-shot classifiers; tests/metrics/agreement.py compares them with open_clip's."""

import torch

from experiments.metrics.zero_shot import class_embeddings, prompts


def test_prompts_are_listed_class_by_class() -> None:
    assert prompts(["cat", "dog"], ["a {}", "many {}s"]) == ["a cat", "many cats", "a dog", "many dogs"]


def test_class_embeddings_do_not_depend_on_the_norms_of_prompt_embeddings() -> None:
    vectors = torch.randn(6, 8)
    torch.testing.assert_close(
        class_embeddings(vectors * torch.rand(6, 1).add(0.1), 2), class_embeddings(vectors, 2), rtol=1e-5, atol=1e-6
    )
