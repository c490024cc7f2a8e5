"""Compile fused_cpu.cpp: into a wheel by setup.py or, if that has no kernel for this machine, into the user's cache.

setup.py uses this module without PyTorch, so it imports nothing but the standard library.
"""

import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("fused_cpu.cpp")

INSTRUCTION_SETS = {"AVX2": "x86-64-v3", "AVX512": "x86-64-v4"}
"""The -march values for the instruction sets that torch.backends.cpu.get_cpu_capability() returns."""


def built_kernel(capability: str) -> Path:
    """Path of a wheel's kernel for this instruction set and this source. The file need not exist."""
    key = _digest(SOURCE.read_bytes(), *map(str.encode, _flags(capability)))
    return SOURCE.with_name(f"fused_cpu-{platform.machine()}-{key}.so")


def cached_kernel(capability: str) -> Path:
    """The kernel in the user's cache, which has one per source, compiler and kind of processor; compiled if missing.

    Its file name ends in the digest of its content. An incomplete kernel, left by a crash or a full disk, would crash
    every process that loads it, so it is compiled again. The folder must be accessible to the user only, because its
    content is executed.

    Raises:
        OSError, subprocess.CalledProcessError: there is no C++ compiler, it fails, or the folder is not writable.
    """
    version = subprocess.run([*compiler(), "--version"], capture_output=True, check=True).stdout
    name = f"{platform.machine()}-{_digest(SOURCE.read_bytes(), version, ' '.join(_command(capability)).encode())}"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lion-optimizer"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user: set XDG_CACHE_HOME to a folder of your own")
    folder.chmod(0o700)
    for kernel in folder.glob(f"{name}-*.so"):
        if kernel.stat().st_uid == os.getuid() and kernel.stem == f"{name}-{_digest(kernel.read_bytes())}":
            return kernel
        kernel.unlink(missing_ok=True)

    # torch.utils.cpp_extension is not used because it waits forever after a compilation was killed.
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        target = Path(unfinished) / "kernel.so"
        compile_kernel(capability, target)
        with target.open("rb") as file:
            kernel = folder / f"{name}-{_digest(file.read())}.so"
            os.fsync(file.fileno())
        target.replace(kernel)
    return kernel


def compile_kernel(capability: str, target: Path) -> None:
    """Compile the kernel for this instruction set.

    Raises:
        OSError, subprocess.CalledProcessError: there is no C++ compiler, or it fails.
    """
    subprocess.run([*_command(capability), str(SOURCE), "-o", str(target)], capture_output=True, check=True)
    if not target.exists():
        raise FileNotFoundError(f"{shlex.join(compiler())} reported no error but wrote no file")


def compiler() -> list[str]:
    """The command of the C++ compiler: CXX, or c++."""
    return shlex.split(os.environ.get("CXX", "c++"))


def _command(capability: str) -> list[str]:
    return [*compiler(), *_flags(capability)]


def _flags(capability: str) -> list[str]:
    instructions = INSTRUCTION_SETS.get(capability)
    return [
        *([f"-march={instructions}"] if instructions else []),
        *("-std=c++17", "-O3", "-fopenmp-simd", "-fPIC", "-shared"),
        "-ffp-contract=off",  # fused multiply-adds would skip a rounding that the operators perform
        *("-fno-math-errno", "-fno-trapping-math"),  # otherwise the loop is not vectorized; neither changes a result
    ]


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
