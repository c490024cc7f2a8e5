"""Clean up after a local Ray: ``python ray_watch.py <its folder>``, with the ids of its processes on standard input.

Ray's agents outlive a Ray whose head they cannot reach, and a study that was ended by SIGKILL. This process waits for
the line OVER, or for the end of its input, which only the study holds open; it then kills what is left of the processes
and removes the folder.
"""

import shutil
import sys
from contextlib import suppress

import psutil

OVER = "over\n"

if __name__ == "__main__":
    processes = []
    for line in iter(sys.stdin.readline, ""):
        if line == OVER:
            break
        with suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(int(line)))  # remembers its start, since numbers are used again
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    shutil.rmtree(sys.argv[1], ignore_errors=True)
