"""The fused CPU kernel, fused_cpu.cpp, called once for all tensors of a step.

torch.compile turns the plain update into an equally fast loop, but calling it takes 20 to 30 microseconds per tensor.
"""

import ctypes
import logging
from array import array
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lion.compilation import built_kernel, cached_kernel
from lion.fusible import Columns, are_plain

log = logging.getLogger(__name__)

ALIGNMENT_BYTES = 1
"""Alignment that the kernel requires of addresses: none."""


def step(
    columns: Columns,
    *,
    lr: float | Tensor,
    decay: float | Tensor,
    beta1: float,
    beta2: float,
    sign: int,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> bool:
    """Update parameters, momenta and compensations in place; with `grad_scale`, divide the gradients by it in place.

    Nothing changes if `found_inf` is not 0. If the kernel does not support these tensors, nothing changes and the
    return value is False. All must be plain CPU tensors; each column must have a single dtype, float32 or bfloat16;
    the tensors of a row must have the same shape and the same dense memory layout; and tensors that are written must
    not share memory.

    Raises:
        OSError, subprocess.CalledProcessError: there is no C++ compiler, or it fails.
    """
    if not are_plain(columns):
        return False
    check, kernel, bits, functions = _compiled(columns[0][0].dtype, columns[2][0].dtype, len(columns) == 4)
    tensors = len(columns[0])
    table = array("q", [0]) * ((len(columns) + 1) * tensors)
    address = table.buffer_info()[0]
    lists = columns if len(columns) == 4 else (*columns, None)
    if not check(*lists, tensors, len(columns), bits, torch.get_num_threads(), functions, address):
        return False
    if found_inf is None or not found_inf.item():
        inverse_scale = 1.0 if grad_scale is None else grad_scale.double().reciprocal().item()
        scalars = array("f", (sign, float(decay), float(lr), beta1, 1 - beta1, beta2, 1 - beta2, inverse_scale))
        kernel(tensors, address, scalars.buffer_info()[0], functions)
    return True


@cache
def _compiled(
    param: torch.dtype, exp_avg: torch.dtype, compensated: bool
) -> tuple[Callable[..., int], Callable[..., None], ctypes.Array[ctypes.c_int64], ctypes.Array[ctypes.c_void_p]]:
    """The compiled check and step for these dtypes, the bits per entry of each column, and the functions they call."""
    check_library, library = _libraries()
    check = check_library.lion_check
    check.argtypes = [*[ctypes.py_object] * 4, *[ctypes.c_int64] * 2, ctypes.c_void_p, ctypes.c_int64]
    check.argtypes += [ctypes.c_void_p] * 2
    dtypes = [param, param, exp_avg] + compensated * [param]
    kernel = library["lion_" + "_".join(str(dtype).removeprefix("torch.") for dtype in [param, *dtypes[2:]])]
    kernel.argtypes = [ctypes.c_int64, *[ctypes.c_void_p] * 3]
    kernel.restype = None
    bits = (ctypes.c_int64 * 4)(*[8 * dtype.itemsize for dtype in dtypes])
    return check, kernel, bits, _functions()


@cache
def _functions() -> ctypes.Array[ctypes.c_void_p]:
    """Addresses of the functions that the kernel calls: `Functions` in fused_cpu.cpp."""
    (libtorch,) = Path(torch.__file__).parent.glob("lib/libtorch_cpu.*")
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.argtypes, pointer_of.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
    # Major and minor version, an older interface, then functions, the fourth of which describes a tensor.
    interface = pointer_of(torch.Tensor.__dlpack_c_exchange_api__, b"dlpack_exchange_api")
    version = ctypes.c_uint32.from_address(interface).value
    if version != 1:
        raise OSError(f"PyTorch {torch.__version__} describes tensors by DLPack {version}, not 1")
    describe = (ctypes.c_void_p * 6).from_address(interface)[5]
    python = ctypes.pythonapi
    others = [python.PyList_GetItem, python.PyErr_Clear, ctypes.CDLL(str(libtorch)).torch_parallel_for]
    list_item, clear_error, parallel_for = [ctypes.cast(function, ctypes.c_void_p) for function in others]
    return (ctypes.c_void_p * 4)(list_item, clear_error, describe, parallel_for)


@cache
def _libraries() -> tuple[ctypes.PyDLL, ctypes.CDLL]:
    """The kernel from the wheel, else from the user's cache, to be called with and without the GIL held."""
    capability = torch.backends.cpu.get_cpu_capability()
    built = built_kernel(capability)
    if built.exists():
        try:
            return ctypes.PyDLL(str(built)), ctypes.CDLL(str(built))
        except OSError as error:  # for example, built for another C library
            log.info("%s cannot be loaded, so the kernel is compiled again: %s", built.name, error)
    cached = str(cached_kernel(capability))
    return ctypes.PyDLL(cached), ctypes.CDLL(cached)
