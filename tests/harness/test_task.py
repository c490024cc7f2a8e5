"""Forward passes in parts: their values and their sizes."""

import pytest
import torch
from torch import Tensor, nn

from experiments.harness.task import in_parts


@pytest.mark.parametrize(("most", "sizes"), [(1, [1] * 10), (4, [4, 3, 3]), (9, [5, 5]), (10, [10]), (99, [10])])
def test_equal_parts_give_the_values_of_one_pass(most: int, sizes: list[int]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    images, weights = torch.randn(10, 3, 8, 8), torch.randn(10, 1)

    def forward(images: Tensor, weights: Tensor) -> Tensor:
        seen.append(len(images))
        logits: Tensor = weights * model(images)
        return logits

    seen: list[int] = []
    with torch.no_grad():
        parts, whole = in_parts(forward, most, images, weights), forward(images, weights)
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)
    assert seen == [*sizes, 10]


def test_a_device_other_than_the_cpu_gets_all_samples_at_once() -> None:
    def forward(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images

    seen: list[int] = []
    in_parts(forward, 2, torch.empty(5, 3, device="meta"))
    assert seen == [5]
