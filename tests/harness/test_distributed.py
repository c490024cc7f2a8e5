import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.harness.entry import execute, locate
from tests.conftest import MakeConfig, rows
from tests.harness.test_run import LINEAR


def test_two_processes_train_what_one_process_trains(
    make_config: MakeConfig, command_line: list[str], tmp_path: Path
) -> None:
    # Two micro-batches per step: one process accumulates them, two processes take one each and average. A linear model,
    # since batch norm's running statistics are those of the main process.
    settings = [*LINEAR, "train.log_every=1", "run.device=cpu"]
    alone = make_config(*settings, f"run.runs_dir={tmp_path}/alone")
    execute(alone)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29531"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    command = [*launcher, *command_line[1:], *settings]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    ours, theirs = rows(locate(make_config(*settings))[2]), rows(locate(alone)[2])
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)
