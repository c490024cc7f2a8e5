"""Measure each step's memory beyond parameters, gradients and state; print {contestant: bytes} as JSON.

    python -m benchmarks.extra_memory <cpu or cuda> <one of shapes.MODELS>

On a CPU this is the rise of the process's peak resident memory, so the allocator must return freed memory to the
system: run it with MALLOC_MMAP_THRESHOLD_=65536, as optimizer_step.py does.
"""

import json
import sys
from pathlib import Path

import torch
from torch.nn import Parameter

from benchmarks.contestants import Contestant, contestants
from benchmarks.shapes import parameter_shapes


def with_gradients(model: str, device: torch.device) -> list[Parameter]:
    """Parameters with the shapes of one of shapes.MODELS, each with a gradient."""
    generator = torch.Generator(device).manual_seed(0)
    params = []
    for shape in parameter_shapes(model):
        params.append(Parameter(torch.randn(shape, generator=generator, device=device)))
        params[-1].grad = torch.randn(shape, generator=generator, device=device)
    return params


def _resident_bytes(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def extra_bytes(contestant: Contestant, params: list[Parameter], device: torch.device) -> int:
    """Peak memory during a step minus the memory in use before it."""
    optimizer = contestant.build(params)
    optimizer.step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        optimizer.step()
        return torch.cuda.max_memory_allocated() - before
    before = _resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to VmRSS
    optimizer.step()
    return max(_resident_bytes("VmHWM") - before, 0)


if __name__ == "__main__":
    on = torch.device(sys.argv[1])
    ours = with_gradients(sys.argv[2], on)
    print(json.dumps({name: extra_bytes(contestant, ours, on) for name, contestant in contestants(on).items()}))
