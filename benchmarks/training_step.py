"""Time a training step of this suite's loop, a bare loop, and the loop that a task's users would run.

    make bench

A task's loops take turns in one process, each round starting with a different loop, so that a slow minute of the
machine affects them all. Writes results/training_step/<device>/results.json and, from it, README.md.
"""

from experiments.harness.arithmetic import pin_instruction_set  # isort: skip

pin_instruction_set("avx2")  # as mini runs do, and before PyTorch is loaded

import argparse
import gc
from typing import Any

import torch

from benchmarks.record import machine_and_versions, publish
from benchmarks.training_loops import Setting, scale_for
from benchmarks.training_page import FOLDER, write_page
from benchmarks.training_peers import LOOPS

ROUNDS = 7
LIBRARIES = ("torch", "torchvision", "timm", "open_clip_torch", "transformers", "diffusers", "accelerate")


def time_task(task: str, device: torch.device, rounds: int) -> dict[str, Any]:
    """Time the loops of ``task``; ``ms`` holds milliseconds per step, by loop and round."""
    setting, loops = Setting(task, device), LOOPS[task]
    step_ms: dict[str, list[float]] = {name: [] for name in loops}
    names = list(loops)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            torch.use_deterministic_algorithms(False)  # the other libraries' default; this suite's loop sets its own
            torch.set_num_threads(setting.train["threads"])
            step_ms[name].append(loops[name](setting))
            gc.collect()
        print(f"{task}, round {number + 1}: { ({name: round(times[-1], 1) for name, times in step_ms.items()}) } ms")
    return {"batch_size": setting.train["batch_size"], "steps": setting.steps, "ms": step_ms}


def main() -> None:
    """Measure on the GPU if there is one, otherwise on the CPU."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--tasks", nargs="+", choices=LOOPS, default=list(LOOPS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results = {
        **machine_and_versions(device, LIBRARIES),
        "scale": scale_for(device),
        "rounds": arguments.rounds,
        "tasks": {task: time_task(task, device, arguments.rounds) for task in arguments.tasks},
    }
    publish(results, FOLDER, write_page)


if __name__ == "__main__":
    main()
