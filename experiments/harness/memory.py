"""The memory of a forward and backward pass, counted without a GPU and without allocating it.

The loss and gradients are computed on fake tensors, which have a shape, a dtype and a device but no values. Every
allocation is counted until it is freed. Not counted: workspaces of libraries, such as cuDNN's for convolutions, and
what the allocator loses to fragmentation.
"""

import heapq
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_iter

FLASH_HEAD = 256
"""Largest head of FlashAttention in PyTorch."""


class CountingMode(FakeTensorMode):
    """Makes every new tensor a fake one, and counts the bytes of those that are alive."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.live = 0
        self.peak = 0
        self._depth = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Shapes may be derived by a decomposition, whose intermediate results do not exist on a device.
        self._depth += 1
        try:
            result = super().__torch_dispatch__(operator, types, args, kwargs)
        finally:
            self._depth -= 1
        if not self._depth:
            for tensor in tree_iter(result):
                if isinstance(tensor, Tensor):
                    self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def freed(_: Any) -> None:
            self.live -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)


def move_shapes(model: nn.Module, device: str) -> None:
    """Replace a model's tensors on the device ``meta`` by new ones on another ``device``, which the machine need not
    have under a CountingMode; ``Module.to_empty`` cannot do that.
    """
    made: dict[Tensor, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    if tensor not in made:
                        empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
                        is_weight = isinstance(tensor, nn.Parameter)
                        made[tensor] = nn.Parameter(empty, tensor.requires_grad) if is_weight else empty
                    tensors[name] = made[tensor]  # type: ignore[assignment]


@dataclass(frozen=True)
class PassMemory:
    """Bytes of a forward and backward pass, besides the weights."""

    saved: int
    """what the forward pass keeps for the backward pass"""
    peak: int
    """the most at any time"""


def pass_memory(
    mode: CountingMode, model: nn.Module, loss: Callable[[], Tensor], *, bf16: bool, gradients: bool
) -> PassMemory:
    """The memory of one forward and backward pass of ``model``, whose tensors are fake ones of the current ``mode``.

    With ``bf16`` the forward pass is under autocast and its outputs are converted to float32, as accelerate does. With
    ``gradients``, gradients of the weights, which must not exist yet, are counted too, and left in ``grad``.
    """
    with _as_on_device(model, bf16):
        weights = mode.peak = mode.live
        with torch.autograd.graph.saved_tensors_hooks(_Saved, _Saved.give):
            value = loss()
        saved = mode.live - weights
        _backward(value, gradients)
    return PassMemory(saved, mode.peak - weights)


def forward_memory(
    mode: CountingMode, model: nn.Module, compute: Callable[[], Any], *, bf16: bool, keeps_casts: bool
) -> int:
    """The most bytes, besides the weights, at any time of ``compute()`` without gradients; with ``bf16`` under
    autocast, as a whole evaluation is, which with ``keeps_casts`` keeps its copies of the weights. The tensors of
    ``model`` are fake ones of the current ``mode``.
    """
    device = next(model.parameters()).device.type
    with _as_on_device(model, bf16=False), torch.no_grad():
        before = mode.peak = mode.live
        with torch.autocast(device, torch.bfloat16, enabled=bf16, cache_enabled=keeps_casts):
            compute()
    return mode.peak - before


@contextmanager
def _as_on_device(model: nn.Module, bf16: bool) -> Iterator[None]:
    """Make ``model`` compute as it would on its device, which this machine need not have."""
    device = next(model.parameters()).device.type
    forward = model.forward

    def under_autocast(*args: Any, **kwargs: Any) -> Any:
        from accelerate.utils.operations import convert_to_fp32

        with torch.autocast(device, torch.bfloat16):
            outputs = forward(*args, **kwargs)
        return convert_to_fp32(outputs)

    with ExitStack() as stack:
        if device == "cuda":
            # Without a GPU, PyTorch turns autocast off and chooses the attention that keeps all its weights.
            stack.enter_context(patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False))
            stack.enter_context(patch("torch.cuda.is_bf16_supported", lambda *_: True))
            stack.enter_context(patch.object(F, "scaled_dot_product_attention", _attention))
        # One recomputation for all tensors of a checkpoint, as in a backward pass of autograd's engine.
        stack.enter_context(patch.object(torch.utils.checkpoint.uuid, "uuid4", lambda: 0))
        if bf16:
            stack.enter_context(patch.object(model, "forward", under_autocast))
        yield


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``scaled_dot_product_attention`` by the kernel that it uses on a GPU, with cuDNN's turned off (accelerator.py):
    FlashAttention for 16 bits without a mask, else the memory-efficient one.
    """
    assert not enable_gqa, "the kernels expect as many heads of keys as of queries"
    if torch.is_autocast_enabled("cuda"):
        query, key, value = (each.to(torch.bfloat16) for each in (query, key, value))
    if attn_mask is None and query.dtype == torch.bfloat16 and query.shape[-1] <= FLASH_HEAD:
        output: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, False, scale=scale
        )[0]
        return output
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.where(attn_mask, 0.0, float("-inf"))
        attn_mask = attn_mask.to(query.dtype).expand(*query.shape[:-1], key.shape[-2])
    needs_gradient = torch.is_grad_enabled() and query.requires_grad
    output = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, needs_gradient, dropout_p, is_causal, scale=scale
    )[0]
    return output


