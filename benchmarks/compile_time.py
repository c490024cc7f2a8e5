"""Print how many seconds the constructor of a fused Lion takes, which compiles the kernel or finds it compiled.

python -m benchmarks.compile_time <cpu or cuda>
"""

import sys
import time

import torch
from torch.nn import Parameter

from lion import Lion

if __name__ == "__main__":
    param = Parameter(torch.zeros(1, device=sys.argv[1]))
    Lion([param], fused=False)  # torch imports many modules for its first optimizer
    start = time.perf_counter()
    Lion([param], fused=True)
    print(time.perf_counter() - start)
