"""run.gpus and run.nodes: a run that starts its own processes, here on CPUs over gloo.

In all but the slow tests the processes are forked instead of spawned, which spares them their imports.
"""

import os
import signal
import socket
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hydra.errors import InstantiationException
from torch import Tensor

from experiments.harness import processes
from experiments.harness.checkpoint_files import checkpoints
from experiments.harness.entry import execute
from experiments.harness.errors import ConfigError, DataError, RunError
from experiments.harness.offline import fetching
from experiments.harness.run import Run, locate
from experiments.harness.signals import AGAIN_S, EXIT_CODE
from tests import forked
from tests.conftest import MakeConfig, executed, rows, status_of
from tests.harness.test_run import LINEAR, NO_CONVNET, linear_model
from tests.harness.test_sharding import SETTINGS, assert_same_numbers
from tests.study import test_launchers
from tests.study.test_launchers import session_processes, with_launcher
from tests.study.test_study import study_command

WAIT_S = 300.0
"""Far above what anything here takes on a busy machine."""
eventually = partial(test_launchers.eventually, within_s=WAIT_S)
SMALL = [*LINEAR, "train.log_every=1"]
"""A linear model, whose steps take almost no time."""
ENDLESS = [*LINEAR, "train.steps=100000", "train.evaluate_every=100000", "train.log_every=100000"]
ENDLESS += ["run.checkpoint_every=2", "run.gpus=2"]


