import os
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.harness.accelerator import Agreement, make_accelerator
from experiments.harness.entry import execute, main
from experiments.harness.run import locate
from experiments.harness.task import Sums
from experiments.image_classification import task
from experiments.image_classification.convnet import ConvNet
from tests import forked
from tests.conftest import AVERAGED, MakeConfig, executed, rows
from tests.harness.process_group import in_processes
from tests.harness.test_run import LINEAR
from tests.harness.test_sharding import assert_same_numbers


def test_training_in_two_processes_of_torchs_launcher_matches_one(
    make_config: MakeConfig, command_line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Four micro-batches per step: one process accumulates them, two processes take two each and average.
    settings = ["train.micro_batch_size=8", "train.ema_decay=null", "train.log_every=1", "run.device=cpu"]
    expected = rows(executed(make_config(*settings, f"run.runs_dir={tmp_path}/alone")))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29531"]
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    result = forked.run([*launcher, *command_line[1:], *settings])  # the launcher; it starts new processes
    assert result.returncode == 0, result.stderr
    assert_same_numbers(rows(locate(make_config(*settings)).directory), expected)


@pytest.mark.parametrize(("more", "code"), [([], 0), (["no_such=1"], 2)])
def test_one_of_several_processes_leaves_without_pythons_shutdown(
    make_config: MakeConfig, command_line: list[str], more: list[str], code: int
) -> None:
    # Gloo's threads could abort that shutdown. Here the run has already ended, so none has to be started.
    execute(make_config(*LINEAR))
    child = os.fork()
    if child == 0:
        os.environ["RANK"], sys.argv = "0", [*command_line[2:], *LINEAR, *more]
        with suppress(SystemExit):
            main("image_classification")
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code


class Watchful(ConvNet):
    """Besides its batch norms' statistics, it tracks the brightness of the last images that it was trained on."""

    def __init__(self, widths: list[int], in_channels: int, num_classes: int) -> None:
        super().__init__(widths, in_channels, num_classes)
        self.register_buffer("brightness", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.brightness = images.mean()
        return super().forward(images)


@pytest.mark.parametrize("average", ["train.ema_decay=null", AVERAGED])
def test_both_processes_evaluate_the_same_weights_and_buffers(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, average: str
) -> None:
    cfg = make_config(average, f"model._target_={__name__}.Watchful", "train.steps=4", "flatness.draws=0")
    original = task.build

    def build(*arguments: Any) -> task.ImageClassification:
        made = original(*arguments)
        for split, evaluator in made.evaluators.items():
            made.evaluators[split] = replace(evaluator, sums=partial(kept, split, evaluator.sums))
        return made

    def kept(split: str, sums: Sums, model: Watchful, process: int, processes: int) -> dict[str, Tensor]:
        torch.save(model.state_dict(), tmp_path / f"{process}-{split}.pt")
        return sums(model, process, processes)

    monkeypatch.setattr(task, "build", build)
    assert in_processes(2, lambda: execute(cfg)) == [0, 0]
    for split in ("test", "val"):
        first, second = (torch.load(tmp_path / f"{process}-{split}.pt", weights_only=True) for process in range(2))
        assert first["brightness"] != 0
        for name, value in first.items():
            assert torch.equal(value, second[name]), name


def test_all_processes_hear_what_one_of_them_says(make_config: MakeConfig) -> None:
    cfg = make_config("run.device=cpu")

    def ask() -> None:
        accelerator = make_accelerator(cfg)
        in_any_process, main = Agreement(accelerator), accelerator.is_main_process
        assert in_any_process(False, False) == (False, False)
        assert in_any_process(main, False) == (True, False)
        assert in_any_process(main, not main) == (True, True)

    assert in_processes(2, ask) == [0, 0]
