"""Every task: a run that is killed within a step and restarted ends with the same bits.

Those of image classification are in tests/harness/test_resume.py, those of diffusion in its own tests.
"""

import itertools
from pathlib import Path

import pytest
from accelerate import Accelerator
from torch import Tensor

from experiments.harness.entry import execute
from tests.conftest import AVERAGED, MakeConfig
from tests.every_task.conftest import CASES
from tests.harness.test_resume import Killed, assert_same_end, end_of


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith(("image", "diffusion"))])
def test_a_killed_and_resumed_run_is_bit_identical(
    case: str, make: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = [AVERAGED, "train.log_every=1", "run.checkpoint_every=2"]
    settings += ["data.tasks=[cola,stsb]"] * ("glue" in case)
    uninterrupted = end_of(make(*settings, f"run.runs_dir={tmp_path}/uninterrupted"))
    cfg = make(*settings)
    last_of_fourth_step = 4 * cfg.train.batch_size // cfg.train.micro_batch_size
    original, calls = Accelerator.backward, itertools.count(1)

    def crashing(self: Accelerator, loss: Tensor) -> None:
        if next(calls) == last_of_fourth_step:
            raise Killed
        original(self, loss)

    with monkeypatch.context() as patch:
        patch.setattr(Accelerator, "backward", crashing)
        with pytest.raises(Killed):
            execute(cfg)
    assert_same_end(end_of(cfg), uninterrupted)
