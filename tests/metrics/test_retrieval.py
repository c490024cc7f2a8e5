import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from experiments.metrics.retrieval import RANKS, recall_sums


def by_all_orders(scores: list[float], relevant: list[bool], rank: int) -> float:
    """The share of all orders of the keys in which, sorted by score, a relevant one is among the first ``rank``."""
    orders = list(itertools.permutations(range(len(scores))))
    hits = [any(relevant[key] for key in sorted(order, key=lambda key: -scores[key])[:rank]) for order in orders]
    return sum(hits) / len(orders)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6), st.integers(0, 5))
def test_tied_scores_get_their_expected_recall(keys: list[tuple[int, bool]], sure: int) -> None:
    scores = [score / 2 for score, _ in keys]
    relevant = [right or number == sure % len(keys) for number, (_, right) in enumerate(keys)]
    sums = recall_sums(torch.tensor([scores]), torch.tensor([relevant]))
    for rank in RANKS:
        assert sums[f"recall{rank}"].item() == pytest.approx(by_all_orders(scores, relevant, rank))


def unit_vectors(count: int, seed: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 32, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_a_collapsed_model_has_recall_at_chance_level() -> None:
    # Copies of one vector, with rounding errors like those of matrix products of another shape or device.
    images, texts = unit_vectors(1, 0).repeat(100, 1), unit_vectors(1, 1).repeat(500, 1)
    texts = texts + 1e-7 * unit_vectors(500, 2)
    owners = torch.arange(500) // 5
    sums = recall_sums(images @ texts.T, owners == torch.arange(100)[:, None])
    assert sums["recall1"].item() == pytest.approx(100 * 5 / 500)
    assert sums["recall10"].item() < 100 * 10 * 5 / 500
    sums = recall_sums(texts @ images.T, owners[:, None] == torch.arange(100))
    for rank in RANKS:
        assert sums[f"recall{rank}"].item() == pytest.approx(500 * rank / 100)


def test_recall_sums_of_query_batches_add_up() -> None:
    scores, relevant = torch.randn(30, 20), torch.eye(20, dtype=torch.bool).repeat(2, 1)[:30]
    whole = recall_sums(scores, relevant)
    parts = [recall_sums(scores[first::3], relevant[first::3]) for first in range(3)]
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value)


def test_a_query_without_a_relevant_key_is_refused() -> None:
    with pytest.raises(AssertionError, match="relevant"):
        recall_sums(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool))
