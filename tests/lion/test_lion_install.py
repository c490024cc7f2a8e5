"""`pip install` of this repository installs Lion, which needs only torch, with a precompiled kernel."""

import os
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import torch

from experiments.harness.source_code import ROOT

# Steps with the kernel only, and prints where lion is imported from.
PROGRAM = """
import sys
import torch
import lion
from lion import Lion
from lion.fused_cpu import step

param = torch.nn.Parameter(torch.zeros(1000))
param.grad = torch.ones(1000)
Lion([param], lr=0.5, fused=True).step()
assert param.unique().tolist() == [-0.5]
columns = [[torch.zeros(3)], [torch.ones(3)], [torch.zeros(3)]]
assert step(columns, lr=0.5, decay=1.0, beta1=0.9, beta2=0.99, sign=1)
print(lion.__file__)
"""


def run(*command: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CXX")}
    finished = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=900, env=environment | variables, cwd="/"
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of a copy of the clone."""
    folder = tmp_path_factory.mktemp("source")
    copy = folder / "clone"
    copy.mkdir()
    for name in ("lion", "pyproject.toml", "setup.py", "README.md", "LICENSE"):
        run("cp", "-r", str(ROOT / name), str(copy))
    build = (
        "import os, sys; from setuptools import build_meta; os.chdir(sys.argv[1]); build_meta.build_sdist(sys.argv[2])"
    )
    run(sys.executable, "-c", build, str(copy), str(folder))
    (built,) = folder.glob("*.tar.gz")
    return built


def wheel(source: Path, folder: Path, **variables: str) -> Path:
    pip = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder))
    run(sys.executable, *pip, str(source), **variables)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def compiled_wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel(source, tmp_path_factory.mktemp("wheel"))


def test_sdist_and_wheel_contain_the_kernel_source_but_not_the_suite(source: Path, compiled_wheel: Path) -> None:
    with tarfile.open(source) as archive:
        in_source = {name.partition("/")[2] for name in archive.getnames()}
    in_wheel = set(zipfile.ZipFile(compiled_wheel).namelist())
    assert {"lion/fused_cpu.cpp", "lion/lion.py", "setup.py"} <= in_source
    assert "lion/fused_cpu.cpp" in in_wheel
    assert {name.partition("/")[0] for name in in_wheel} == {"lion", "lion_reproduction-0.1.0.dist-info"}
    assert not any(name.startswith(("experiments", "hydra_plugins", "tests")) for name in in_source)


def test_the_wheel_requires_only_torch(compiled_wheel: Path) -> None:
    metadata = message_from_bytes(zipfile.ZipFile(compiled_wheel).read("lion_reproduction-0.1.0.dist-info/METADATA"))
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert required == ["torch>=2.11"]


def test_the_wheel_uses_its_prebuilt_kernel_without_a_compiler(compiled_wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    zipfile.ZipFile(compiled_wheel).extractall(target)
    site_of_torch = Path(torch.__file__).parent.parent
    for capability in ("avx2", "default"):
        variables = {
            "CXX": "/no/compiler",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "ATEN_CPU_CAPABILITY": capability,
        }
        imported_from = run(sys.executable, "-c", PROGRAM, PYTHONPATH=f"{target}:{site_of_torch}", **variables)
        assert imported_from.startswith(str(target))
    assert not (tmp_path / "cache").exists()


def test_a_wheel_built_without_a_compiler_is_platform_independent(source: Path, tmp_path: Path) -> None:
    built = wheel(source, tmp_path, CXX="/no/compiler")
    assert built.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(built).namelist() if name.endswith(".so")]


@pytest.mark.network
def test_pip_installs_the_wheel_and_torch_into_an_empty_environment(compiled_wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    python = str(tmp_path / "venv" / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), str(compiled_wheel))
    imported_from = run(python, "-c", PROGRAM, CXX="/no/compiler", XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert imported_from.startswith(str(tmp_path / "venv"))
    installed = {line.split("==")[0].lower() for line in run(python, "-m", "pip", "freeze").splitlines()}
    assert not installed & {"torchvision", "hydra-core", "wandb", "transformers", "datasets", "ray", "numpy"}
    run(python, "-m", "lion.doctor", "lion:Lion")
