"""Temperature scaling and the calibration error; tests/metrics/agreement.py has other implementations of both."""

import math

import pytest
import torch

from experiments.metrics.calibration import (
    calibrated_loss,
    calibration_error,
    confidence_sums,
    temperature_sums,
)


def samples(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    labels = torch.randint(0, 9, (300,))
    return torch.randn(300, 9) + 2 * torch.nn.functional.one_hot(labels, 9), labels


@pytest.mark.parametrize("factor", [0.2, 0.9, 1.01, 3.0, 11.0])
def test_the_size_of_all_logits_does_not_matter(factor: float) -> None:
    (logits, labels), (val_logits, val_labels) = samples(0), samples(1)
    losses = [
        calibrated_loss(
            temperature_sums(by * logits, labels).tolist(), 300, temperature_sums(by * val_logits, val_labels).tolist()
        )
        for by in (1.0, factor)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_on_the_split_that_it_is_fitted_on_it_is_the_least_loss() -> None:
    logits, labels = samples(2)
    found = calibrated_loss(temperature_sums(logits, labels).tolist(), 300)
    exact = [
        torch.nn.functional.cross_entropy(logits.double() / math.exp(t / 500), labels).item() for t in range(-900, 900)
    ]
    assert found == pytest.approx(min(exact), rel=1e-6)


def test_sums_of_parts_are_those_of_the_whole() -> None:
    logits, labels = samples(3)
    parts = list(zip(logits.split(70), labels.split(70), strict=True))
    total, whole_sum = sum(temperature_sums(*part) for part in parts), temperature_sums(logits, labels)
    torch.testing.assert_close(total, whole_sum, rtol=1e-6, atol=0)  # of float32
    whole = confidence_sums(logits, labels)
    for name, value in whole.items():
        torch.testing.assert_close(sum(confidence_sums(*part)[name] for part in parts), value)


def test_guesses_without_a_reason_cost_the_logarithm_of_the_classes() -> None:
    """Logits that say nothing of the labels are best at the highest temperature."""
    torch.manual_seed(4)
    logits, labels = torch.randn(2000, 9), torch.randint(0, 9, (2000,))
    loss = calibrated_loss(temperature_sums(logits, labels).tolist(), 2000)
    assert loss == pytest.approx(math.log(9), rel=2e-3)


def test_a_classifier_that_is_right_as_often_as_it_says_has_no_calibration_error() -> None:
    # Two of three right at a confidence of 2/3, and four of four at 1.
    logits = torch.tensor([[math.log(2), 0.0]] * 3 + [[60.0, 0.0]] * 4)
    labels = torch.tensor([0, 0, 1, 0, 0, 0, 0])
    sums = {name: value.tolist() for name, value in confidence_sums(logits, labels).items()}
    assert calibration_error(sums["confidence"], sums["confident_right"], 7) == pytest.approx(0, abs=1e-5)
    wrong = {name: value.tolist() for name, value in confidence_sums(logits, 1 - labels).items()}
    # Three at 2/3 with one right, four at 1 with none: (3 * 1/3 + 4) / 7.
    assert calibration_error(wrong["confidence"], wrong["confident_right"], 7) == pytest.approx(500 / 7)
