"""`from lion import Lion` needs only torch."""

import contextlib
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import lion

# Hides every module but the standard library, torch, what torch itself requires, and lion; then uses all of lion.
PROGRAM = """
import sys

class Hide:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in allowed or name.startswith("_sysconfigdata"):
            return self.finder.find_spec(name, path, target)

root, *torch_requires = sys.argv[1:]
allowed = sys.stdlib_module_names | {"torch", "torchgen", "functorch", "lion", *torch_requires}
sys.meta_path = [Hide(finder) for finder in sys.meta_path]
sys.path.insert(0, root)

import torch
import lion

for foreach in (False, True):
    param = torch.nn.Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    optimizer = lion.Lion([param], lr=0.25, foreach=foreach)
    lion.measure_step(optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    assert param.tolist() == [0.75, 0.75]
try:
    import pytest
except ModuleNotFoundError as error:
    print(error, "numpy" in sys.modules)
"""


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(package: str, seen: set[str]) -> set[str]:
    """Names of the distributions that a package requires, recursively, without optional ones."""
    for requirement in importlib.metadata.requires(package) or []:
        name = normalized(re.split(r"[^A-Za-z0-9._-]", requirement)[0])
        if "extra ==" not in requirement and name not in seen:
            seen.add(name)
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # required on another platform
                requirements(name, seen)
    return seen


def test_lion_imports_only_torch() -> None:
    required = requirements("torch", set())
    modules = [
        module
        for module, distributions in importlib.metadata.packages_distributions().items()
        if required & {normalized(name) for name in distributions}
    ]
    root = Path(lion.__file__).parent.parent
    finished = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", PROGRAM, str(root), *modules],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "No module named 'pytest' False\n"  # confirms that other packages were hidden
