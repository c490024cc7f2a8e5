"""Clocks and a memory meter for training, which exclude evaluation and checkpoints."""

import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch


class TrainingClock:
    """Seconds of training: stopped during evaluation, checkpointing and compile warm-up, and continued after a
    resume.
    """

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
        if not pairs:
            return {}
        if self._cuda:
            torch.cuda.synchronize()
            return {"time/optimizer_step_ms": statistics.median(start.elapsed_time(end) for start, end in pairs)}
        return {"time/optimizer_step_ms": statistics.median((end - start) * 1000 for start, end in pairs)}


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
        self.bytes = max(self.bytes, self._peak_since_start())

    def _peak_since_start(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        status = Path("/proc/self/status")
        if not status.exists():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak_kib = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak_kib) * 1024
