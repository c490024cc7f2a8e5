"""The contrastive loss: the same in two processes with half the batch each, and the same bits as open_clip's."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

from experiments.lit.models import contrastive_loss
from tests.harness.process_group import in_processes


def batch() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(8, 6, generator=generator, dtype=torch.float64) for _ in range(2)]


def embed(
    images: torch.Tensor, texts: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return F.normalize(images, dim=1), F.normalize(texts @ weight, dim=1), torch.tensor(5.0, dtype=torch.float64)


def test_the_contrastive_loss_of_two_processes_matches_one_with_the_whole_batch(tmp_path: Path) -> None:
    def save_sums() -> None:
        dist.init_process_group("gloo")
        weight = torch.nn.Parameter(torch.eye(6, dtype=torch.float64))
        images, texts = (part.chunk(2)[dist.get_rank()] for part in batch())
        loss = contrastive_loss(*embed(images, texts, weight))
        loss.backward()
        assert weight.grad is not None
        sums = {"loss": loss.detach(), "grad": weight.grad}
        for value in sums.values():
            dist.all_reduce(value)
        if dist.get_rank() == 0:
            torch.save({name: value / 2 for name, value in sums.items()}, tmp_path / "out.pt")

    assert in_processes(2, save_sums) == [0, 0]
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    weight = torch.nn.Parameter(torch.eye(6, dtype=torch.float64))
    images, texts = batch()
    loss = contrastive_loss(*embed(images, texts, weight))
    loss.backward()
    torch.testing.assert_close(found["loss"], loss.detach())
    torch.testing.assert_close(found["grad"], weight.grad)


def test_the_contrastive_loss_matches_open_clip_bit_for_bit() -> None:
    from open_clip.loss import ClipLoss

    results = []
    for loss_of in (contrastive_loss, ClipLoss()):
        weight = torch.nn.Parameter(torch.eye(6))
        images, texts = (part.float() for part in batch())
        loss = loss_of(F.normalize(images, dim=1), F.normalize(texts @ weight, dim=1), torch.tensor(14.3))
        loss.backward()
        results.append((loss.detach(), weight.grad))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
