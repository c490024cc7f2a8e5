"""Which instructions a CPU run computes with, pinned before PyTorch is loaded, and what the libraries made of it.

The same sum in wider registers is added in another order, so that rows are the same to the bit only where the
instruction sets are. With AVX2 pinned, AMD processors with and without AVX-512 agree (docs/reproducing.md).
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
"""What PyTorch's own kernels, oneDNN, MKL (twice) and NumPy's OpenBLAS read when they are loaded."""

MKL_BRANCHES = {1: "off", 2: "auto", 3: "compatible", 4: "SSE2", 8: "SSE4.2", 9: "AVX", 10: "AVX2", 12: "AVX512"}
"""mkl_types.h. Another maker's processor than Intel's gets "auto" for any instruction set that is asked for."""


def pin_instruction_set(instruction_set: str | None) -> None:
    """Let this process, and those that it starts, compute with one instruction set; None leaves the processor's best.

    Raises:
        ConfigError: there is no such pin, or PyTorch has been loaded under another one.
    """
    if instruction_set is None:
        return
    if instruction_set not in PINS:
        raise ConfigError(f"train.instruction_set must be null or {' or '.join(PINS)}, but it is {instruction_set!r}.")
    pins = PINS[instruction_set]
    if "torch" in sys.modules and any(os.environ.get(name) != value for name, value in pins.items()):
        raise ConfigError(
            f"train.instruction_set={instruction_set} comes too late: PyTorch is loaded in this process already, "
            "with other instructions. Start this run in a process of its own."
        )
    os.environ.update(pins)


def check_instruction_set(instruction_set: str | None) -> None:
    """Raise ConfigError if this processor does not compute with the instruction set that is pinned."""
    import torch

    found = torch.backends.cpu.get_cpu_capability()
    if instruction_set is not None and found != instruction_set.upper():
        raise ConfigError(
            f"train.instruction_set={instruction_set}, but PyTorch computes with {found} on this {platform.machine()} "
            "processor. Set train.instruction_set=null: the run then has another name, and other bits."
        )


def describe_arithmetic(device: "torch.device") -> dict[str, Any]:
    """What decides the bits of a computation on ``device`` by this process, as the libraries say it."""
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
    """The branch of MKL's code in force; None where PyTorch comes without MKL."""
    import torch

    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        branch = ctypes.CDLL(str(library)).mkl_serv_cbwr_get(1)  # mkl_cbwr_get(MKL_CBWR_BRANCH)
    except (OSError, AttributeError):
        return None
    return MKL_BRANCHES.get(branch, str(branch))


def cpu_field(key: str) -> str | None:
    """A field of the first processor in /proc/cpuinfo; None where there is none."""
    return file_field("/proc/cpuinfo", key)


def file_field(path: str, key: str) -> str | None:
    """The value of the first line ``key : value`` of a file of the system; None where there is none."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    fields = (line.split(":", 1) for line in lines if ":" in line)
    return next((value.strip() for name, value in fields if name.strip() == key), None)
