"""Peak memory covers only training."""

import torch

from experiments.harness.timing import PeakMemory

MIB = 2**20


def test_peak_memory_covers_only_the_timed_segments() -> None:
    memory = PeakMemory(torch.device("cpu"))
    peaks = []
    for size_mib in (64, 256, 8):
        memory.start()
        del [torch.ones(size_mib * MIB // 4)][0]
        memory.stop()
        peaks.append(memory.bytes)
        del [torch.ones(1024 * MIB // 4)][0]  # an evaluation
    assert 128 * MIB < peaks[1] - peaks[0] < 256 * MIB
    assert peaks[2] == peaks[1]
