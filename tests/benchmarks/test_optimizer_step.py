"""The step benchmark: its contestants do the same work, and its numbers match a hand calculation."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from benchmarks import optimizer_step
from benchmarks.contestants import contestants
from benchmarks.optimizer_step import compile_s, step_ms
from benchmarks.page import FOLDER, bandwidth_table, page, ratios_table, times_table
from benchmarks.shapes import MODELS, parameter_shapes
from experiments.harness.source_code import ROOT

CPU = torch.device("cpu")


def weights_after(name: str, steps: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    param = Parameter(torch.randn(70, 70, generator=generator))
    optimizer = contestants(CPU)[name].build([param])
    for _ in range(steps):
        param.grad = torch.randn(70, 70, generator=generator)
        optimizer.step()
    return param.detach()


@pytest.mark.parametrize("name", [name for name in contestants(CPU) if "AdamW" not in name and "bf16" not in name])
def test_every_lion_implementation_takes_identical_steps(name: str) -> None:
    assert torch.equal(weights_after(name), weights_after("Lion, loop"))


@pytest.mark.parametrize(("model", "millions"), list(zip(MODELS, [25.6, 86.6, 110.4, 336.1, 730.9], strict=True)))
def test_benchmark_shapes_add_up_to_the_published_model_sizes(model: str, millions: float) -> None:
    assert sum(shape.numel() for shape in parameter_shapes(model)) / 1e6 == pytest.approx(millions, abs=0.6)


EXTRA_BYTES = """
import json, torch
from benchmarks.contestants import contestants
from benchmarks.extra_memory import extra_bytes

params = [torch.nn.Parameter(torch.randn(2**21)) for _ in range(8)]
for param in params:
    param.grad = torch.randn(2**21)
cpu = torch.device("cpu")
print(json.dumps([extra_bytes(contestants(cpu)[name], params, cpu) for name in ("Lion, fused", "Lion, foreach")]))
"""


def test_a_fused_step_allocates_no_memory_but_a_foreach_step_does() -> None:
    variables = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", EXTRA_BYTES]
    done = subprocess.run(command, env=variables, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    fused_bytes, foreach_bytes = json.loads(done.stdout)
    parameter_bytes = 8 * 4 * 2**21
    assert fused_bytes < 0.01 * parameter_bytes
    assert foreach_bytes > 0.9 * parameter_bytes


@pytest.mark.parametrize("least_s", [0.0, 0.05])
def test_every_step_but_the_first_is_timed_until_the_round_is_long_enough(
    least_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizer_step, "SECONDS_PER_ROUND", {"cpu": least_s})
    param = Parameter(torch.zeros(1))
    param.grad = torch.ones(1)
    times_ms = step_ms(contestants(CPU)["Lion, loop"].build([param]), CPU)
    assert min(times_ms) > 0
    assert param.item() == pytest.approx(-1e-4 * (1 + len(times_ms)), rel=1e-2)
    if least_s:
        assert sum(times_ms[:-1]) < 1e3 * least_s <= sum(times_ms)
    else:
        assert len(times_ms) == optimizer_step.STEPS_PER_ROUND


@pytest.mark.slow
def test_the_next_process_reuses_the_compiled_kernel() -> None:
    first_s, again_s = compile_s(CPU)
    assert first_s > 2 * again_s


def small_results() -> dict[str, Any]:
    """One million parameters: at 10 ms Lion moves 20 MB in 10 ms, 2 GB/s; a copy moves 4."""
    return {
        "bytes_per_parameter": {"Lion, fused": 20, "AdamW, fused": 28},
        "models": {
            "tiny": {
                "parameters": 10**6,
                "step_ms": {"Lion, fused": [9.0, 10.0, 11.0], "AdamW, fused": [20.0, 20.0, 20.0]},
                "copy_gb_per_s": [4.0, 4.0],
            }
        },
        "memory_model": "tiny",
        "extra_bytes": {"Lion, fused": 4 * 10**4, "AdamW, fused": 0},
    }


def test_times_ratios_and_bandwidths_match_a_hand_calculation() -> None:
    results = small_results()
    assert "| Lion, fused | 10.0 (9.0 to 11.0) |" in times_table(results)
    assert "| Lion, fused | 0.50 | 1.0 % |" in ratios_table(results)
    assert "| Lion, fused | 20 | 50 % |" in bandwidth_table(results)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*/results.json")), ids=lambda path: path.parent.name)
def test_committed_pages_match_their_results(path: Any) -> None:
    assert (path.parent / "README.md").read_text() == page(json.loads(path.read_text()))
