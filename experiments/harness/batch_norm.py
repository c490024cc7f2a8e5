"""Batch norm's running statistics over several processes: the same as in one process that sees all micro-batches."""

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from experiments.harness.averages import tracked_layers
from experiments.harness.errors import ConfigError


class SharedStatistics:
    """Updates the running statistics of a model's batch norms in each step, from the micro-batches of all processes in
    their order; by default each process would track only its own. In a single process it changes nothing.
    """

    def __init__(self, model: nn.Module, accelerator: Accelerator) -> None:
        names = tracked_layers(model) if accelerator.num_processes > 1 else []
        self._accelerator = accelerator
        self._norms: list[_NormBase] = [model.get_submodule(name) for name in names]  # type: ignore[misc]
        self._seen: list[Tensor] = []
        momenta = []
        for name, norm in zip(names, self._norms, strict=True):
            if norm.momentum is None:
                raise ConfigError(f"{name} is a batch norm with momentum=None, which several processes cannot share.")
            momenta.append(torch.full((2 * norm.num_features,), norm.momentum, device=accelerator.device))
            norm.momentum = 1.0  # running statistics are then those of the latest micro-batch
        self._momenta = torch.cat(momenta) if momenta else torch.zeros(0)

    def begin_step(self) -> None:
        """Call before the first micro-batch of a step."""
        if self._norms:
            self._running, self._seen = self._current(), []

    def end_micro_batch(self) -> None:
        """Call after each micro-batch."""
        if self._norms:
            self._seen.append(self._current())

    @torch.no_grad()
    def end_step(self) -> None:
        """Call after the last micro-batch of a step, in every process."""
        if not self._norms:
            return
        seen = self._accelerator.gather(torch.stack(self._seen)[None])  # [processes, micro-batches of each, values]
        for statistics in seen.transpose(0, 1).flatten(0, 1):  # process p has micro-batches p, p + processes, ...
            self._running.mul_(1 - self._momenta).add_(self._momenta * statistics)
        buffers = self._buffers()
        for buffer, value in zip(buffers, self._running.split([len(buffer) for buffer in buffers]), strict=True):
            buffer.copy_(value)
        for norm in self._norms:
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked += (len(seen) - 1) * len(self._seen)  # it has counted its own micro-batches

    def _current(self) -> Tensor:
        return torch.cat(self._buffers())

    def _buffers(self) -> list[Tensor]:
        tracked = [buffer for norm in self._norms for buffer in (norm.running_mean, norm.running_var)]
        return [buffer for buffer in tracked if buffer is not None]
