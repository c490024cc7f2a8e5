"""Every task but LiT in two processes: the numbers are the same whether the model is sharded or replicated."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from experiments.harness.entry import execute
from experiments.harness.errors import ConfigError
from experiments.harness.run import locate
from experiments.harness.sharding import prepare
from tests.conftest import MakeConfig, built, rows
from tests.harness.process_group import in_processes

CASES: dict[str, tuple[str, list[str]]] = {
    "image_classification": ("make_config", []),
    "language_modeling": ("make_lm", []),
    "chunked loss": ("make_lm", ["+model.loss_chunk=24"]),
    "finetuning": ("make_classification", []),
    "t5, which generates": ("make_glue", []),
    "diffusion": ("make_diffusion", []),
}
SETTINGS = ["train.ema_decay=null", "flatness.draws=0", "train.log_every=1", "train.steps=4"]


def settings(make: MakeConfig, more: list[str]) -> list[str]:
    """A short run in micro-batches that two processes can share."""
    cfg = make(*SETTINGS, *more)
    return [*SETTINGS, *more, f"train.micro_batch_size={cfg.train.batch_size // 2}"]


def rows_of(cfg: Any, processes: int) -> list[dict[str, Any]]:
    assert in_processes(processes, partial(execute, cfg)) == [0] * processes
    return rows(locate(cfg).directory)


def assert_same_numbers(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """But for the order of float32 sums."""
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_sharded_training_matches_replicated_training(
    case: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    make, more = request.getfixturevalue(CASES[case][0]), CASES[case][1]
    theirs, ours = (
        rows_of(make(*settings(make, more), f"run.shards={shards}", f"run.runs_dir={tmp_path}/{shards}"), 2)
        for shards in (1, 2)
    )
    assert_same_numbers(ours, theirs)


def test_lit_is_refused_because_its_temperature_is_a_scalar(make_lit: MakeConfig) -> None:
    model = built(make_lit()).model()
    with pytest.raises(ConfigError, match=r"run\.shards=2 cannot shard this model: .* logit_scale is one"):
        prepare(model, Accelerator(cpu=True), shards=2)
