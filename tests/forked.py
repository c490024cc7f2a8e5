"""Run commands of the suite in a fork of the test process, which has already imported their modules."""

import os
import runpy
import subprocess
import sys
import tempfile
import traceback

from hydra.core.global_hydra import GlobalHydra


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Like ``subprocess.run`` of ``python -m <module> <argument>...``, without five seconds of imports."""
    _, option, module, *arguments = command
    assert option == "-m"
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.stdin = open(os.devnull)  # noqa: SIM115  # as long as the process
            sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
            os._exit(_main(module, arguments))
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, os.waitstatus_to_exitcode(status), out.read(), err.read())


def _main(module: str, arguments: list[str]) -> int:
    """Run a module as the interpreter would, in the child process; returns the exit code."""
    GlobalHydra.instance().clear()
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
