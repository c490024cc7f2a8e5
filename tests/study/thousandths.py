"""AdamW with its learning rate in thousandths: the same optimizer in a different unit."""

from typing import Any

import torch


class AdamWInThousandths(torch.optim.AdamW):
    """``lr=3`` is AdamW's ``lr=0.003``."""

    def __init__(self, params: Any, lr: float, **settings: Any) -> None:
        super().__init__(params, lr / 1000, fused=True, **settings)

    def step(self, closure: Any = None) -> Any:
        """The harness sets the groups' lr before each step, in thousandths."""
        rates = [group["lr"] for group in self.param_groups]
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate / 1000
        result = super().step(closure)
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate
        return result
