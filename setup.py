"""Compile Lion's kernel into the wheel where a C++ compiler is at hand; everything else is in pyproject.toml."""

import importlib.util
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

# Not `import lion`, which needs torch, and the environment of a build has none.
specification = importlib.util.spec_from_file_location("compilation", Path(__file__).parent / "lion" / "compilation.py")
assert specification is not None
assert specification.loader is not None
compilation = importlib.util.module_from_spec(specification)
specification.loader.exec_module(compilation)


class BuildWithKernels(build_py):
    """The modules, and a kernel for each set of instructions that PyTorch may be told to keep to."""

    def run(self) -> None:
        """Copy the modules, then compile."""
        super().run()
        if self.editable_mode:  # the source may change, and each change is compiled on its first use
            return
        folder = Path(self.build_lib) / "lion"
        for stale in folder.glob("fused_cpu-*.so"):
            stale.unlink()
        x86 = platform.machine() in ("x86_64", "AMD64")
        for capability in ["DEFAULT", *(compilation.INSTRUCTION_SETS if x86 else ())]:
            try:
                compilation.compile_kernel(capability, folder / compilation.built_kernel(capability).name)
            except (OSError, subprocess.SubprocessError) as error:
                print(f"No kernel for {capability} is built, and the first use compiles it: {error}", file=sys.stderr)


class WheelForAnyPython(bdist_wheel):
    """The kernel knows nothing of Python's version."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, its binary interface, and the machine."""
        _, _, machine = super().get_tag()
        return "py3", "none", machine


class DistributionWithKernels(Distribution):
    """With a compiler a wheel is for machines of one kind, without one for any."""

    def has_ext_modules(self) -> bool:
        """Whether there is more in it than Python."""
        return shutil.which(compilation.compiler()[0]) is not None


setup(
    cmdclass={"build_py": BuildWithKernels, "bdist_wheel": WheelForAnyPython},
    distclass=DistributionWithKernels,
)