@pytest.fixture(autouse=True)
def quick_start(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(processes, "START_METHOD", "fork")


def training(parent: int, directory: Path) -> list[psutil.Process]:
    """The processes of a run, the main one last, once they have saved a new checkpoint."""
    before = set(checkpoints(directory))
    eventually(lambda: set(checkpoints(directory)) - before, "a checkpoint")
    main = int((directory / "lock").read_text())
    return sorted(psutil.Process(parent).children(), key=lambda child: child.pid == main)


def assert_gone(killed: list[psutil.Process], within_s: float = 10) -> None:
    assert len(killed) == 2
    assert psutil.wait_procs(killed, within_s)[1] == []


def test_a_run_with_gpus_2_trains_in_two_processes_with_the_results_of_one(
    make_config: MakeConfig, command_line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows(executed(make_config(*SMALL, f"run.runs_dir={tmp_path}/alone")))
    command = [*command_line, *SMALL, "run.gpus=2"]
    result = forked.run(command)
    assert result.returncode == 0, result.stderr
    directory = locate(make_config(*SMALL)).directory  # run.gpus is not part of the name
    assert result.stdout.count(f"{directory.name}: complete") == 1
    assert_same_numbers(rows(directory), expected)
    monkeypatch.setattr(processes, "run_processes", None)
    assert forked.run(command).stdout == result.stdout


def start_on_two_nodes(command: list[str], monkeypatch: pytest.MonkeyPatch) -> list[forked.Started]:
    """As SLURM would, if this machine were both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": 2, "SLURM_NTASKS": 2, "MASTER_PORT": free.getsockname()[1]}
    nodes = []
    for node in range(2):
        for name, value in {**job, "SLURM_NODEID": node, "SLURM_JOB_NODELIST": "localhost,other[1-2]"}.items():
            monkeypatch.setenv(name, str(value))
        nodes.append(forked.Started([*command, "run.nodes=2"]))
    return nodes


def test_training_on_two_slurm_nodes_matches_one_process(
    make_config: MakeConfig, command_line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*SMALL, "train.micro_batch_size=8"]  # four micro-batches a step, one for each process
    expected = rows(executed(make_config(*settings, f"run.runs_dir={tmp_path}/alone")))
    nodes = start_on_two_nodes([*command_line, *settings, "run.gpus=2"], monkeypatch)
    results = [node.result() for node in nodes]
    assert [result.returncode for result in results] == [0, 0], [result.stderr for result in results]
    directory = locate(make_config(*settings)).directory
    assert [result.stdout.count(f"{directory.name}: complete") for result in results] == [1, 0]
    assert_same_numbers(rows(directory), expected)


def test_a_process_dying_on_one_node_ends_the_run_on_both(
    make_config: MakeConfig, command_line: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = start_on_two_nodes([*command_line, *ENDLESS[:-1]], monkeypatch)  # a process on each
    directory = locate(make_config(*ENDLESS)).directory
    training(nodes[0].pid, directory)
    (killed,) = psutil.Process(nodes[1].pid).children()
    killed.kill()
    results = [node.result() for node in nodes]
    assert [result.returncode for result in results] == [2, 2]
    assert "error: Process 1 of the run was ended by signal 9" in results[1].stderr
    assert status_of(directory)["status"] == "failed"


def test_a_signal_makes_all_processes_save_and_a_killed_one_fails_the_run(
    make_config: MakeConfig, command_line: list[str]
) -> None:
    directory, command = locate(make_config(*ENDLESS)).directory, [*command_line, *ENDLESS]
    run = forked.Started(command)
    children = training(run.pid, directory)
    os.kill(run.pid, signal.SIGTERM)
    result = run.result()
    assert result.returncode == EXIT_CODE
    assert "the same command continues it" in result.stderr
    assert "Traceback" not in result.stderr
    saved = int(checkpoints(directory)[-1].name.split("-")[1])
    assert f"asked to stop, saved at step {saved} of" in result.stdout
    assert_gone(children)

    run = forked.Started(command)
    children = training(run.pid, directory)
    children[0].kill()
    killed_at = time.monotonic()
    result = run.result()
    assert time.monotonic() - killed_at < 60  # the others get at most 30 s
    assert f"continuing from step {saved} of" in result.stdout
    assert result.returncode == 2
    assert "error: Process " in result.stderr  # the killed one, or the one that lost its peer
    assert_gone(children)
    status = status_of(directory)
    assert status["status"] == "failed"
    assert status["reason"].startswith("Process ")


def test_processes_listen_only_on_localhost_and_a_signal_to_one_stops_the_run(
    make_config: MakeConfig, command_line: list[str]
) -> None:
    # SLURM sends its signal to every process.
    run = forked.Started([*command_line, *ENDLESS])
    children = training(run.pid, locate(make_config(*ENDLESS)).directory)
    ours = [connection for process in (psutil.Process(run.pid), *children) for connection in process.net_connections()]
    listening = {connection.laddr.ip for connection in ours if connection.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}, "another machine could send it pickled objects"
    children[0].send_signal(signal.SIGUSR2)
    result = run.result()
    assert "asked to stop, saved at step" in result.stdout
    assert result.returncode == EXIT_CODE, result.stderr


@pytest.mark.parametrize("ends", ["killed", "a second Ctrl-C"])
def test_training_processes_do_not_outlive_their_parent(
    make_config: MakeConfig, command_line: list[str], ends: str
) -> None:
    run = forked.Started([*command_line, *ENDLESS])
    children = training(run.pid, locate(make_config(*ENDLESS)).directory)
    for child in children:
        child.suspend()  # so that none can save, nor notice anything
    if ends == "killed":
        os.kill(run.pid, signal.SIGKILL)
        assert run.result().returncode == -signal.SIGKILL
    else:
        os.kill(run.pid, signal.SIGINT)
        time.sleep(2 * AGAIN_S)
        os.kill(run.pid, signal.SIGINT)
        assert run.result().returncode == EXIT_CODE
    assert_gone(children)


class Faulty(torch.nn.Linear):
    """Fails in the second of two processes, during training."""

    def __init__(self) -> None:
        super().__init__(28 * 28, 10)
        self.forwards = 0

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += self.training
        if os.environ["RANK"] == "1" and self.forwards > 2:
            raise ArithmeticError("two and two are five")
        return super().forward(images.flatten(1))


def test_an_exception_in_one_process_is_reported_by_its_parent(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = make_config(*LINEAR, f"model._target_={__name__}.Faulty", "run.gpus=2")
    with pytest.raises(RunError, match=r"Process 1 of the run failed, .*: ArithmeticError: two and two are five"):
        execute(cfg)
    assert "ArithmeticError: two and two are five" in status_of(locate(cfg).directory)["reason"]
    with pytest.raises(
        ConfigError, match=r"^2 micro-batches a step .* cannot be shared evenly by the 3 processes of run.gpus=3"
    ):
        execute(make_config(*LINEAR, "run.gpus=3"))

    def train(*inputs: object) -> None:
        raise InstantiationException("Error in call to target 'nets.Net'") from TypeError("no argument 'depth'")

    monkeypatch.setattr("experiments.harness.train.train", train)
    with pytest.raises(ConfigError, match=r"^Error in call to target 'nets.Net': TypeError: no argument 'depth'$"):
        execute(make_config(*LINEAR, "run.gpus=2", "seed=1"))


def test_errors_of_a_child_process_quote_the_original_command(
    command_line: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(run: Run, *inputs: object) -> None:
        raise DataError(f"To be fetched by {fetching(run.plain)}.")

    monkeypatch.setattr("experiments.harness.train.train", train)
    result = forked.run([*command_line, *LINEAR, "run.gpus=2"])
    assert result.returncode == 2
    assert "error: To be fetched by make fetch TASK=image_classification SCALE=smoke" in result.stderr
    assert LINEAR[-1] in result.stderr


def test_invalid_multi_process_settings_are_refused(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"run\.gpus must be a whole number above 1, or a share .*, but it is 1\.5"):
        locate(make_config("run.gpus=1.5"))
    with pytest.raises(ConfigError, match=r"run\.shards=3 does not divide the 4 processes of run\.gpus=2 and .*=2"):
        locate(make_config(*SETTINGS, "run.gpus=2", "run.nodes=2", "run.shards=3"))
    with pytest.raises(ConfigError, match=r"run\.nodes=2, but this process is not one of 2 that SLURM has started"):
        execute(make_config("run.nodes=2"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"run\.gpus=2, but PyTorch finds 1 CUDA devices"):
        execute(make_config("run.gpus=2", "run.device=auto"))


@pytest.mark.parametrize("sweeper", ["plain", "study"])
@pytest.mark.parametrize(("launcher", "name"), [("basic", "BasicLauncher"), ("ray_local", "SuiteRayLauncher")])
def test_single_node_launchers_refuse_several_nodes(
    command_line: list[str], tmp_path: Path, sweeper: str, launcher: str, name: str
) -> None:
    settings = ["optimizer=lion,adamw", f"hydra/sweeper={sweeper}", f"hydra/launcher={launcher}", "run.nodes=2"]
    result = forked.run([*command_line[:3], "--multirun", *command_line[3:], *settings])
    assert result.returncode == 2
    said = f"error: run.nodes=2, but only hydra/launcher=slurm starts a run on several nodes, not {name}"
    assert said in result.stderr
    assert not list((tmp_path / "runs").glob("image_classification/*"))


def launcher_settings(*overrides: str) -> Any:
    return with_launcher("image_classification", *overrides).hydra.launcher


def test_launchers_request_resources_for_all_processes_of_a_run() -> None:
    asked = ["scale=gpu", "run.gpus=8", "run.nodes=4", "run.cpus=3"]
    slurm = launcher_settings(*asked, "hydra/launcher=slurm")
    wanted = {"nodes": 4, "tasks_per_node": 1, "gpus_per_node": 8, "cpus_per_task": 24}
    assert {key: slurm[key] for key in wanted} == wanted
    for launcher in ("ray_local", "ray_cluster"):
        given = [*asked[:2], "run.cpus=3", f"hydra/launcher={launcher}"]
        assert launcher_settings(*given).ray.remote == {"num_cpus": 24, "num_gpus": 8}
        assert launcher_settings(*given, "run.device=cpu").ray.remote == {"num_cpus": 24, "num_gpus": 0}
    assert launcher_settings(*asked, "run.device=cpu", "hydra/launcher=slurm").gpus_per_node == 0


def started(command: list[str]) -> subprocess.Popen[str]:
    """A new process, in a session of its own."""
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def logs(runs: Path) -> list[str]:
    return [path.read_text() for path in sorted(runs.glob("*/*/log.txt"))]


def spoken() -> torch.nn.Module:
    """Says in which process it is."""
    print(f"in process {os.environ['RANK']}")
    return linear_model()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "ray_local"])  # the next test has submitit
def test_every_launcher_of_a_study_starts_all_processes_of_its_runs(
    command_line: list[str], tmp_path: Path, launcher: str
) -> None:
    model = [*NO_CONVNET, f"model._target_={__name__}.spoken"]
    settings = [*model, "study=fixed", "optimizer=lion,adamw", "run.gpus=2", f"hydra/launcher={launcher}"]
    more = ["+hydra.launcher.ray.init.num_cpus=2"] if launcher == "ray_local" else []
    command = study_command(command_line, *settings, *more)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    written = logs(tmp_path / "runs")
    assert len(written) == 2
    for text in written:
        assert {"in process 0", "in process 1"} <= set(text.splitlines())
    assert "in process" not in result.stdout


@pytest.mark.slow
def test_submitit_requeues_a_saved_multi_process_run(command_line: list[str], tmp_path: Path) -> None:
    steps = ["train.steps=300", "train.evaluate_every=300", "run.checkpoint_every=5"]
    settings = [*LINEAR, *steps, "run.gpus=2", "study=fixed", "optimizer=lion,adamw"]
    study = started(study_command(command_line, *settings, "hydra/launcher=submitit_local"))
    try:
        saved = eventually(lambda: list((tmp_path / "runs").glob("*/*/step-*.pt")), "a checkpoint")[0]
    except AssertionError:
        study.kill()
        raise
    main = psutil.Process(int((saved.parent / "lock").read_text()))
    main.parent().send_signal(signal.SIGUSR2)  # what submitit makes SLURM send
    output, errors = study.communicate(timeout=3 * WAIT_S)
    assert study.returncode == 0, output + errors
    text = (saved.parent / "log.txt").read_text()
    assert "asked to stop, saved at step" in text
    assert "continuing from step" in text


@pytest.mark.slow
def test_multi_process_runs_on_ray_save_before_an_interrupted_study_ends(
    command_line: list[str], tmp_path: Path
) -> None:
    settings = [*ENDLESS, "study=fixed", "optimizer=lion,adamw", "hydra/launcher=ray_local"]
    settings += ["+hydra.launcher.ray.init.num_cpus=2", "run.checkpoint_every=1000"]
    study = started(study_command(command_line, *settings))
    try:
        eventually(lambda: any(tmp_path.glob("runs/*/*/step-*.pt")), "a run that trains")
        study.terminate()
        output, errors = study.communicate(timeout=WAIT_S)
    finally:
        study.kill()
    assert study.returncode == EXIT_CODE, output + errors
    (text,) = logs(tmp_path / "runs")  # the other run waits for the two cores
    assert text.count("asked to stop, saved at step") == 1, "only the first process says so"
    assert session_processes(study.pid) == {}


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_reaches_every_process_once(make_config: MakeConfig, command_line: list[str]) -> None:
    process = started([*command_line, *ENDLESS])
    training(process.pid, locate(make_config(*ENDLESS)).directory)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == EXIT_CODE, output + errors
    assert "asked to stop, saved at step" in output
    assert "Traceback" not in errors
