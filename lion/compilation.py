"""How fused_cpu.cpp is compiled: by setup.py into a wheel, else into the user's cache.

setup.py runs it without PyTorch, so it imports nothing but the standard library.
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
"""What g++ calls the instructions that torch.backends.cpu.get_cpu_capability() names."""


def built_kernel(capability: str) -> Path:
    """Where a wheel has the kernel for these instructions, compiled from this source; no file if it has none."""
    key = _digest(SOURCE.read_bytes(), *map(str.encode, _flags(capability)))
    return SOURCE.with_name(f"fused_cpu-{platform.machine()}-{key}.so")


def cached_kernel(capability: str) -> Path:
    """The kernel of the user's cache, kept there for each source, compiler and kind of processor; compiled if need be.

    Its name ends in the digest of its content: what a crash or a full disk left of a kernel would crash every process
    that loads it, so it is compiled anew. The folder must be the user's alone, who runs what lies in it.

    Raises:
        OSError, subprocess.CalledProcessError: there is no C++ compiler, or it fails, or no folder to write to.
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

    # Not by torch.utils.cpp_extension, which waits for ever for a compilation that was killed.
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        target = Path(unfinished) / "kernel.so"
        compile_kernel(capability, target)
        with target.open("rb") as file:
            kernel = folder / f"{name}-{_digest(file.read())}.so"
            os.fsync(file.fileno())
        target.replace(kernel)
    return kernel


def compile_kernel(capability: str, target: Path) -> None:
    """Compile the kernel for these instructions.

    Raises:
        OSError, subprocess.CalledProcessError: there is no C++ compiler, or it fails.
    """
    subprocess.run([*_command(capability), str(SOURCE), "-o", str(target)], capture_output=True, check=True)
    if not target.exists():
        raise FileNotFoundError(f"{shlex.join(compiler())} compiled without an error and wrote nothing")


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
        "-ffp-contract=off",  # or it would add products unrounded, which the operators do not
        *("-fno-math-errno", "-fno-trapping-math"),  # else the loop is not vectorized; neither changes a result
    ]


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
