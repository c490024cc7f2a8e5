"""Two steps of Lion in a process that has no kernel yet: run by test_lion_fused_compilation.py."""

import logging
import sys
import warnings
from typing import TextIO

import torch

from lion import Lion
from lion.fused import _kernel
from lion.fused_cpu import _compiled, _libraries


def print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(warnings.formatwarning(message, category, filename, lineno), file=sys.stderr)


if __name__ == "__main__":
    for cached in (_kernel, _compiled, _libraries):  # a fork inherits the caches of its parent
        cached.cache_clear()
    logging.basicConfig(level=logging.INFO, force=True)
    warnings.showwarning = print_warning  # instead of pytest's
    param = torch.nn.Parameter(torch.zeros(5000))
    param.grad = torch.ones(5000)
    optimizer = Lion([param], lr=0.5, fused=sys.argv[1:] == ["asked for"] or None)
    print("built")
    optimizer.step()
    optimizer.step()
    print(param.unique().tolist())
