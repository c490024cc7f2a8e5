"""Temperature scaling and the calibration error; tests/metrics/agreement.py has other implementations of both."""

import math

import numpy as np
import pytest
import torch

from experiments.metrics.classification import (
    add_calibration,
    calibrated_losses,
    calibration_error,
    confidence_sums,
    no_calibration_sums,
    temperature_nats,
)


def samples(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    labels = torch.randint(0, 9, (300,))
    return torch.randn(300, 9) + 2 * torch.nn.functional.one_hot(labels, 9), labels


@pytest.mark.parametrize("factor", [0.2, 0.9, 1.01, 3.0, 11.0])
def test_calibrated_loss_does_not_depend_on_the_scale_of_the_logits(factor: float) -> None:
    (logits, labels), (val_logits, val_labels) = samples(0), samples(1)
    one, other = (
        calibrated_losses(
            temperature_nats(by * logits, labels), temperature_nats(by * val_logits, val_labels).sum(0).tolist()
        )
        for by in (1.0, factor)
    )
    # Per sample too, relative to the spread of samples: the fitted temperature differs by a ten-thousandth.
    assert np.abs(other - one).max() < 1e-3 * one.std()
    assert other.mean() == pytest.approx(one.mean(), rel=1e-5)


def test_calibration_sums_of_batches_add_up() -> None:
    logits, labels = samples(3)
    parts = list(zip(logits.split(70), labels.split(70), strict=True))
    whole, added = no_calibration_sums(logits.device, 300), no_calibration_sums(logits.device, 300)
    add_calibration(whole, logits, labels, range(300))
    for number, part in enumerate(parts):
        add_calibration(added, *part, np.arange(70 * number, 70 * number + len(part[1])))
    for name, value in whole.items():
        torch.testing.assert_close(added[name], value, rtol=1e-6, atol=1e-6)  # of float32
    torch.testing.assert_close(whole["nats_each"].sum(0), whole["nats"])


def test_uninformative_logits_have_a_calibrated_loss_of_log_classes() -> None:
    """For logits that are unrelated to the labels, the highest temperature is best."""
    torch.manual_seed(4)
    logits, labels = torch.randn(2000, 9), torch.randint(0, 9, (2000,))
    nats = temperature_nats(logits, labels).sum(0).tolist()
    assert calibrated_losses(nats, nats) / 2000 == pytest.approx(math.log(9), rel=2e-3)


def test_calibration_sums_of_logits_that_are_not_numbers_are_not_numbers() -> None:
    logits = torch.tensor([[1.0, 2.0], [math.nan, 0.0]])
    assert confidence_sums(logits, torch.tensor([1, 0]))["confidence"].sum().isnan()


def test_calibration_error_matches_a_hand_calculation() -> None:
    # Two of three correct at a confidence of 2/3, and four of four at 1.
    logits = torch.tensor([[math.log(2), 0.0]] * 3 + [[60.0, 0.0]] * 4)
    labels = torch.tensor([0, 0, 1, 0, 0, 0, 0])
    sums = {name: value.tolist() for name, value in confidence_sums(logits, labels).items()}
    assert calibration_error(sums["confidence"], sums["confident_right"], 7) == pytest.approx(0, abs=1e-5)
    wrong = {name: value.tolist() for name, value in confidence_sums(logits, 1 - labels).items()}
    # Three at 2/3 with one correct, four at 1 with none: (3 * 1/3 + 4) / 7.
    assert calibration_error(wrong["confidence"], wrong["confident_right"], 7) == pytest.approx(500 / 7)
