"""Every task but LiT in two processes: the numbers are the same whether the model is sharded or replicated."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from omegaconf import DictConfig

from experiments.harness.entry import execute
from experiments.harness.errors import ConfigError
from experiments.harness.run import locate
from experiments.harness.sharding import prepare
from tests.conftest import MakeConfig, built, rows
from tests.every_task.conftest import TASKS
from tests.harness.process_group import in_processes


def rows_of(cfg: DictConfig) -> list[dict[str, Any]]:
    assert in_processes(2, partial(execute, cfg)) == [0, 0]
    return rows(locate(cfg).directory)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "more"),
    [
        *((case, []) for case in (*TASKS, "finetuning, glue") if case != "lit"),
        ("language_modeling", ["+model.loss_chunk=24"]),
    ],
)
def test_sharded_training_matches_replicated_training(make: MakeConfig, more: list[str], tmp_path: Path) -> None:
    settings = ["train.ema_decay=null", "flatness.draws=0", "train.log_every=1", "train.steps=4", *more]
    settings.append(f"train.micro_batch_size={make(*settings).train.batch_size // 2}")
    theirs, ours = (
        rows_of(make(*settings, f"run.shards={shards}", f"run.runs_dir={tmp_path}/{shards}")) for shards in (1, 2)
    )
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-6)  # but for the order of float32 sums


def test_lit_is_refused_because_its_temperature_is_a_scalar(make_lit: MakeConfig) -> None:
    model = built(make_lit()).model()
    with pytest.raises(ConfigError, match=r"run\.shards=2 cannot shard this model: .* logit_scale is one"):
        prepare(model, Accelerator(cpu=True), shards=2)
