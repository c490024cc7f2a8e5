"""Pin the instruction set of a CPU run before NumPy and PyTorch are loaded, and report what the libraries actually use.

Wider registers add the terms of a sum in a different order, so rows are bitwise identical only with the same
instruction set. With AVX2 pinned, AMD processors with and without AVX-512 agree (docs/reproducing.md).
"""

import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.harness.errors import ConfigError

if TYPE_CHECKING:
    import torch

PINS = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "MKL_CBWR": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    }
}
"""Environment variables that PyTorch's own kernels, oneDNN, MKL (two) and NumPy's OpenBLAS read when loaded."""

MKL_BRANCHES = {1: "off", 2: "auto", 3: "compatible", 4: "SSE2", 8: "SSE4.2", 9: "AVX", 10: "AVX2", 12: "AVX512"}
"""From mkl_types.h. A processor not made by Intel gets "auto", whatever instruction set is requested."""


def pin_instruction_set(instruction_set: str | None) -> None:
    """Make this process, and those it starts, use one instruction set; None keeps the processor's best. Raises
    ConfigError if there is no such pin, or if NumPy or PyTorch was loaded with a different one.
    """
    if instruction_set is None:
        return
    if instruction_set not in PINS:
        raise ConfigError(f"train.instruction_set must be null or {' or '.join(PINS)}, but it is {instruction_set!r}.")
    pins = PINS[instruction_set]
    loaded = [library for library in ("numpy", "torch") if library in sys.modules]
    if loaded and any(os.environ.get(name) != value for name, value in pins.items()):
        raise ConfigError(
            f"train.instruction_set={instruction_set} comes too late: {' and '.join(loaded)} may already use another "
            "instruction set in this process. Start this run in a separate process."
        )
    os.environ.update(pins)


def check_instruction_set(instruction_set: str | None) -> None:
    """Raise ConfigError if PyTorch does not use the pinned instruction set on this processor."""
    import torch

    found = torch.backends.cpu.get_cpu_capability()
    if instruction_set is not None and found != instruction_set.upper():
        raise ConfigError(
            f"train.instruction_set={instruction_set}, but PyTorch uses {found} on this {platform.machine()} "
            "processor. Set train.instruction_set=null: the run then has a different name and rounds differently."
        )


def describe_arithmetic(device: "torch.device") -> dict[str, Any]:
    """What decides the bits of this process's computations on ``device``, as reported by the libraries."""
    import torch
    from threadpoolctl import threadpool_info

    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu_vendor": cpu_field("vendor_id") or platform.machine(),
        "aten": torch.backends.cpu.get_cpu_capability(),
        "onednn_limit": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "mkl_branch": _mkl_branch(),
        "openblas": sorted({pool["architecture"] for pool in threadpool_info() if pool["internal_api"] == "openblas"}),
        "threads": torch.get_num_threads(),
    }


def _mkl_branch() -> str | None:
    """MKL's active code branch; None if PyTorch was built without MKL."""
    import torch

    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        branch = ctypes.CDLL(str(library)).mkl_serv_cbwr_get(1)  # mkl_cbwr_get(MKL_CBWR_BRANCH)
    except (OSError, AttributeError):
        return None
    return MKL_BRANCHES.get(branch, str(branch))


def cpu_field(key: str) -> str | None:
    """A field of the first processor in /proc/cpuinfo; None if it is missing."""
    return file_field("/proc/cpuinfo", key)


def file_field(path: str, key: str) -> str | None:
    """The value of the first line ``key : value`` in a system file; None if there is none."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    fields = (line.split(":", 1) for line in lines if ":" in line)
    return next((value.strip() for name, value in fields if name.strip() == key), None)
