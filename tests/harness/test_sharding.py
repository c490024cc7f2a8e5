"""A sharded model (run.shards) against the same run in one process.

Only the order of float32 sums differs: of gradients over micro-batches, of the gradient norm, and of evaluations.
"""

import os
import resource
import signal
import weakref
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.harness import checkpoint, sharded_files, sharding
from experiments.harness.accelerator import LONGEST_WAIT, make_accelerator
from experiments.harness.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from experiments.harness.checkpoint_files import checkpoints, is_whole
from experiments.harness.damage import find_damage
from experiments.harness.entry import execute
from experiments.harness.errors import ConfigError, RunError
from experiments.harness.run import locate
from experiments.harness.sharding import prepare, whole
from tests.conftest import MakeConfig, executed, rows, status_of
from tests.harness.process_group import in_processes
from tests.harness.test_run import NO_CONVNET


class Layered(nn.Module):
    """Has layers in a ModuleList, a tied weight, a frozen layer, and sizes that 2 does not divide."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.locked, self.head = nn.Linear(28 * 28, 9), nn.Linear(9, 9), nn.Linear(9, 10)
        self.layers = nn.ModuleList(nn.Sequential(nn.LayerNorm(9), nn.Linear(9, 9), nn.GELU()) for _ in range(2))
        self.locked.requires_grad_(False)
        self.mixed, self.mixed_again = nn.Linear(9, 9), nn.Linear(9, 9)
        self.mixed_again.weight = self.mixed.weight
        self.forwards = 0

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.forwards += 1
            if self.forwards == int(os.environ.get("KILLED_AT_FORWARD", -1)):
                os.kill(os.getpid(), signal.SIGKILL)
        hidden = self.mixed(self.locked(self.stem(images.flatten(1))))
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        return self.head(self.mixed_again(hidden))


SETTINGS = [
    *(*NO_CONVNET, f"model._target_={__name__}.Layered"),
    *("train.ema_decay=null", "flatness.draws=0", "train.clip_norm=0.1", "train.micro_batch_size=8"),
    *("train.steps=12", "train.log_every=1", "train.evaluate_every=6", "run.checkpoint_every=4"),
]
OPTIMIZERS = {
    "lion": ["optimizer=lion"],
    "lion with a bfloat16 momentum": ["optimizer=lion", "+optimizer.momentum_dtype=bfloat16"],
    "lion in bfloat16": ["optimizer=lion", "train.precision=bf16"],
    "cautious lion": ["optimizer=cautious_lion"],
    "adamw": ["optimizer=adamw"],
    "adafactor": ["optimizer=adafactor"],
}


def executed_sharded(cfg: DictConfig) -> Path:
    assert in_processes(2, lambda: execute(cfg)) == [0, 0]
    return locate(cfg).directory


def assert_same_numbers(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_model_sharded_over_two_processes_trains_like_one_process(
    make_config: MakeConfig, tmp_path: Path, optimizer: str
) -> None:
    """Covers clipping, measure_step and evaluation; 60 and 100 samples in batches of 250 leave process 1 with none."""
    settings = [*SETTINGS, *OPTIMIZERS[optimizer]]
    expected = rows(executed(make_config(*settings, f"run.runs_dir={tmp_path}/alone")))
    assert_same_numbers(rows(executed_sharded(make_config(*settings, "run.shards=2"))), expected)


@pytest.mark.parametrize(
    "optimizer",
    [
        "lion with a bfloat16 momentum",
        *(pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS if name != "lion with a bfloat16 momentum"),
    ],
)
def test_a_sharded_run_resumes_with_another_number_of_processes(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    """SIGKILL ends the first two one step after a checkpoint; the four processes are two replicas of two shards."""
    settings = [*SETTINGS, *OPTIMIZERS[optimizer]]
    settings.append("train.micro_batch_size=4")  # eight micro-batches a step, two in each of the four processes
    expected = rows(executed(make_config(*settings, f"run.runs_dir={tmp_path}/alone")))
    directory = locate(make_config(*settings)).directory
    # One process writes a file; several write a folder.
    for processes, shards, steps, suffix in ((2, 2, 5, ".sharded"), (1, 1, 5, ".pt")):
        cfg = make_config(*settings, f"run.shards={shards}")
        monkeypatch.setenv("KILLED_AT_FORWARD", str(steps * 8 // processes + 1))
        assert in_processes(processes, partial(execute, cfg)) == [-signal.SIGKILL] * processes
        assert checkpoints(directory)[-1].suffix == suffix
    assert [int(path.name.split("-")[1]) for path in checkpoints(directory)] == [4, 8]
    monkeypatch.delenv("KILLED_AT_FORWARD")
    cfg = make_config(*settings, "run.shards=2")

    def resume() -> None:
        if os.environ["RANK"] != "0":  # on a network's file system, others might see another checkpoint as the newest
            monkeypatch.setattr(checkpoint, "newest_checkpoint", lambda *_: pytest.fail("chosen by this process"))
        execute(cfg)

    assert in_processes(4, resume) == [0] * 4
    assert_same_numbers(rows(directory), expected)


def test_a_process_killed_during_a_sharded_save_leaves_the_previous_checkpoint(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    settings = [*SETTINGS, "optimizer=adamw"]
    expected = rows(executed(make_config(*settings, f"run.runs_dir={tmp_path}/alone")))
    cfg = make_config(*settings, "run.shards=2")
    directory = locate(cfg).directory

    def run_until_killed() -> None:
        original, saves = sharded_files.save, count(1)

        def save(*arguments: Any, **settings: Any) -> None:
            if next(saves) == 2 and os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGKILL)
            original(*arguments, **settings)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sharded_files, "save", save)
            execute(cfg)

    assert in_processes(2, run_until_killed) == [1, -signal.SIGKILL]  # the other process loses its peer
    assert [path.name.split("-")[1] for path in checkpoints(directory)] == ["00000004"]
    assert_same_numbers(rows(executed_sharded(cfg)), expected)
    assert not list(directory.glob(".checkpoint.*"))


def test_a_full_disk_in_one_process_is_reported_by_all_and_loses_nothing(tmp_path: Path) -> None:
    def save_twice() -> None:
        dist.init_process_group("gloo")
        mesh = init_device_mesh("cpu", (2,))
        state = {"weights": distribute_tensor(torch.arange(2000.0), mesh, [Shard(0)])}
        save_checkpoint(tmp_path, 5, state, keep=2, sharded=True)
        if dist.get_rank() == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(RunError, match=r"step 10 cannot be written .* the same command again"):
            save_checkpoint(tmp_path, 10, state, keep=2, sharded=True)

    assert in_processes(2, save_twice) == [0, 0]
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("step-00000005-")
    assert is_whole(left)
    assert torch.equal(read_checkpoint(left)["weights"], torch.arange(2000.0))


def test_a_finished_sharded_run_loads_like_any_other_and_damage_is_detected(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    settings = [*SETTINGS, "optimizer=lion", "train.steps=6"]
    theirs: Any = load_checkpoint(executed(make_config(*settings, f"run.runs_dir={tmp_path}/alone")))
    directory = executed_sharded(make_config(*settings, "run.shards=2"))
    ours: Any = load_checkpoint(directory)
    assert ours.keys() == theirs.keys()
    torch.testing.assert_close(ours["model"], dict(theirs["model"]))
    torch.testing.assert_close(ours["optimizer"]["state"], theirs["optimizer"]["state"])

    status = status_of(directory)
    assert find_damage(directory, status) is None
    newest = checkpoints(directory)[-1]
    (shard,) = newest.glob("shard-00002-*")
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert find_damage(directory, status) == f"{newest.name} is corrupt"
    assert load_checkpoint(directory) is not None  # the previous one


@pytest.mark.parametrize("setting", ["train.ema_decay=0.9", "train.compile=true", "flatness.draws=2"])
def test_settings_that_need_unsharded_weights_are_refused(make_config: MakeConfig, setting: str) -> None:
    key = setting.partition("=")[0]
    with pytest.raises(ConfigError, match=f"run.shards=2 shards the weights of a model, but {key}="):
        locate(make_config(*SETTINGS, "run.shards=2", setting))


def test_the_number_of_processes_must_be_a_multiple_of_the_shards(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"run.shards=3 shards a model over 3 processes, but this run has 1"):
        make_accelerator(make_config(*SETTINGS, "run.shards=3"))


def test_sharding_a_model_with_a_scalar_parameter_is_refused() -> None:
    model = nn.Linear(2, 2)
    model.register_parameter("logit_scale", nn.Parameter(torch.tensor(2.66)))
    with pytest.raises(ConfigError, match="takes no scalar parameters, and logit_scale is one"):
        prepare(model, Accelerator(cpu=True), shards=2)


def test_every_group_of_processes_waits_as_long_as_the_run(make_config: MakeConfig) -> None:
    cfg = make_config(*SETTINGS, "run.shards=2")

    def work() -> None:
        mesh = sharding.mesh_of(make_accelerator(cfg), shards=2)
        assert (mesh.mesh_dim_names, mesh.mesh.tolist()) == (("replica", "shard"), [[0, 1], [2, 3]])
        for group in mesh.get_all_groups():
            assert group._get_backend(torch.device("cpu")).options._timeout == LONGEST_WAIT

    assert in_processes(4, work) == [0] * 4


def test_autocast_keeps_no_weights_of_a_model_that_is_whole_for_an_evaluation(make_config: MakeConfig) -> None:
    cfg = make_config(*SETTINGS, "run.shards=2", "train.precision=bf16")

    def work() -> None:
        accelerator = make_accelerator(cfg)
        model = prepare(Layered(), accelerator, shards=2)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        casts: list[weakref.ref[Tensor]] = []

        class Casts(TorchDispatchMode):
            def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                made = operator(*args, **kwargs or {})
                if operator is torch.ops.aten._to_copy.default and args[0].ndim == 2:
                    casts.append(weakref.ref(made))
                return made

        with whole(model), torch.no_grad(), accelerator.autocast(), Casts():
            model(torch.zeros(3, 28, 28))
            assert len(casts) > 5
            assert [cast for each in casts if (cast := each()) is not None] == []
        assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trained

    assert in_processes(2, work) == [0, 0]
