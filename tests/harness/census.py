"""Which operators of a computation a GPU would have to answer at once, or computes in an order that varies."""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

MOVES_SCALARS = {
    *("aten._to_copy", "aten.copy_", "aten._foreach_copy_"),
    *("aten.where", "aten.index", "aten.index_put", "aten.index_put_", "aten._index_put_impl_"),
}
"""Operators that copy even a scalar tensor from the CPU (PyTorch's Copy.cu, TensorCompare.cpp and
TensorAdvancedIndexing.cpp). All others that accept one pass it to their kernel as an argument."""

READS = (
    *("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.is_nonzero", "aten.equal"),
    *("aten._unique2", "aten.unique_dim", "aten.unique_consecutive", "aten.repeat_interleave"),
)
"""Operators whose result, or its shape, the host needs before it can go on."""

REFUSED = {
    "torch.nn.AvgPool3d": ["avg_pool3d_backward"],
    "torch.nn.AdaptiveAvgPool2d": ["_adaptive_avg_pool2d_backward"],
    "torch.nn.AdaptiveAvgPool3d": ["_adaptive_avg_pool3d_backward"],
    "torch.nn.AdaptiveMaxPool2d": ["adaptive_max_pool2d_backward"],
    "torch.nn.FractionalMaxPool2d": ["fractional_max_pool2d_backward"],
    "torch.nn.FractionalMaxPool3d": ["fractional_max_pool3d_backward"],
    "torch.nn.MaxUnpool1d": ["max_unpool2d"],
    "torch.nn.MaxUnpool2d": ["max_unpool2d"],
    "torch.nn.MaxUnpool3d": ["max_unpool3d"],
    "torch.nn.functional.interpolate": [
        *("upsample_linear1d_backward", "upsample_bilinear2d_backward", "_upsample_bilinear2d_aa_backward"),
        *("upsample_bicubic2d_backward", "_upsample_bicubic2d_aa_backward", "upsample_trilinear3d_backward"),
    ],
    "torch.nn.ReflectionPad1d": ["reflection_pad1d_backward"],
    "torch.nn.ReflectionPad2d": ["reflection_pad2d_backward"],
    "torch.nn.ReflectionPad3d": ["reflection_pad3d_backward"],
    "torch.nn.NLLLoss": ["nll_loss2d_forward"],  # the loss of vectors has a deterministic kernel
    "torch.nn.CTCLoss": ["_ctc_loss_backward"],
    "torch.nn.EmbeddingBag": ["_embedding_bag_dense_backward"],
    "torch.Tensor.put_": ["put", "put_"],
    "torch.histc": ["histc"],
    "torch.bincount": ["bincount"],
    "torch.median": ["median", "nanmedian"],
    "torch.nn.functional.grid_sample": ["grid_sampler_2d_backward", "grid_sampler_3d_backward"],
    "torch.Tensor.scatter_reduce": ["scatter_reduce", "scatter_reduce_"],
}
"""What throws on CUDA under ``torch.use_deterministic_algorithms(True)``, as its documentation names it, and the
operators that throw. Some do so only for some arguments; none of them is used here."""
UNREPRODUCIBLE = {f"aten.{operator}" for operators in REFUSED.values() for operator in operators}


class Census(TorchDispatchMode):
    """Counts operators, and those among them that read from a ``device``, or copy to or from it and wait."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.called = Counter[str]()
        self.reads = Counter[str]()
        self.copies = Counter[str]()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(operator.overloadpacket)
        self.called[name] += 1
        reads = name in READS or (name.startswith("aten.index") and any(_is_mask(arg) for arg in args[1:2]))
        if reads and any(self._here(each) for each in _tensors(args)):
            self.reads[name] += 1
        result = operator(*args, **(kwargs or {}))
        if self._waits_for_copy(name, args, kwargs or {}, result):
            self.copies[name] += 1
        return result

    def _waits_for_copy(self, name: str, args: Any, kwargs: dict[str, Any], result: Any) -> bool:
        tensors = _tensors([args, kwargs, result])
        elsewhere = [each for each in tensors if not self._here(each) and (each.ndim or name in MOVES_SCALARS)]
        elsewhere = [each for each in elsewhere if each.numel()]  # of an empty tensor nothing is copied
        if not elsewhere or not any(map(self._here, tensors)):
            return False
        writes = name in ("aten.copy_", "aten._foreach_copy_")
        if not (args[2:3] == (True,) if writes else kwargs.get("non_blocking")):
            return True
        # Without pinned memory, CUDA may wait all the same. Batches of the loader are pinned, but PyTorch first copies
        # tensors with gaps to memory that is not. What `to` allocates on the host is pinned; that of `copy_` may not.
        return (writes and not any(map(self._here, _tensors(args[0])))) or not all(map(_has_no_gaps, elsewhere))

    def _here(self, tensor: torch.Tensor) -> bool:
        return tensor.device.type == self.device

    @property
    def unreproducible(self) -> dict[str, int]:
        """How often each operator was called that has no deterministic implementation on CUDA."""
        return {name: number for name, number in self.called.items() if name in UNREPRODUCIBLE}


def _tensors(args: Any) -> list[torch.Tensor]:
    return [each for each in tree_iter(args) if isinstance(each, torch.Tensor)]


def _is_mask(indices: Any) -> bool:
    return isinstance(indices, list | tuple) and any(
        each.dtype in (torch.bool, torch.uint8) for each in _tensors(indices)
    )


def _has_no_gaps(tensor: torch.Tensor) -> bool:
    return bool(torch.ops.aten.is_non_overlapping_and_dense(tensor))
