"""Clocks and a memory meter for training, which exclude evaluation and checkpoints."""

import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from experiments.harness.arithmetic import file_field


class TrainingClock:
    """Seconds of training, without evaluation, checkpoints and compile warm-up; continued when a run is resumed."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device = device
        self._started: float | None = None

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def start(self) -> None:
        """Start or resume the clock."""
        self._started = self._now()

    def stop(self) -> None:
        """Pause, and add the time since ``start`` to ``seconds``."""
        assert self._started is not None, "the clock was not running"
        self.seconds += self._now() - self._started
        self._started = None


class StepTimer:
    """Time spent in ``with timer: optimizer.step()``; measured by CUDA events on a GPU, without waiting."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[Any] = []

    def _mark(self) -> None:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def __enter__(self) -> None:
        self._mark()

    def __exit__(self, *_: object) -> None:
        self._mark()

    def take_median_ms(self) -> dict[str, float]:
        """``{"time/optimizer_step_ms": median}`` of the steps since the last call, or empty. Waits for the GPU."""
        pairs = list(zip(self._marks[::2], self._marks[1::2], strict=True))
        self._marks = []
        if self._cuda:
            torch.cuda.synchronize()
        spans = [start.elapsed_time(end) if self._cuda else (end - start) * 1000 for start, end in pairs]
        return {"time/optimizer_step_ms": statistics.median(spans)} if spans else {}


class PeakMemory:
    """Peak memory of training: allocated memory on a GPU, else resident memory of the process (on Linux; elsewhere
    since the process began). Like the clock, it is stopped during evaluation.
    """

    def __init__(self, device: torch.device) -> None:
        self.bytes = 0
        self._device = device

    def start(self) -> None:
        """Start measuring, disregarding any earlier evaluation or run in the same process."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif (clear_refs := Path("/proc/self/clear_refs")).exists():
            clear_refs.write_text("5")  # Linux: resets VmHWM

    def stop(self) -> None:
        """Raise ``bytes`` to the peak since ``start`` if that is higher."""
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
        elif resident := file_field("/proc/self/status", "VmHWM"):  # such as "1234 kB"
            peak = int(resident.split()[0]) * 1024
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.bytes = max(self.bytes, peak)
