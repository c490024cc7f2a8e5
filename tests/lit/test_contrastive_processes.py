"""Two processes with half the batch each get the same loss and gradient as one process with the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from experiments.lit.models import contrastive_loss

SCRIPT = """
import os, sys, torch, torch.distributed as dist
from experiments.lit.models import contrastive_loss
from tests.lit.test_contrastive_processes import batch, embed
dist.init_process_group("gloo")
rank = dist.get_rank()
weight = torch.nn.Parameter(torch.eye(6, dtype=torch.float64))
images, texts = (part.chunk(2)[rank] for part in batch())
loss = contrastive_loss(*embed(images, texts, weight))
loss.backward()
dist.all_reduce(weight.grad)
dist.all_reduce(loss.detach())
if rank == 0:
    torch.save({"loss": loss.detach() / 2, "grad": weight.grad / 2}, sys.argv[1])
dist.barrier()
os._exit(0)  # Python's shutdown sometimes aborts while gloo still holds a tensor (pytorch issue 190489)
"""


def batch() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(8, 6, generator=generator, dtype=torch.float64) for _ in range(2)]


def embed(
    images: torch.Tensor, texts: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return F.normalize(images, dim=1), F.normalize(texts @ weight, dim=1), torch.tensor(5.0, dtype=torch.float64)


def test_processes_share_a_batch(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29547"]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [*launcher, str(script), str(tmp_path / "out.pt")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, env=environment)
    assert result.returncode == 0, result.stderr
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    weight = torch.nn.Parameter(torch.eye(6, dtype=torch.float64))
    images, texts = batch()
    loss = contrastive_loss(*embed(images, texts, weight))
    loss.backward()
    torch.testing.assert_close(found["loss"], loss.detach())
    torch.testing.assert_close(found["grad"], weight.grad)


def test_the_bits_are_open_clip_s() -> None:
    from open_clip.loss import ClipLoss

    results = []
    for loss_of in (contrastive_loss, ClipLoss()):
        weight = torch.nn.Parameter(torch.eye(6))
        images, texts = (part.float() for part in batch())
        loss = loss_of(F.normalize(images, dim=1), F.normalize(texts @ weight, dim=1), torch.tensor(14.3))
        loss.backward()
        results.append((loss.detach(), weight.grad))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
