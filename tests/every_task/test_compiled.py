"""Every task with torch.compile and autocast to bfloat16: a run ends, with the losses of a run that is not compiled.

Image classification has this test in tests/harness/test_run.py.
"""

import math
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.conftest import MakeConfig, executed, last_values, values_of
from tests.every_task.conftest import CASES, SHORT

DROPOUTS = ("head_dropout", "trained.config.dropout_rate")
GPT2 = [f"+model.trained.config.{place}_pdrop=0" for place in ("resid", "embd", "attn")]


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("image")])
def test_a_compiled_run_in_bf16_ends_with_the_losses_of_an_eager_one(
    case: str, make: MakeConfig, tmp_path: Path
) -> None:
    """Without dropout, which compiled code draws differently. Both round to bfloat16, but not in the same places; its
    relative precision is 2**-8, as a loss may differ.
    """
    settings = [*SHORT, "train.precision=bf16", *(["train.sample_every=null"] if "diffusion" in case else [])]
    model = make(*settings).model
    settings += GPT2 if "gpt2" in case else [f"model.{key}=0" for key in DROPOUTS if OmegaConf.select(model, key)]
    eager, compiled = (
        executed(make(*settings, f"train.compile={compiled}", f"run.runs_dir={tmp_path}/{compiled}"))
        for compiled in (False, True)
    )
    losses = values_of(compiled, "train/loss")
    assert len(losses) == 2
    assert losses == pytest.approx(values_of(eager, "train/loss"), rel=2**-8)
    assert losses != values_of(eager, "train/loss"), "compiled code rounds differently, so this was not compiled"
    assert all(math.isfinite(last_values(compiled)[f"{split}/loss"]) for split in ("val", "test"))
