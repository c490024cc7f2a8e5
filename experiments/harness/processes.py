"""A run with several GPUs (``run.gpus``): one process per GPU, started by the library behind torch.distributed.run.

The process that Hydra or a launcher has started, here called the parent, does not train: it waits, and passes signals
on. On several nodes (``run.nodes``) SLURM starts one parent per node.
"""

import ctypes
import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import psutil
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from experiments.harness import errors
from experiments.harness.config import processes_on_node
from experiments.harness.errors import ConfigError, RunError, SuiteError
from experiments.harness.explained import explained
from experiments.harness.signals import EXIT_CODE, SIGNALS, leave_when_asked, stop_requests

PR_SET_PDEATHSIG = 1
"""From Linux's prctl.h: the signal that a process receives when its parent dies."""
START_METHOD = "spawn"
"""A forked process could not use CUDA."""
LOOPBACK = "lo"
"""Linux's name of the interface 127.0.0.1."""
PORTS = (20000, 60000)
"""Between these lies the port at which the first node of a job listens, as in submitit/helpers.py."""


def is_launched() -> bool:
    """Whether this is one of several processes of a run, started by us, accelerate launch or torchrun."""
    return "RANK" in os.environ


def is_main(run: Mapping[str, Any]) -> bool:
    """Whether this process holds the run's record, or is the parent of the process that does."""
    if is_launched():
        return os.environ["RANK"] == "0"
    return run["nodes"] == 1 or os.environ.get("SLURM_NODEID", "0") == "0"


def leave_at_once(code: object) -> NoReturn:
    """End this process of several with an exit ``code``, without Python's shutdown. A thread of Gloo's may still hold a
    tensor, even after destroy_process_group; freeing it during the shutdown aborts the process (pytorch issue 190489).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def needs_processes(run: Mapping[str, Any]) -> bool:
    """Whether a run has to be started as several processes, and this is not one of them."""
    return not is_launched() and processes_on_node(run["gpus"]) * run["nodes"] > 1


def check_launcher(run: Mapping[str, Any], sweep: DictConfig) -> None:
    """Raise ConfigError if the launcher of a ``sweep`` cannot start a ``run`` of it, given by its resolved config: on
    several nodes, or at another scale, since the launcher is configured before the swept values are known.
    """
    nodes, scale, launcher = run["run"]["nodes"], run["scale"], sweep.hydra.launcher._target_
    if nodes > 1 and not launcher.endswith(".SlurmLauncher"):
        raise ConfigError(
            f"run.nodes={nodes}, but only hydra/launcher=slurm starts a run on several nodes, not "
            f"{launcher.rpartition('.')[2]}: set run.nodes to 1, or use slurm."
        )
    if scale != sweep.scale:
        raise ConfigError(
            f"The swept values choose scale={scale}, but the launcher is set up for scale={sweep.scale}: pass "
            f"scale={scale} too, and sweep one scale at a time."
        )


def check_nodes(nodes: int) -> None:
    """Raise ConfigError unless SLURM has started this process as one of ``nodes`` parents, one on each node."""
    if nodes == 1 or is_launched():
        return
    found = int(os.environ.get("SLURM_JOB_NUM_NODES", 1))
    if found != nodes or int(os.environ.get("SLURM_NTASKS", found)) != nodes:
        raise ConfigError(
            f"run.nodes={nodes}, but this process is not one of {nodes} that SLURM has started on {nodes} nodes: use "
            f"-m hydra/launcher=slurm, or srun --nodes={nodes} --ntasks-per-node=1, or set run.nodes to 1."
        )


def run_processes(work: Callable[[DictConfig], None], cfg: DictConfig) -> bool:
    """Let all processes of a run do ``work(cfg)``, and wait for them. A signal makes them save and exit, and is then
    handled as if this process had trained.

    Returns whether they were asked to stop. If one fails, the others are ended, and its SuiteError is raised, or a
    RunError that says how it ended.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    _check_devices(cfg)
    given = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):  # one sentence of ours replaces their reports
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
    with TemporaryDirectory(prefix="lion-") as folder, stop_requests() as stop, _handing_on(stop):
        try:
            elastic_launch(_launch_config(cfg, folder), _take_part)(work, cfg, given)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode == EXIT_CODE or (stop.is_set() and -failure.exitcode in SIGNALS):
                return True
            raise _first_error(failure, rank, folder) from None
    return False


