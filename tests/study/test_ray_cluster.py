"""A study on a Ray cluster that was started without it, from a shell in which nothing is pinned."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.conftest import unpinned
from tests.study.test_study import run_study, studies, study_command

RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@pytest.fixture
def cluster() -> Iterator[dict[str, str]]:
    """The environment of a node of the cluster, which has one node."""
    home = tempfile.mkdtemp(dir="/tmp")  # Ray's socket paths must be short
    node = {**unpinned(), "HOME": home, "RAY_AUTH_MODE": "token"}
    subprocess.run([*RAY, "get-auth-token", "--generate"], env=node, capture_output=True, check=True)
    start = ["start", "--head", "--port=0", "--num-cpus=2", "--include-dashboard=false", f"--temp-dir={home}/ray"]
    try:
        started = subprocess.run([*RAY, *start], env=node, capture_output=True, text=True, check=False)
        assert started.returncode == 0, started.stdout + started.stderr
        yield node
    finally:
        for process in psutil.process_iter(["cmdline"]):  # `ray stop` would also end other clusters
            if any(home in argument for argument in process.info["cmdline"] or ()):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.slow
def test_a_clusters_workers_get_the_instruction_set_of_the_study(
    cluster: dict[str, str], command_line: list[str], tmp_path: Path
) -> None:
    command = study_command(command_line, "optimizer=lion,adamw", "study=fixed", "hydra/launcher=ray_cluster")
    result = subprocess.run(command, env=cluster, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    elsewhere = tmp_path / "elsewhere"
    folders = [f"run.runs_dir={elsewhere}/runs", f"run.results_dir={elsewhere}/results"]
    run_study(command_line, "optimizer=lion,adamw", "study=fixed", *folders)
    (here,), (there,) = studies(tmp_path / "results"), studies(elsewhere / "results")
    assert here["comparisons"] == there["comparisons"]
