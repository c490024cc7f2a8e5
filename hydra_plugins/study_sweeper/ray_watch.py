"""End a local Ray whose study was killed: ``python ray_watch.py <its folder> <process id>...``.

Ray's agents outlive a study that was ended by SIGKILL. This process waits for the end of its standard input, which only
the study holds open, and then kills what is left of these processes and removes the folder.
"""

import shutil
import sys
from contextlib import suppress

import psutil

if __name__ == "__main__":
    folder, *ids = sys.argv[1:]
    processes = []
    for number in ids:
        with suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(int(number)))  # remembers its start, since numbers are used again
    sys.stdin.read()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)