class _Saved:
    """A tensor kept for the backward pass, until the node that kept it has run."""

    used: "list[_Saved]" = []

    def __init__(self, tensor: Tensor) -> None:
        self.tensor: Tensor | None = tensor

    def give(self) -> Tensor:
        """The tensor."""
        assert self.tensor is not None, "used by two nodes"
        self.used.append(self)
        return self.tensor


@torch.no_grad()
def _backward(loss: Tensor, gradients: bool) -> None:
    """``loss.backward()``, in the same order. Autograd's engine refuses CUDA tensors on a machine without a GPU."""
    root: Any = loss.grad_fn
    waits_for: dict[Any, int] = {root: 0}
    todo = [root]
    while todo:
        for node, _ in todo.pop().next_functions:
            if node is not None:
                if node not in waits_for:
                    todo.append(node)
                waits_for[node] = waits_for.get(node, 0) + 1

    arrived: dict[Any, list[Tensor | None]] = {root: [torch.ones_like(loss)]}
    ready = [(-root._sequence_nr(), 0, root)]
    pushed = 0
    while ready:
        node = heapq.heappop(ready)[2]
        received = arrived.pop(node, [None])
        if node.name() == "torch::autograd::AccumulateGrad":
            if gradients:
                weight, gradient = node.variable, received[0]
                weight.grad = gradient if weight.grad is None else weight.grad + gradient
            continue
        sent = node(*received) if any(each is not None for each in received) else [None] * len(node.next_functions)
        del received
        for used in _Saved.used:
            used.tensor = None
        _Saved.used.clear()
        sent = list(sent) if isinstance(sent, tuple | list) else [sent]
        for place, (following, number) in enumerate(node.next_functions):
            gradient, sent[place] = sent[place], None
            if following is None:
                continue
            if gradient is not None:
                _deliver(gradient, number, arrived, following)
            del gradient
            waits_for[following] -= 1
            if not waits_for[following]:
                pushed += 1
                last = following.name() != "torch::autograd::AccumulateGrad"
                heapq.heappush(ready, (-following._sequence_nr() if last else -(2**63), pushed, following))


def _deliver(gradient: Tensor, number: int, arrived: dict[Any, list[Tensor | None]], node: Any) -> None:
    """Add the gradient of the node's output ``number``, in that output's shape and dtype."""
    outputs = node._input_metadata
    gradients = arrived.setdefault(node, [None] * len(outputs))
    gradient = gradient.sum_to_size(outputs[number].shape).to(outputs[number].dtype)
    earlier = gradients[number]
    gradients[number] = gradient if earlier is None else earlier + gradient
