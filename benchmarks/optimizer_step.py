"""Time the step of this suite's Lion and of other optimizers, with the parameter shapes of real models.

    make bench-optimizer

All contestants are timed in one process, in rounds in which each takes a few steps, so that a temporary slowdown of the
machine affects all of them. A memory copy is timed in every round too.
Writes results/optimizer_step/<device>/results.json, and from it README.md and step-time.png.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from benchmarks.contestants import Contestant, contestants
from benchmarks.extra_memory import with_gradients
from benchmarks.page import FOLDER, write_page
from benchmarks.record import machine_and_versions, publish
from benchmarks.shapes import MODELS
from experiments.harness.source_code import ROOT

ROUNDS = 3
STEPS_PER_ROUND, SECONDS_PER_ROUND = 3, {"cpu": 0.3, "cuda": 0.1}
"""Minimum number of steps and minimum time per contestant and round."""

COPY_BYTES = 2**30
MEMORY_MODEL = "ViT-B/16"
PEERS = ("bitsandbytes", "lion-pytorch", "pytorch-optimizer", "timm", "torch-optimi")


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """The time that the device takes for ``work``."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def step_ms(optimizer: Optimizer, device: torch.device) -> list[float]:
    """Milliseconds of each step of a round, after a first step that creates the state."""
    optimizer.step()
    times_ms: list[float] = []
    while len(times_ms) < STEPS_PER_ROUND or sum(times_ms) < 1e3 * SECONDS_PER_ROUND[device.type]:
        times_ms.append(1e3 * seconds(optimizer.step, device))
    return times_ms


def time_model(params: list[Parameter], entrants: dict[str, Contestant], device: torch.device) -> dict[str, Any]:
    """``step_ms`` has all step times of each contestant, ``copy_gb_per_s`` the copy rate of each round."""
    source, target = torch.ones(2, COPY_BYTES // 4, device=device)
    times_ms: dict[str, list[float]] = {name: [] for name in entrants}
    copies = []
    for round_number in range(ROUNDS):
        copy_s = min(seconds(lambda: target.copy_(source), device) for _ in range(2))  # the first one warms up
        copies.append(2 * source.nbytes / copy_s / 1e9)  # it reads and writes
        names = list(entrants)
        for name in names[round_number:] + names[:round_number]:
            times_ms[name] += step_ms(entrants[name].build(params), device)
            gc.collect()
    return {"parameters": sum(param.numel() for param in params), "step_ms": times_ms, "copy_gb_per_s": copies}


def in_another_process(module: str, *arguments: str, **variables: str) -> Any:
    """Run a module of the benchmarks in a new process and parse the JSON that it prints."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    done = subprocess.run(command, env={**os.environ, **variables}, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def compile_s(device: torch.device) -> list[float]:
    """Seconds that the constructor takes in two processes; the first has to compile the kernel."""
    with tempfile.TemporaryDirectory() as cache:
        caches = {"XDG_CACHE_HOME": cache, "TRITON_CACHE_DIR": cache}
        return [in_another_process("compile_time", device.type, **caches) for _ in range(2)]


def main() -> None:
    """Measure on the GPU if available, else on the CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    about = machine_and_versions(device, ("torch", *PEERS))
    entrants = contestants(device)
    gc.freeze()  # keeps imported objects out of the collections that free the optimizers' state
    models = {}
    for model in MODELS:
        print(f"{model}: {len(entrants)} optimizers, {ROUNDS} rounds", flush=True)
        models[model] = time_model(with_gradients(model, device), entrants, device)
    results = {
        **about,
        "threads": torch.get_num_threads(),
        "rounds": ROUNDS,
        "bytes_per_parameter": {name: entrant.bytes_per_parameter for name, entrant in entrants.items()},
        "models": models,
        "memory_model": MEMORY_MODEL,
        "extra_bytes": in_another_process("extra_memory", device.type, MEMORY_MODEL, MALLOC_MMAP_THRESHOLD_="65536"),
        "compile_s": compile_s(device),
    }
    publish(results, FOLDER, write_page)


if __name__ == "__main__":
    main()
