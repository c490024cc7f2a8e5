"""How long an optimizer's step takes, over the parameter shapes of real models: this suite's Lion beside the others.

    make bench-optimizer

All contestants are timed in one process, in rounds of which each has a few steps, so that a slow minute of the machine
is a slow minute for all. A copy of memory is timed in every round too: what moves its bytes as fast is at the limit.
Writes results/optimizer_step/<device>/results.json, and from it README.md and step-time.png.
"""

import gc
import json
import os
import re
import subprocess
import sys
import time
from importlib.metadata import version
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from benchmarks.contestants import Contestant, contestants
from benchmarks.extra_memory import with_gradients
from benchmarks.page import FOLDER, write_page
from benchmarks.shapes import MODELS
from experiments.harness.provenance import ROOT, environment

ROUNDS = 2
STEPS_PER_ROUND = 3
COPY_BYTES = 2**30
MEMORY_MODEL = "ViT-B/16"
PEERS = ("lion-pytorch", "pytorch-optimizer", "timm", "torch-optimi")


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step_ms(optimizer: Optimizer, steps: int, device: torch.device) -> list[float]:
    """Milliseconds of each of so many steps, after one that makes the state."""
    optimizer.step()
    times_ms = []
    for _ in range(steps):
        synchronize(device)
        start = time.perf_counter()
        optimizer.step()
        synchronize(device)
        times_ms.append(1e3 * (time.perf_counter() - start))
    return times_ms


def copy_gb_per_s(source: torch.Tensor, target: torch.Tensor, device: torch.device) -> float:
    """Bytes that a copy reads and writes, a second."""
    synchronize(device)
    start = time.perf_counter()
    target.copy_(source)
    synchronize(device)
    return 2 * source.nbytes / (time.perf_counter() - start) / 1e9


def time_model(params: list[Parameter], entrants: dict[str, Contestant], device: torch.device) -> dict[str, Any]:
    """``step_ms``: all times of each contestant, and ``copy_gb_per_s``: of each round."""
    source, target = torch.ones(2, COPY_BYTES // 4, device=device)
    times_ms: dict[str, list[float]] = {name: [] for name in entrants}
    copies = []
    for round_number in range(ROUNDS):
        copies.append(max(copy_gb_per_s(source, target, device) for _ in range(2)))  # the first one warms up
        names = list(entrants)
        for name in names[round_number:] + names[:round_number]:
            times_ms[name] += step_ms(entrants[name].build(params), STEPS_PER_ROUND, device)
            gc.collect()
    return {"parameters": sum(param.numel() for param in params), "step_ms": times_ms, "copy_gb_per_s": copies}


def extra_memory(device: torch.device) -> dict[str, int]:
    """Bytes that each contestant's step takes for MEMORY_MODEL, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.extra_memory", device.type, MEMORY_MODEL]
    variables = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=variables, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, int] = json.loads(done.stdout)
    return measured


def main() -> None:
    """Measure on the GPU if there is one, else on the CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    record = environment("image_classification")
    hardware = record["hardware"]
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{hardware['cpu']} {hardware['cpu_count']} cores"
    entrants = contestants(device)
    models = {}
    for model in MODELS:
        print(f"{model}: {len(entrants)} optimizers, {ROUNDS} rounds", flush=True)
        models[model] = time_model(with_gradients(model, device), entrants, device)
    results = {
        "device": name,
        "environment": {key: record[key] for key in ("git_sha", "git_dirty", "python", "hardware")},
        "versions": {package: version(package) for package in ("torch", *PEERS)},
        "threads": torch.get_num_threads(),
        "rounds": ROUNDS,
        "steps_per_round": STEPS_PER_ROUND,
        "bytes_per_parameter": {name: entrant.bytes_per_parameter for name, entrant in entrants.items()},
        "models": models,
        "memory_model": MEMORY_MODEL,
        "extra_bytes": extra_memory(device),
    }
    directory = FOLDER / re.sub("[^a-z0-9]+", "-", name.lower())
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    write_page(directory)
    print(directory.relative_to(ROOT) / "README.md")


if __name__ == "__main__":
    main()
