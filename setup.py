"""Compile Lion's kernel into the wheel if a C++ compiler is available; everything else is in pyproject.toml."""

import importlib.util
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

# `import lion` would need torch, which the build environment does not have.
specification = importlib.util.spec_from_file_location("compilation", Path(__file__).parent / "lion" / "compilation.py")
assert specification is not None
assert specification.loader is not None
compilation = importlib.util.module_from_spec(specification)
specification.loader.exec_module(compilation)


class BuildWithKernels(build_py):
    """Build the modules, and a kernel for each instruction set that PyTorch may use."""

    def run(self) -> None:
        """Copy the modules, then compile."""
        super().run()
        if self.editable_mode:  # the source may change, and each version is compiled on first use
            return
        folder = Path(self.build_lib) / "lion"
        for stale in folder.glob("fused_cpu-*.so"):
            stale.unlink()
        x86 = platform.machine() in ("x86_64", "AMD64")
        for capability in ["DEFAULT", *(compilation.INSTRUCTION_SETS if x86 else ())]:
            try:
                compilation.compile_kernel(capability, folder / compilation.built_kernel(capability).name)
            except (OSError, subprocess.SubprocessError) as error:
                print(f"No kernel built for {capability}; it is compiled on first use: {error}", file=sys.stderr)


class WheelForAnyPython(bdist_wheel):
    """A wheel for any Python version, because the kernel does not depend on it."""

    def get_tag(self) -> tuple[str, str, str]:
        """The wheel's Python, ABI and platform tags."""
        _, _, machine = super().get_tag()
        return "py3", "none", machine


class DistributionWithKernels(Distribution):
    """With a compiler, the wheel is for one platform; without one, for any."""

    def has_ext_modules(self) -> bool:
        """Whether the wheel will contain compiled code."""
        return shutil.which(compilation.compiler()[0]) is not None


setup(
    cmdclass={"build_py": BuildWithKernels, "bdist_wheel": WheelForAnyPython},
    distclass=DistributionWithKernels,
)
