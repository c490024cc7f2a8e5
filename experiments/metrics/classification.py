"""Classification metrics as sums over samples, so that they do not depend on how a split is divided into batches."""

import torch.nn.functional as F
from torch import Tensor


def classification_sums(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Sums over a batch: cross-entropy, correct samples at rank 1 and within rank 5, and the number of samples.

    ``logits`` ``[N, classes]`` (any float dtype; computed in float32), ``labels`` int64 ``[N]``; sums are float64
    scalars. With fewer than 5 classes, rank 5 means all of them.
    """
    logits = logits.float()
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
    right = ranked == labels[:, None]
    return {
        "loss": F.cross_entropy(logits, labels, reduction="sum").double(),
        "top1": right[:, 0].sum().double(),
        "top5": right.sum().double(),
        "count": labels.new_tensor(len(labels)).double(),
    }


def classification_metrics(sums: dict[str, float]) -> dict[str, float]:
    """Mean cross-entropy (nats), and top-1 and top-5 accuracy in percent, from sums over a whole split."""
    count = sums["count"]
    return {"loss": sums["loss"] / count, "top1": 100 * sums["top1"] / count, "top5": 100 * sums["top5"] / count}
