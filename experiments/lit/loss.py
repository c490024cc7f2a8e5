"""The contrastive loss over the whole batch, for any number of processes."""

import torch
import torch.distributed as dist
from torch import Tensor

from experiments.harness.errors import ConfigError


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Mean cross-entropy of matching each image to its text, and each text to its image, among those of all processes.

    ``images`` and ``texts`` are this process's unit vectors ``[N, D]``; ``scale`` multiplies their cosines. Averaged
    over the processes, value and gradient equal those of a single process with the whole batch.
    """
    from open_clip.loss import ClipLoss

    processes = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if processes > 1 else 0
    clip_loss = ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=processes)
    with torch.autocast(images.device.type, enabled=False):  # in bf16, logits near 100 would be rounded to integers
        loss: Tensor = clip_loss(images, texts, scale)
    return loss


def check_batch(batch_size: int, micro_batch_size: int) -> None:
    """Raise ConfigError unless each process has one micro-batch per step: pairs are compared with the whole batch."""
    processes = dist.get_world_size() if dist.is_initialized() else 1
    if micro_batch_size * processes != batch_size:
        raise ConfigError(
            f"train.micro_batch_size={micro_batch_size} must be train.batch_size / processes = {batch_size} / "
            f"{processes}: the contrastive loss needs the whole batch. To save memory set model.chunk_size."
        )
