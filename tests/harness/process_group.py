"""Run several processes of one run as forks of the test process, which has already imported what they need."""

import os
import socket
import sys
import traceback
from collections.abc import Callable

import torch.distributed as dist


def in_processes(number: int, work: Callable[[], object]) -> list[int]:
    """Exit codes of ``number`` processes that do ``work`` together; -N for a process that signal N killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(number):
        child = os.fork()
        if child == 0:
            os._exit(_carry_out(rank, number, port, work))
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _carry_out(rank: int, number: int, port: int, work: Callable[[], object]) -> int:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
    try:
        work()
        # Python sometimes aborts at exit if one of gloo's threads still holds a tensor (pytorch issue 190489).
        dist.barrier()
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
