"""Peak memory covers only training."""

import torch

from experiments.harness.timing import PeakMemory

MIB = 2**20


def test_the_peak_is_that_of_the_segments_and_not_of_what_is_between() -> None:
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
