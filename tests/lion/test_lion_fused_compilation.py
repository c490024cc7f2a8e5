"""The CPU kernel is compiled once, by the constructor; it survives kills, damage and broken compilers.

Most processes are forks of this one, which spares them the import of torch.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
import torch
from torch.nn import Parameter

from experiments.harness.source_code import ROOT
from lion import Lion
from lion.fused import _kernel
from lion.fused_cpu import _compiled, _libraries
from tests import forked
from tests.lion.building import with_gradient

TWO_STEPS = [sys.executable, "-m", "tests.lion.two_steps"]
WORKS = ["built", "[-1.0]"]


def started(cache: Path, *arguments: str, **variables: str) -> forked.Started:
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {"XDG_CACHE_HOME": str(cache), **variables}.items():
            environment.setenv(name, value)
        return forked.Started([*TWO_STEPS, *arguments])


def finished(process: forked.Started) -> tuple[list[str], str]:
    """Words of stdout, and stderr."""
    result = process.result()
    assert result.returncode == 0, result.stderr
    return result.stdout.split(), result.stderr


def compiler_script(folder: Path, lines: str) -> str:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's cache with a compiled kernel; only to be copied."""
    cache = tmp_path_factory.mktemp("kernels")
    assert finished(started(cache))[0] == WORKS
    return cache


def test_the_kernel_is_compiled_once_by_the_constructor() -> None:
    _kernel.cache_clear()
    _compiled.cache_clear()
    _libraries.cache_clear()
    Lion([Parameter(torch.zeros(3))], fused=True)
    assert _libraries.cache_info().currsize == 1
    for dtype in (torch.float32, torch.bfloat16):
        Lion([with_gradient(torch.zeros(100, dtype=dtype))], fused=True, kahan_sum=True).step()
    assert _libraries.cache_info().misses == 1


def test_concurrent_and_later_processes_share_one_compiled_kernel(tmp_path: Path) -> None:
    together = [started(tmp_path) for _ in range(2)]
    for process in together:
        assert finished(process)[0] == WORKS
    (compiled,) = tmp_path.glob("lion-optimizer/*")
    written_ns = compiled.stat().st_mtime_ns
    stdout, stderr = finished(started(tmp_path))
    assert stdout == WORKS
    assert "Lion's fused kernel on cpu was ready after" in stderr
    assert compiled.stat().st_mtime_ns == written_ns


@pytest.mark.parametrize("compiler", ["/no/compiler", "false", "true"])
def test_fused_true_without_a_working_compiler_warns_once_and_uses_the_loop(compiler: str, tmp_path: Path) -> None:
    stdout, stderr = finished(started(tmp_path, "asked for", CXX=compiler))
    assert stdout == WORKS
    assert stderr.count("UserWarning: Lion's fused kernel cannot be compiled here, so it uses PyTorch's ope") == 1
    assert not list(tmp_path.glob("lion-optimizer/*"))


def test_without_a_compiler_the_default_uses_the_loop_without_warning(tmp_path: Path) -> None:
    stdout, stderr = finished(started(tmp_path, CXX="/no/compiler"))
    assert stdout == WORKS
    assert "UserWarning" not in stderr
    assert stderr.count("INFO:lion.fused:Lion's fused kernel cannot be compiled here") == 1


def test_a_killed_compilation_is_restarted(tmp_path: Path) -> None:
    # The last argument is the target.
    compiler = compiler_script(
        tmp_path,
        '[ "$1" = --version ] && exec c++ --version\nfor argument; do :; done\necho half of it >"$argument"\nsleep 60',
    )
    killed = started(tmp_path, CXX=compiler)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("lion-optimizer/*/*.so")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.result()
    assert finished(started(tmp_path))[0] == WORKS


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda kernel: b"",
    "truncated": lambda kernel: kernel[: len(kernel) // 2],
    "flipped": lambda kernel: kernel[:5000] + bytes(255 - byte for byte in kernel[5000:9000]) + kernel[9000:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_kernel_is_recompiled(damage: Callable[[bytes], bytes], kernels: Path, tmp_path: Path) -> None:
    copytree(kernels, tmp_path, dirs_exist_ok=True)
    (compiled,) = tmp_path.glob("lion-optimizer/*")
    whole = compiled.read_bytes()
    compiled.write_bytes(damage(whole))
    assert finished(started(tmp_path))[0] == WORKS
    (compiled,) = tmp_path.glob("lion-optimizer/*")
    assert compiled.read_bytes() == whole


def test_the_kernel_folder_is_made_private_to_the_user(kernels: Path, tmp_path: Path) -> None:
    copytree(kernels, tmp_path, dirs_exist_ok=True)
    (tmp_path / "lion-optimizer").chmod(0o777)
    assert finished(started(tmp_path))[0] == WORKS
    assert (tmp_path / "lion-optimizer").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="needs another user's folder")
def test_a_kernel_folder_owned_by_another_user_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "lion-optimizer").mkdir()
    os.chown(tmp_path / "lion-optimizer", 12345, 12345)
    stdout, stderr = finished(started(tmp_path))
    assert stdout == WORKS
    assert "belongs to another user: set XDG_CACHE_HOME" in stderr
    assert not list(tmp_path.glob("lion-optimizer/*"))


@pytest.mark.parametrize("capability", ["avx2", pytest.param("default", marks=pytest.mark.slow)])
def test_the_kernel_is_compiled_for_pytorchs_instruction_set(capability: str, tmp_path: Path) -> None:
    compiler = compiler_script(tmp_path, f'echo "$@" >>{tmp_path}/commands\nexec c++ "$@"')
    variables = {"XDG_CACHE_HOME": str(tmp_path), "CXX": compiler, "ATEN_CPU_CAPABILITY": capability}
    result = subprocess.run(  # PyTorch reads the capability when it is imported
        TWO_STEPS, env={"PATH": os.environ["PATH"], **variables}, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == WORKS
    assert ("-march=x86-64-v3" in (tmp_path / "commands").read_text()) == (capability == "avx2")


class PTXASError(Exception):
    """Like Triton's, which derives directly from Exception."""


def test_a_kernel_triton_cannot_compile_falls_back_to_pytorchs_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: object, **__: object) -> bool:
        raise PTXASError("ptxas fatal: value sm_999 is not defined for option gpu-name")

    monkeypatch.setattr("lion.fused_cpu.step", step)
    _kernel.cache_clear()
    try:
        param = with_gradient(torch.zeros(3))
        with pytest.warns(UserWarning, match="cannot be compiled here, so it uses PyTorch's operators: ptxas fatal"):
            Lion([param], lr=0.5, fused=True).step()
        assert param.tolist() == [-0.5] * 3
    finally:
        _kernel.cache_clear()