def _check_devices(cfg: DictConfig) -> None:
    import torch

    count, needed = torch.cuda.device_count(), processes_on_node(cfg.run.gpus)
    if count < needed and (cfg.run.device == "cuda" or (cfg.run.device == "auto" and count)):
        raise ConfigError(f"run.gpus={cfg.run.gpus}, but PyTorch finds {count} CUDA devices here: lower run.gpus.")


def _launch_config(cfg: DictConfig, folder: str) -> Any:
    """PyTorch's LaunchConfig of a run: nothing is restarted, and errors are passed through files in ``folder``."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    if cfg.run.nodes == 1:
        from experiments.harness import local_rendezvous

        local_rendezvous.register()
        place: dict[str, Any] = {"rdzv_backend": local_rendezvous.BACKEND, "local_addr": local_rendezvous.HOST}
        run_id = str(os.getpid())
    else:
        from submitit.slurm.slurm import SlurmJobEnvironment

        job = SlurmJobEnvironment()
        run_id = job.job_id
        port = os.environ.get("MASTER_PORT", random.Random(run_id).randint(*PORTS))
        place = {"rdzv_backend": "static", "rdzv_endpoint": f"{job.hostnames[0]}:{port}"}
        place["rdzv_configs"] = {"rank": job.node}
    return LaunchConfig(
        min_nodes=cfg.run.nodes,
        max_nodes=cfg.run.nodes,
        nproc_per_node=processes_on_node(cfg.run.gpus),
        run_id=run_id,
        max_restarts=0,
        start_method=START_METHOD,
        logs_specs=DefaultLogsSpecs(log_dir=folder),
        signals_to_handle="",  # the parent's own handlers stay
        **place,
    )


@contextmanager
def _handing_on(stop: threading.Event) -> Iterator[None]:
    """Once ``stop`` is set, send SIGTERM to the run's processes until they have ended: some may not exist at first."""
    over, others = threading.Event(), psutil.Process().children()

    def hand_on() -> None:
        while not over.wait(0.5):
            for child in psutil.Process().children() if stop.is_set() else ():
                if child not in others:
                    with suppress(psutil.NoSuchProcess):
                        child.send_signal(signal.SIGTERM)

    thread = threading.Thread(target=hand_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _first_error(failure: Any, rank: int, folder: str) -> SuiteError:
    """The error of the process that failed first, from the files in which processes leave ``<exception's class>:
    <message>``: others fail in turn, and PyTorch may report one of them. A signal leaves no file.
    """
    exitcode, error = failure.exitcode, failure.error_file_data
    files = sorted(Path(folder).rglob("error.json"), key=lambda file: file.stat().st_mtime_ns)
    if exitcode >= 0 and files:
        rank, error = int(files[0].parent.name), json.loads(files[0].read_text())
    recorded = error.get("message")
    if not isinstance(recorded, dict):
        ended = f"signal {-exitcode}" if exitcode < 0 else f"exit code {exitcode}"
        return RunError(f"Process {rank} of the run was ended by {ended}, and the others with it. Rerun the command.")
    name, _, sentence = str(recorded["message"]).partition(": ")
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, SuiteError):
        return kind(sentence)
    return RunError(f"Process {rank} of the run failed, and the others ended with it: {recorded['message']}")


def _take_part(work: Callable[[DictConfig], None], cfg: DictConfig, given: list[str]) -> None:
    """What each process of a run does; ``given`` are the overrides of its command, which some messages repeat."""
    import torch

    _end_with_parent()
    leave_when_asked()
    if cfg.run.nodes == 1 and sys.platform == "linux":  # otherwise they would communicate through the network interface
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", LOOPBACK)
    HydraConfig.instance().cfg = OmegaConf.create({"hydra": {"overrides": {"task": given}}})  # type: ignore[assignment]
    try:
        work(cfg)
    except SystemExit as request:  # asked to stop, and saved; destroying the connection to a dead process could hang
        leave_at_once(request.code)
    except HydraException as error:
        raise ConfigError(explained(error)) from error
    except Exception as error:
        if not isinstance(error, SuiteError) and not cfg.run.study:  # a study's run has written it to its log
            traceback.print_exc()
        raise
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _end_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, even by SIGKILL."""
    parent = multiprocessing.parent_process()
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent.pid:  # it had already died
            os._exit(1)
