"""With every launcher, a study whose processes are killed or signalled ends like an undisturbed one."""

import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.harness.composition import configs_of
from experiments.harness.record import RunRecord, read_status
from experiments.harness.run import locate
from experiments.harness.signals import AGAIN_S, EXIT_CODE, stop_requests
from hydra_plugins.study_sweeper import ray_launcher
from tests.study.test_study import run_study, studies, study_command

LONGER = [
    "optimizer=lion,adamw",
    "study=fixed",
    "train.steps=200",
    "train.log_every=20",
    "train.evaluate_every=200",
    "run.checkpoint_every=5",
]
WAIT_S = 300.0
"""Far above what starting Ray and importing torch take on a busy machine."""

RAY = ["hydra/launcher=ray_local", "+hydra.launcher.ray.init.num_cpus=2"]
Process = subprocess.Popen[str]


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Any]:
    """The comparisons of an undisturbed study; filled by the first test that needs it."""
    return {}


class Disturbed:
    """A study that is disturbed and then completed."""

    def __init__(self, command_line: list[str], folder: Path, undisturbed: dict[str, Any]) -> None:
        self.command_line, self.folder, self.runs, self.undisturbed = command_line, folder, folder / "runs", undisturbed
        self.started: list[Process] = []

    def start(self, *overrides: str) -> Process:
        """Start it as the leader of a session of its own; the test's end kills it."""
        command = study_command(self.command_line, *LONGER, *overrides)
        pipe = subprocess.PIPE
        self.started.append(Process(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True))
        return self.started[-1]

    def training_run(self) -> tuple[Path, int]:
        """A run that has written a checkpoint since it was last started, and the process that trains it."""

        def find() -> tuple[Path, int] | None:
            for newest in {path.parent: path for path in sorted(self.runs.glob("*/*/step-*.pt"))}.values():
                lock, status = newest.parent / "lock", read_status(newest.parent)
                started = lock.stat().st_mtime_ns < newest.stat().st_mtime_ns
                holder = int(lock.read_text() or 0)
                if started and status and status["status"] == "running" and is_alive(holder):
                    return newest.parent, holder
            return None

        found: tuple[Path, int] = eventually(find, "a run that trains")
        return found

    def kill_worker(self) -> Path:
        """Kill the process of a run, and return the run's directory."""
        directory, killed = self.training_run()
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: not is_alive(killed), "the killed worker's end")
        return directory

    def log(self) -> str:
        """What its runs logged, each in its own folder."""
        return "".join(path.read_text() for path in sorted(self.runs.glob("*/*/log.txt")))

    def complete(self, *overrides: str) -> str:
        """Run it in this process, to its end; returns its output. Where a run executes is not part of its identity."""
        return run_study(self.command_line, *LONGER, *overrides).stdout

    def assert_ends_like_one_that_was_not_disturbed(self) -> None:
        if not self.undisturbed:
            elsewhere = self.folder / "undisturbed"
            self.complete(
                f"run.runs_dir={elsewhere}/runs", f"run.results_dir={elsewhere}/results", "run.checkpoint_every=200"
            )
            self.undisturbed["comparisons"] = studies(elsewhere / "results")[0]["comparisons"]
        (summary,) = studies(self.folder / "results")
        assert summary["comparisons"] == self.undisturbed["comparisons"]


@pytest.fixture
def study(command_line: list[str], tmp_path: Path, undisturbed: dict[str, Any]) -> Iterator[Disturbed]:
    """A study that takes long enough to be disturbed."""
    disturbed = Disturbed(command_line, tmp_path, undisturbed)
    yield disturbed
    for process in disturbed.started:
        process.kill()
        process.communicate()


