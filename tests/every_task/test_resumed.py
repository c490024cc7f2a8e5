"""Every task: a run that is killed within a step and restarted ends with the same bits.

Image classification has this test, and those of a crash at any write, in tests/harness/test_resume.py.
"""

import itertools
from pathlib import Path

import pytest
from accelerate import Accelerator
from torch import Tensor

from experiments.harness.entry import execute
from tests.conftest import AVERAGED
from tests.harness.test_resume import Killed, assert_same_end, end_of

CASES: dict[str, tuple[str, list[str]]] = {
    "lit": ("make_lit", []),
    "language_modeling": ("make_lm", []),
    "language_modeling, masked": ("make_lm", ["experiment=language_modeling/smoke_masked"]),
    "finetuning": ("make_classification", []),
    "finetuning, glue": ("make_glue", ["data.tasks=[cola,stsb]"]),
    "finetuning, glue, gpt2": ("make_glue", ["data.tasks=[cola,stsb]", "model=ft_gpt2_tiny"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_killed_and_resumed_run_is_bit_identical(
    case: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make, settings = request.getfixturevalue(CASES[case][0]), [*CASES[case][1], AVERAGED, "train.log_every=1"]
    settings.append("run.checkpoint_every=2")
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
