"""Every task: a run that is killed within a step and restarted ends with the same bits.

Those of image classification are in tests/harness/test_resume.py, those of diffusion in its own tests.
"""

from pathlib import Path

import pytest
from accelerate import Accelerator

from experiments.harness.entry import execute
from tests.conftest import AVERAGED, Killed, MakeConfig
from tests.every_task.conftest import CASES
from tests.harness.test_resume import assert_same_end, crash_at_call, end_of


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith(("image", "diffusion"))])
def test_a_killed_and_resumed_run_is_bit_identical(
    case: str, make: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = [AVERAGED, "train.log_every=1", "run.checkpoint_every=2"]
    settings += ["data.tasks=[cola,stsb]"] * ("glue" in case)
    uninterrupted = end_of(make(*settings, f"run.runs_dir={tmp_path}/uninterrupted"))
    cfg = make(*settings)
    last_of_fourth_step = 4 * cfg.train.batch_size // cfg.train.micro_batch_size
    with monkeypatch.context() as patch:
        crash_at_call(last_of_fourth_step, patch, Accelerator, "backward")
        with pytest.raises(Killed):
            execute(cfg)
    assert_same_end(end_of(cfg), uninterrupted)