def eventually(condition: Callable[[], Any], what: str, within_s: float = WAIT_S) -> Any:
    """The first true value of ``condition()``."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.005)
    raise AssertionError(f"waited {within_s} s in vain for {what}")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def session_processes(leader: int) -> dict[str, str]:
    """Names by process id of the living processes in the session that ``leader`` leads, including itself."""
    lines = subprocess.run(["ps", "-eo", "sid=,pid=,stat=,comm="], capture_output=True, text=True, check=True).stdout
    fields = [line.split(maxsplit=3) for line in lines.splitlines()]
    return {pid: name for session, pid, state, name in fields if int(session) == leader and not state.startswith("Z")}


def succeeded(process: Process) -> str:
    """Wait for the end of a study; returns its output."""
    output, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, output + errors
    return output + errors


def leaves_nothing_behind(process: Process) -> str:
    """Wait for a study that was asked to stop; returns its output."""
    output, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == EXIT_CODE, output + errors
    assert "the same command continues it" in errors
    assert "Traceback" not in output + errors
    assert session_processes(process.pid) == {}
    return output + errors


@pytest.mark.slow
def test_a_study_in_one_process_stops_on_a_signal_and_resumes(study: Disturbed) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        process = study.start()
        directory, holder = study.training_run()
        assert holder == process.pid
        process.send_signal(number)
        leaves_nothing_behind(process)
        assert f"{directory.name}: asked to stop, saved at step" in study.log()
    assert "confirmation: 1 of 2 runs to continue" in study.complete()
    assert f"{directory.name}: continuing from step" in study.log()
    study.assert_ends_like_one_that_was_not_disturbed()


@pytest.mark.slow
def test_ray_replaces_killed_and_signalled_workers(study: Disturbed) -> None:
    process = study.start(*RAY)
    directory = study.kill_worker()
    _, asked = study.training_run()
    os.kill(asked, signal.SIGTERM)
    said = succeeded(process)
    assert f"{directory.name}: continuing from step" in study.log()
    assert "asked to stop, saved at step" in study.log()
    assert "(_run_job" not in said  # output of workers is not printed; Ray reports which died
    study.assert_ends_like_one_that_was_not_disturbed()


@pytest.mark.slow
def test_a_killed_or_signalled_study_on_ray_resumes_at_once(study: Disturbed) -> None:
    killed = study.start(*RAY)
    study.training_run()
    killed.kill()
    killed.communicate()
    # Its workers may still hold their runs; the next study waits for them.
    process = study.start(*RAY)
    eventually(lambda: str(study.training_run()[1]) in session_processes(process.pid), "a run of its own")
    eventually(lambda: session_processes(killed.pid) == {}, "the end of the killed study's Ray")
    assert listening_addresses(process.pid) <= {"127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"}
    process.send_signal(signal.SIGTERM)
    leaves_nothing_behind(process)
    study.complete()
    study.assert_ends_like_one_that_was_not_disturbed()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ray_replaces_a_killed_worker_and_runs_save_before_a_signalled_study_ends(
    study: Disturbed, number: signal.Signals
) -> None:
    # One run at a time, so a run that trains after the kill has a new worker, and the other waits in Ray's queue.
    # Checkpoints are rare, so a saved one is due to the signal.
    process = study.start(RAY[0], "+hydra.launcher.ray.init.num_cpus=1", "run.checkpoint_every=60")
    study.kill_worker()
    study.training_run()
    process.send_signal(number)
    assert "the active runs save first" in leaves_nothing_behind(process)
    assert "asked to stop, saved at step" in study.log()
    study.complete("run.checkpoint_every=200")
    study.assert_ends_like_one_that_was_not_disturbed()


@pytest.mark.slow
@pytest.mark.parametrize("part", ["gcs_server", "raylet"])
def test_a_study_recovers_when_a_part_of_ray_is_killed(study: Disturbed, part: str) -> None:
    process = study.start(*RAY)
    study.training_run()
    (killed,) = (int(pid) for pid, name in session_processes(process.pid).items() if name == part)
    folder = re.findall(r"(/\S*/lion-[^/\s]+)/", " ".join(psutil.Process(killed).cmdline()))[0]
    assert Path(folder).exists()
    os.kill(killed, signal.SIGKILL)
    succeeded(process)
    assert not Path(folder).exists()
    # Without a gcs_server, short runs may end before its loss is noticed, which another test is about.
    assert session_processes(process.pid) == {}
    study.assert_ends_like_one_that_was_not_disturbed()


def test_an_unreachable_ray_head_raises_a_connection_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_launcher, "LONGEST_SILENCE_S", 0.1)
    forever = threading.Event()

    def a_while() -> list[Any]:
        time.sleep(1.5)  # it is asked once meanwhile
        return []

    def fault() -> list[Any]:
        raise ZeroDivisionError

    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        assert ray_launcher.while_it_answers(address, a_while) == []
        with pytest.raises(ZeroDivisionError):
            ray_launcher.while_it_answers(address, fault)
    with pytest.raises(ConnectionError, match=f"Ray's head at {address} is lost"):
        ray_launcher.while_it_answers(address, lambda: [forever.wait()])  # type: ignore[list-item]


def listening_addresses(leader: int) -> set[str]:
    """Addresses on which the processes of a session accept TCP connections."""
    pids = session_processes(leader)
    sockets = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    own = [line for line in sockets if any(f"pid={pid}," in line for pid in pids)]
    assert own, "Ray listens nowhere, so this looked at the wrong processes"
    return {line.split()[3].rpartition(":")[0] for line in own}


@pytest.mark.slow
def test_submitit_requeues_a_run_that_saved_before_its_time_limit(study: Disturbed) -> None:
    process = study.start("hydra/launcher=submitit_local")
    directory, worker = study.training_run()
    os.kill(worker, signal.SIGUSR2)  # the signal that submitit makes SLURM send
    assert "The launcher failed" not in succeeded(process)
    (saved,) = [line for line in study.log().splitlines() if "asked to stop" in line]
    step = saved.split("saved at step ")[1].split()[0]
    assert f"{directory.name}: continuing from step {step} of" in study.log()
    study.assert_ends_like_one_that_was_not_disturbed()


def test_signals_are_passed_on_once_the_run_has_saved() -> None:
    received: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGUSR2)
    before = {number: signal.signal(number, lambda number, frame: received.append(number)) for number in numbers}
    try:
        with stop_requests() as stop:
            assert not stop.is_set()
            for number in numbers:  # preemption by SLURM: first SLURM's signal, then submitit's own
                signal.raise_signal(number)
            assert stop.is_set()
            assert received == []
        assert received == list(numbers)
        signal.raise_signal(signal.SIGTERM)
        assert received == [*numbers, signal.SIGTERM]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_second_ctrl_c_exits_at_once_but_a_duplicated_one_does_not() -> None:
    program = """if True:
        import os, signal, sys, time
        from experiments.harness.signals import leave_when_asked, stop_requests
        pause = float(sys.argv[1])
        leave_when_asked()
        with stop_requests() as stop:
            signal.raise_signal(signal.SIGINT)
            time.sleep(pause)
            signal.raise_signal(signal.SIGTERM)  # does not count as a second Ctrl-C
            signal.raise_signal(signal.SIGINT)
            print("saved")
    """

    def end(pause: float) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-c", program, str(pause)], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.strip()

    assert end(0.0) == (EXIT_CODE, "saved")
    assert end(2 * AGAIN_S) == (EXIT_CODE, "")


def test_a_run_locked_by_an_exiting_process_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leaving = RunRecord(tmp_path, "image_classification", {})
    threading.Timer(0.5, leaving.__exit__, (None, None, None)).start()
    with RunRecord(tmp_path, "image_classification", {}):
        assert f"held by process {os.getpid()}, waiting" in capsys.readouterr().out


def with_launcher(task: str, *overrides: str) -> Any:
    """A composed config with Hydra's own part."""
    with initialize_config_dir(str(configs_of(task)), version_base="1.3"):
        return compose(task, list(overrides), return_hydra_config=True)


@pytest.mark.parametrize("scale", ["smoke", "mini", "gpu"])
def test_every_launcher_requests_the_resources_of_the_scale(digits: list[str], scale: str) -> None:
    names = set()
    for launcher in ("basic", "ray_local", "ray_cluster", "submitit_local", "slurm"):
        overrides = [f"scale={scale}", *digits, f"hydra/launcher={launcher}"]
        cfg = with_launcher("image_classification", *overrides)
        names.add(locate(cfg).directory.name)
        settings = OmegaConf.to_container(cfg.hydra.launcher, resolve=launcher != "submitit_local")
        assert isinstance(settings, dict)
        cpus, gpus = (1, 0.125) if scale == "gpu" else (1, 0)
        if launcher.startswith("ray"):
            assert settings["ray"]["remote"] == {"num_cpus": cpus, "num_gpus": gpus}
        if launcher == "slurm":
            assert (settings["cpus_per_task"], settings["gpus_per_node"]) == (cpus, math.ceil(gpus))
            assert settings["max_num_timeout"] > 0
    assert len(names) == 1  # the launcher is not part of a run's identity
