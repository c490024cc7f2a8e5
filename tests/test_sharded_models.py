"""Every task in two processes: the numbers are the same whether the model is sharded or replicated."""

from functools import partial
from pathlib import Path

import pytest

from experiments.harness.entry import execute, locate
from tests.conftest import MakeConfig, rows
from tests.diffusion.conftest import clouds as clouds
from tests.diffusion.conftest import diffusion_overrides as diffusion_overrides
from tests.diffusion.conftest import make_diffusion as make_diffusion
from tests.finetuning.conftest import make_classification as make_classification
from tests.finetuning.conftest import sentences as sentences
from tests.harness.process_group import in_processes
from tests.language_modeling.conftest import books as books
from tests.language_modeling.conftest import lm_overrides as lm_overrides
from tests.language_modeling.conftest import make_lm as make_lm
from tests.lit.conftest import lit_overrides as lit_overrides
from tests.lit.conftest import make_lit as make_lit
from tests.lit.conftest import shapes as shapes

TASKS = {
    "image_classification": "make_config",
    "lit": "make_lit",
    "language_modeling": "make_lm",
    "finetuning": "make_classification",
    "diffusion": "make_diffusion",
}
SETTINGS = ["train.ema_decay=null", "flatness.draws=0", "train.log_every=1", "train.steps=4"]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_sharded_training_matches_replicated_training(
    task: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    make: MakeConfig = request.getfixturevalue(TASKS[task])
    half = make().train.batch_size // 2  # LiT's contrastive loss needs the whole batch at once
    found = []
    for shards in (1, 2):
        cfg = make(
            *SETTINGS, f"train.micro_batch_size={half}", f"run.shards={shards}", f"run.runs_dir={tmp_path}/{shards}"
        )
        assert in_processes(2, partial(execute, cfg)) == [0, 0]
        found.append(rows(locate(cfg).directory))
    assert len(found[0]) == len(found[1])
    for theirs, ours in zip(*found, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6)
