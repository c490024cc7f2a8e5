"""``hydra/launcher=ray_local`` and ``ray_cluster``: Hydra's launcher for a Ray that leaves nothing behind."""

import atexit
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any

import psutil
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_ray_launcher.ray_launcher import RayLauncher
from omegaconf import OmegaConf, open_dict

from hydra_plugins.study_sweeper import ray_watch

LONGEST_TEMPORARY_FOLDER = 30
"""The longest $TMPDIR with which Ray's socket paths (75 characters longer) stay within Linux's limit of 107 bytes."""
LONGEST_SILENCE_S = 10.0
"""Seconds without an answer after which Ray's head is considered lost; a cluster may have restarted it by then."""
LONGEST_SAVING_S = 30.0
"""Seconds that runs get to save when a study is asked to stop: a step, perhaps an evaluation, and a checkpoint."""


class SuiteRayLauncher(RayLauncher):
    """Hydra's launcher, which also starts Ray, checks the cluster's resources, and lets runs save if asked to stop."""

    watch: "subprocess.Popen[str] | None" = None
    """the process that cleans up after the Ray that was started here: ray_watch.py"""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """As Hydra's launcher. Raises ConfigError for runs that no node of our own Ray can ever hold, and
        ConnectionError if Ray's head is lost.
        """
        settings: Any = OmegaConf.to_container(self.ray_cfg.init, resolve=True)
        is_ours = settings.get("address") == "local"
        if is_ours:  # Ray reads these when imported; otherwise it keeps a token in ~/.ray that everyone can read
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        import ray

        if not ray.is_initialized():
            if self.watch:  # of a Ray that was lost, and shut down
                _end(self.watch)
            self.watch = _start(settings, is_ours)
        request: Any = OmegaConf.to_container(self.ray_cfg.remote, resolve=True)
        _check(request, [node["Resources"] for node in ray.nodes() if node["Alive"]], is_ours)
        address: str = ray.get_runtime_context().gcs_address
        jobs: list[Any] = []

        def carry_out() -> Sequence[JobReturn]:
            jobs.extend(self._submit(number, overrides) for number, overrides in enumerate(job_overrides))
            return ray.get(jobs)

        try:
            return while_it_answers(address, carry_out)
        except SystemExit:
            if jobs:
                _let_save(jobs)
            if self.watch:
                _name_processes(self.watch)
            raise

    def _submit(self, number: int, overrides: Sequence[str]) -> Any:
        """Ray's handle to the return value of one run."""
        from hydra_plugins.hydra_ray_launcher._launcher_util import launch_job_on_ray

        assert self.hydra_context is not None
        assert self.config is not None
        assert self.task_function is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = f"job_id_for_{number}", number
        remote = self.ray_cfg.remote
        return launch_job_on_ray(self.hydra_context, remote, config, self.task_function, Singleton.get_state())


def _let_save(jobs: list[Any]) -> None:
    """Cancel queued jobs, from the last so that none moves up, and wait until running ones have saved: a cancelled run
    receives a Ctrl-C, wherever it runs.
    """
    import ray

    print("Stopping: the active runs save first; a second Ctrl-C exits at once.", file=sys.stderr)
    for job in reversed(jobs):
        ray.cancel(job)
    ray.wait(jobs, num_returns=len(jobs), timeout=LONGEST_SAVING_S, fetch_local=False)


def while_it_answers(address: str, wait_for_ray: Callable[[], Sequence[JobReturn]]) -> Sequence[JobReturn]:
    """What ``wait_for_ray`` returns or raises; ConnectionError once nothing listens at Ray's ``address`` any more.

    A thread waiting for a Ray whose head (its gcs) has died receives no signals, and after a minute Ray silently ends
    the process. Another thread can still shut Ray down and restart it.
    """
    outcome: Future[Sequence[JobReturn]] = Future()

    def carry_out() -> None:
        try:
            outcome.set_result(wait_for_ray())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=carry_out, daemon=True).start()
    host, _, port = address.rpartition(":")
    answered = time.monotonic()
    while not wait([outcome], timeout=1).done:
        try:
            socket.create_connection((host, int(port)), timeout=LONGEST_SILENCE_S).close()
            answered = time.monotonic()
        except OSError as error:
            if time.monotonic() - answered > LONGEST_SILENCE_S:
                raise ConnectionError(f"Ray's head at {address} is lost ({error})") from error
    return outcome.result()


def _start(settings: Mapping[str, Any], is_ours: bool) -> "subprocess.Popen[str] | None":
    """Start Ray as Hydra's launcher would, but with our signal handlers: Ray's own handler for SIGTERM aborts the study
    3 s later, while it is still ending its workers. Returns the process that watches our own Ray.
    """
    import ray

    from experiments.harness.arithmetic import PINS
    from experiments.harness.signals import leave_when_asked

    watch = None
    if is_ours:  # its workers inherit this process's environment
        place = tempfile.gettempdir()
        folder = tempfile.mkdtemp(prefix="lion-", dir=place if len(place) <= LONGEST_TEMPORARY_FOLDER else "/tmp")
        settings = {**settings, "_temp_dir": folder}
        # Not ended by a Ctrl-C; its standard input ends with this process, however that ends.
        command, quiet = [sys.executable, ray_watch.__file__, folder], subprocess.DEVNULL
        watch = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True, text=True
        )
        atexit.register(_end, watch)
    else:  # a cluster's load NumPy, and with it an instruction set, before they take a run
        pinned = {name: os.environ[name] for pins in PINS.values() for name in pins if name in os.environ}
        settings = {"runtime_env": {"env_vars": pinned}, **settings}
    ray.init(**settings)
    if watch:
        _name_processes(watch)
    atexit.register(ray.shutdown)  # runs before what is left is cleaned up
    leave_when_asked()
    return watch


def _end(watch: "subprocess.Popen[str]") -> None:
    """Let ``watch`` clean up after its Ray, unless it has, and wait for it."""
    if watch.poll() is None:
        watch.communicate(ray_watch.OVER)


def _name_processes(watch: "subprocess.Popen[str]") -> None:
    """Tell ``watch`` which processes are Ray's now: at its start, and when the study is asked to stop."""
    assert watch.stdin is not None
    processes = psutil.Process().children(recursive=True)
    with suppress(BrokenPipeError):  # someone has ended it
        watch.stdin.writelines(f"{process.pid}\n" for process in processes if process.pid != watch.pid)
        watch.stdin.flush()


def _check(request: Mapping[str, float], nodes: Sequence[Mapping[str, float]], is_ours: bool) -> None:
    """Compare the request of one run with the largest node; a cluster that is not ours may still grow."""
    from experiments.harness.errors import ConfigError

    for key, resource in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
        asked, largest = request.get(key, 0), max((node.get(resource, 0) for node in nodes), default=0)
        if asked > largest:
            what = f"run.{key[4:]}={asked:g}, but the largest node here has {largest:g} {resource}s"
            if is_ours:
                raise ConfigError(f"{what}: no run would ever start. Lower it, or use hydra/launcher=ray_cluster.")
            print(f"{what}: the runs wait until the cluster gets such a node.", flush=True)
