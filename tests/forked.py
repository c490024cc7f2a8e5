"""Run commands of the suite in a fork of the test process, which has already imported their modules."""

import gc
import os
import runpy
import subprocess
import sys
import tempfile
import traceback

import scipy.stats  # noqa: F401  # what commands import late: once here instead of in every fork
import torch._dynamo  # noqa: F401

import experiments.report.rebuild
import experiments.study.sweep  # noqa: F401


class Started:
    """A command in a session of its own, as the child process ``pid``."""

    def __init__(self, command: list[str]) -> None:
        _, option, module, *arguments = command
        assert option == "-m"
        self.command, self._files = command, [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
        self.pid = os.fork()
        if self.pid == 0:
            gc.freeze()  # a collection of what the parent has made would copy all of its memory
            os.setsid()
            for number, file in enumerate(self._files, start=1):
                os.dup2(file.fileno(), number)
            sys.stdin = open(os.devnull)  # noqa: SIM115  # as long as the process
            sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
            os._exit(_main(module, arguments))

    def poll(self) -> int | None:
        """Its exit code once it has ended, and until then None."""
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return None if ended is None else ended.si_status

    def result(self) -> subprocess.CompletedProcess[str]:
        """Wait for its end."""
        _, status = os.waitpid(self.pid, 0)
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read())
            file.close()
        return subprocess.CompletedProcess(self.command, os.waitstatus_to_exitcode(status), *texts)


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Like ``subprocess.run`` of ``python -m <module> <argument>...``, without five seconds of imports."""
    return Started(command).result()


def _main(module: str, arguments: list[str]) -> int:
    """Run a module as the interpreter would, in the child process; returns the exit code."""
    sys.argv = [module, *arguments]
    code: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as request:
        code = request.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return int(code or 0)
