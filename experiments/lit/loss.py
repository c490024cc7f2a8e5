"""The contrastive loss over the whole batch, for any number of processes."""

import torch
import torch.distributed as dist
import torch.distributed.nn as differentiable
import torch.nn.functional as F
from torch import Tensor

from experiments.harness.errors import ConfigError


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Mean cross-entropy of matching each image to its text, and each text to its image, among those of all processes.

    ``images`` and ``texts`` are this process's unit vectors ``[N, D]``; ``scale`` multiplies their cosines. Averaged
    over the processes, value and gradient equal those of a single process with the whole batch. The same bits as
    open_clip's ClipLoss(local_loss=True, gather_with_grad=True), whose import takes longer than everything else before
    the first step.
    """
    all_images, all_texts, first = images, texts, 0
    if dist.is_initialized() and dist.get_world_size() > 1:
        all_images, all_texts = (torch.cat(differentiable.all_gather(part)) for part in (images, texts))
        first = dist.get_rank() * len(images)
    partners = torch.arange(first, first + len(images), device=images.device)
    with torch.autocast(images.device.type, enabled=False):  # in bf16, logits near 100 would be rounded to integers
        of_images = F.cross_entropy(scale * images @ all_texts.T, partners)
        of_texts = F.cross_entropy(scale * texts @ all_images.T, partners)
    return (of_images + of_texts) / 2


def check_batch(batch_size: int, micro_batch_size: int) -> None:
    """Raise ConfigError unless each process has one micro-batch per step: pairs are compared with the whole batch."""
    processes = dist.get_world_size() if dist.is_initialized() else 1
    if micro_batch_size * processes != batch_size:
        raise ConfigError(
            f"train.micro_batch_size={micro_batch_size} must be train.batch_size / processes = {batch_size} / "
            f"{processes}: the contrastive loss needs the whole batch. To save memory set model.chunk_size."
        )
