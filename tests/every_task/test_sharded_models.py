"""Every task in two processes: the numbers are the same whether the model is sharded or replicated."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from experiments.finetuning import text_to_text
from experiments.harness.entry import execute
from experiments.harness.run import locate
from tests.conftest import MakeConfig, rows
from tests.every_task.conftest import CASES, SHORT
from tests.harness.process_group import in_processes


def rows_of(cfg: DictConfig) -> list[dict[str, Any]]:
    assert in_processes(2, partial(execute, cfg)) == [0, 0]
    return rows(locate(cfg).directory)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "more"),
    [
        *((case, []) for case in CASES),
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


@pytest.mark.slow
@pytest.mark.parametrize("case", ["finetuning, glue"])
def test_a_sharded_model_answers_unequal_numbers_of_texts(
    make: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_to_text, "EVALUATION_BATCH_SIZE", 1)
    settings = [*SHORT, "data.tasks=[cola]", "data.val_rows=7", "train.ema_decay=null"]
    theirs, ours = (rows_of(make(*settings, f"run.shards={n}", f"run.runs_dir={tmp_path}/{n}")) for n in (1, 2))
    assert ours[-1] == pytest.approx(theirs[-1], rel=1e-3, abs=1e-6)
