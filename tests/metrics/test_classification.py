"""Sums over batches, and edge cases; tests/metrics/agreement.py has other implementations of the metrics."""

import pytest
import torch
import torch.nn.functional as F

from experiments.metrics.classification import classification_metrics, classification_sums


def metrics_in_batches(logits: torch.Tensor, labels: torch.Tensor, sizes: list[int]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part, part_labels in zip(logits.split(sizes), labels.split(sizes), strict=True):
        for name, value in classification_sums(part, part_labels).items():
            total[name] = total.get(name, 0.0) + value.item()
    return classification_metrics(total)


@pytest.mark.parametrize("sizes", [[100, 1], [7] * 14 + [3], [50, 1, 50]])
def test_classification_metrics_do_not_depend_on_the_batch_sizes(sizes: list[int]) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(101, 20), torch.randint(0, 20, (101,))
    whole = metrics_in_batches(logits, labels, [101])
    assert metrics_in_batches(logits, labels, sizes) == pytest.approx(whole, rel=1e-6)


def test_top5_is_100_percent_with_fewer_than_five_classes() -> None:
    assert metrics_in_batches(torch.randn(8, 3), torch.randint(0, 3, (8,)), [8])["top5"] == 100


def test_low_precision_logits_are_summed_in_higher_precision() -> None:
    logits, labels = torch.randn(4096, 10, dtype=torch.bfloat16), torch.randint(0, 10, (4096,))
    exact = F.cross_entropy(logits.double(), labels).item()
    assert metrics_in_batches(logits, labels, [4096])["loss"] == pytest.approx(exact, rel=1e-5)
