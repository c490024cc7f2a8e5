"""The fused kernel of a CPU: fused_cpu.cpp, compiled on first use and called once for all tensors of a step.

torch.compile makes as good a loop of the plain update, but a call of it takes 20 to 30 microseconds, for every tensor.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

ALIGNMENT_BYTES = 1
"""What the kernel assumes of addresses: nothing."""

SOURCE = Path(__file__).with_suffix(".cpp")
INSTRUCTION_SETS = {"AVX2": "x86-64-v3", "AVX512": "x86-64-v4"}
"""What g++ calls the instructions that torch.backends.cpu.get_cpu_capability() names."""


def step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    compensations: Sequence[Tensor] | None = None,
    *,
    lr: float | Tensor,
    decay: float | Tensor,
    beta1: float,
    beta2: float,
    sign: int,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Update parameters, momenta and compensations in place.

    Each list is of one dtype, float32 or bfloat16; the tensors at an index lie in memory alike. Nothing changes if
    `found_inf` is not 0, and gradients are divided by `grad_scale`.

    Raises:
        OSError, subprocess.CalledProcessError: there is no C++ compiler, or it fails.
    """
    if found_inf is not None and found_inf.item():
        return
    factor = float(sign) if grad_scale is None else sign * grad_scale.double().reciprocal().item()
    state = [exp_avgs] if compensations is None else [exp_avgs, compensations]
    name = "_".join(str(column[0].dtype).removeprefix("torch.") for column in (params, *state))
    pointers, sizes = ctypes.c_void_p * len(params), ctypes.c_int64 * len(params)
    addresses = [pointers(*[tensor.data_ptr() for tensor in column]) for column in (params, grads, *state)]
    _library()[name](
        ctypes.c_int64(len(params)),
        sizes(*[param.numel() for param in params]),
        *(addresses if compensations else [*addresses, None]),
        (ctypes.c_float * 7)(factor, float(decay), float(lr), beta1, 1 - beta1, beta2, 1 - beta2),
        torch.get_num_threads(),
    )


@cache
def _library() -> ctypes.CDLL:
    """The compiled kernel, kept in the user's cache for each source, compiler and kind of processor."""
    instructions = INSTRUCTION_SETS.get(torch.backends.cpu.get_cpu_capability())
    command = [
        *shlex.split(os.environ.get("CXX", "c++")),
        *([f"-march={instructions}"] if instructions else []),
        *("-std=c++17", "-O3", "-fopenmp", "-fPIC", "-shared"),
        "-ffp-contract=off",  # or it would add products unrounded, which the operators do not
        *("-fno-math-errno", "-fno-trapping-math"),  # else the loop is not vectorized; neither changes a result
    ]
    version = subprocess.run([*command[:1], "--version"], capture_output=True, check=True).stdout
    digest = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), version, " ".join(command).encode()])).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lion-optimizer"
    compiled = folder / f"{platform.machine()}-{digest[:16]}.so"
    if not compiled.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Not by torch.utils.cpp_extension, which waits for ever for a compilation that was killed.
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            target = Path(unfinished) / compiled.name
            subprocess.run([*command, str(SOURCE), "-o", str(target)], capture_output=True, check=True)
            target.replace(compiled)
    return ctypes.CDLL(str(compiled))
