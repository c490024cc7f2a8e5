"""Tests of whole runs that need a CUDA device: smoke runs of every task, their bits, synchronization and memory."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from experiments.harness import train
from experiments.harness.schedule import lr_factor
from tests.conftest import AVERAGED, MakeConfig, finished, killed_after

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

MAKERS = {
    "image_classification": "make_config",
    "lit": "make_lit",
    "language_modeling": "make_lm",
    "finetuning": "make_classification",
    "glue": "make_glue",
    "diffusion": "make_diffusion",
}
DEVICE = "run.device=cuda"


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> MakeConfig:
    """``make("seed=1", ...)``: the config of a smoke run on generated data, for each entry of MAKERS in turn."""
    if request.param == "glue":
        pytest.importorskip("datasets")
    made: MakeConfig = request.getfixturevalue(MAKERS[request.param])
    return partial(made, AVERAGED) if request.param == "image_classification" else made


def first_loss(made: list[dict[str, Any]]) -> float:
    """The training loss before any update."""
    return next(row["train/loss"] for row in made if row["step"] == 1)


@pytest.mark.parametrize("optimizer", ["lion", "adamw"])
def test_repeated_runs_are_bit_identical(make: MakeConfig, optimizer: str, tmp_path: Path) -> None:
    once, again = (
        finished(make(DEVICE, f"optimizer={optimizer}", f"run.runs_dir={tmp_path}/{name}"))
        for name in ("once", "again")
    )
    assert once[1] == again[1]


@pytest.mark.parametrize("setting", ["train.precision=fp32", "train.precision=bf16", "train.compile=true"])
def test_the_first_loss_on_a_gpu_matches_the_cpus(make: MakeConfig, setting: str, tmp_path: Path) -> None:
    # A GPU and compiled code draw different dropout, and in diffusion different noise and timesteps.
    model = make().model
    dropouts = [key for key in ("head_dropout", "trained.config.dropout_rate") if OmegaConf.select(model, key)]
    more = ["train.log_every=1", *(f"model.{key}=0" for key in dropouts)]
    ours = first_loss(finished(make(DEVICE, setting, *more))[1])
    cpu = make("run.device=cpu", f"run.runs_dir={tmp_path}/cpu", *more)
    theirs = first_loss(finished(cpu)[1])
    tolerance = 0.5 if cpu.task == "diffusion" else 0.02 if "bf16" in setting else 1e-4
    assert ours == pytest.approx(theirs, rel=tolerance)


def test_a_killed_and_resumed_run_is_bit_identical(make: MakeConfig, tmp_path: Path) -> None:
    whole = finished(make(DEVICE, "train.log_every=1", f"run.runs_dir={tmp_path}/whole"))
    cfg = make(DEVICE, "train.log_every=1")
    directory = killed_after(4, cfg)  # a step after the checkpoint
    assert list(directory.glob("step-00000003-*.pt"))
    assert finished(cfg)[1] == whole[1]
    ours, theirs = (torch.load(max(path.glob("step-*.pt")), weights_only=True) for path in (directory, whole[0]))
    assert all(torch.equal(value, theirs["model"][name]) for name, value in ours["model"].items())


@pytest.mark.parametrize("optimizer", ["lion", "adamw"])
def test_steps_between_log_steps_never_synchronize_with_the_gpu(
    make: MakeConfig, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, unwatched = 8, (0, 7)  # the first step fills caches, the last one logs

    def watched(step: int, *arguments: Any) -> float:
        torch.cuda.set_sync_debug_mode("default" if step in unwatched else "error")
        return lr_factor(step, *arguments)

    monkeypatch.setattr(train, "lr_factor", watched)
    every = [f"train.{key}={steps}" for key in ("steps", "log_every", "evaluate_every")]
    # Images stay on the GPU in one of the two cases.
    every += ["run.images_on_device=true"] * ("images_on_device" in make().run and optimizer == "lion")
    every += [f"train.sample_every={steps}"] * (make().task == "diffusion")
    try:
        finished(make(DEVICE, f"optimizer={optimizer}", "train.precision=bf16", "run.checkpoint_every=100", *every))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_fused_and_foreach_lion_give_identical_rows(make: MakeConfig) -> None:
    fused, foreach = (finished(make(DEVICE, f"+optimizer.{back_end}=true"))[1] for back_end in ("fused", "foreach"))
    assert fused == foreach


@pytest.mark.parametrize("maker", ["make_config", "make_diffusion"])
def test_images_that_stay_on_the_gpu_give_identical_rows(
    maker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    make = request.getfixturevalue(maker)
    stayed, copied = (
        finished(make(DEVICE, f"run.images_on_device={value}", f"run.runs_dir={tmp_path}/{value}"))[1]
        for value in ("true", "false")
    )
    assert stayed == copied


def test_gpu_name_and_peak_memory_are_recorded(make: MakeConfig) -> None:
    directory, _ = finished(make(DEVICE))
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    peaks = [line["cost/peak_bytes"] for line in lines if "cost/peak_bytes" in line]
    state = max(line["cost/state_bytes"] for line in lines if "cost/state_bytes" in line)
    assert peaks == sorted(peaks)
    assert state < peaks[0] < 2**30  # a process with PyTorch and CUDA uses more than that
    assert all(math.isfinite(line["time/train_s"]) for line in lines if "time/train_s" in line)
    assert json.loads((directory / "environment.json").read_text())["hardware"]["gpu"] == torch.cuda.get_device_name()
