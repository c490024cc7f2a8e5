"""Two steps of Lion in a process that has no kernel yet: run by test_lion_fused_compilation.py."""

import logging
import sys

import torch

from lion import Lion
from lion.fused import _kernel
from lion.fused_cpu import _compiled, _libraries
from tests.lion.building import with_gradient

if __name__ == "__main__":
    for cached in (_kernel, _compiled, _libraries):  # a fork inherits the caches of its parent
        cached.cache_clear()
    logging.basicConfig(level=logging.INFO, force=True)
    logging.captureWarnings(True)  # instead of by pytest
    param = with_gradient(torch.zeros(5000))
    optimizer = Lion([param], lr=0.5, fused=sys.argv[1:] == ["asked for"] or None)
    print("built")
    optimizer.step()
    optimizer.step()
    print(param.unique().tolist())
