"""A run's numbers do not depend on anything outside its name: accelerate's environment, or earlier activity of the
process.
"""

import gc
import random
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from experiments.harness.accelerator import compile_and_warm_up, make_accelerator
from experiments.harness.averages import update_average
from experiments.harness.composition import composed
from experiments.harness.config import typed
from experiments.harness.entry import execute
from experiments.harness.errors import ConfigError
from experiments.harness.run import locate
from tests.conftest import AVERAGED, MakeConfig, executed, rows

LAUNCH = ("--gradient_accumulation_steps", "4", "--dynamo_backend", "inductor", "--mixed_precision", "bf16")


class DrawingNet(nn.Module):
    """Draws its weights from NumPy's generator and dropout from Python's, as some libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(28 * 28, 10)
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(np.random.normal(size=(10, 28 * 28)) / 28))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        kept = random.random() if self.training else 1.0
        return kept * self.linear(images.flatten(1))


DRAWING = ["~model.widths", "~model.in_channels", "~model.num_classes", f"model._target_={__name__}.DrawingNet"]


def metrics(make_config: MakeConfig, runs_dir: Path, *overrides: str) -> list[dict]:
    """The rows of a new run of that config."""
    cfg = make_config("optimizer=adamw", f"run.runs_dir={runs_dir}", "train.log_every=1", *overrides)
    return rows(executed(cfg))


def test_accelerates_environment_variables_do_not_change_results(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = metrics(make_config, tmp_path / "without")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("ACCELERATE_DOWNCAST_BF16", "true")
    assert metrics(make_config, tmp_path / "with") == expected


@pytest.mark.slow
def test_flags_of_accelerate_launch_do_not_change_results(
    make_config: MakeConfig, command_line: list[str], tmp_path: Path
) -> None:
    expected = metrics(make_config, tmp_path / "without")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu", *LAUNCH]
    command = [*launcher, *command_line[1:], "optimizer=adamw", "train.log_every=1"]
    subprocess.run(command, check=True, capture_output=True)
    (directory,) = tmp_path.glob("runs/image_classification/adamw-*")
    assert rows(directory) == expected


@pytest.mark.parametrize(
    "setting",
    [
        *(f"USE_{engine}=true" for engine in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")),
        *("FP8_BACKEND=TE", "FP8_BACKEND=msamp"),
    ],
)
def test_accelerates_other_training_back_ends_are_refused(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    name, value = f"ACCELERATE_{setting}".split("=")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name} is set"):
        make_accelerator(make_config())


@contextmanager
def used_process() -> Iterator[None]:
    """Change every global setting of the process, and restore all of them afterwards."""
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    torch.set_flush_denormal(True)
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.enabled = False
    for generator in (torch.manual_seed, np.random.seed, random.seed):
        generator(5)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.set_grad_enabled(True)
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.enabled = True


@pytest.mark.parametrize("model", [[AVERAGED], DRAWING])
def test_global_state_of_the_process_does_not_change_a_run(
    make_config: MakeConfig, tmp_path: Path, model: list[str]
) -> None:
    expected = metrics(make_config, tmp_path / "before", *model)
    with used_process():
        assert metrics(make_config, tmp_path / "used", *model) == expected


def test_numpy_and_torch_use_the_configured_number_of_threads(make_config: MakeConfig) -> None:
    for threads in (2, 1):
        make_accelerator(make_config(f"train.threads={threads}"))
        assert torch.get_num_threads() == threads
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {threads}


def test_more_threads_than_a_machine_can_start_are_refused_where_the_run_starts(make_config: MakeConfig) -> None:
    cfg = make_config("train.threads=100000")
    locate(cfg)  # it may be for another machine
    with pytest.raises(ConfigError, match=r"train\.threads=100000, but this machine has \d+ CPU cores"):
        make_accelerator(cfg)


def test_every_batch_shape_of_a_run_is_compiled(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentences are padded only to the longest of their batch, so a run has many shapes."""
    cfg = make_config("train.compile=true")
    graphs = []

    def count(module: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(module)
        return module

    class OneShape:
        num_train = 4

        def batch(self, indices: np.ndarray, seeds: list[int]) -> dict[str, torch.Tensor]:
            return {"images": torch.zeros(4, 3)}

        def loss(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return model(batch["images"]).sum()

    real_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: real_compile(model, dynamic=dynamic, backend=count))
    accelerator = make_accelerator(cfg)
    network = compile_and_warm_up(nn.Linear(3, 2), OneShape(), accelerator, cfg)  # type: ignore[arg-type]
    for size in range(5, 25):
        network(torch.zeros(size, 3))
    assert len(graphs) == 21


def test_compiling_is_refused_where_torchdynamo_is_disabled(make_config: MakeConfig) -> None:
    with torch._dynamo.config.patch(disable=True), pytest.raises(ConfigError, match="TORCHDYNAMO_DISABLE"):
        execute(make_config("train.compile=true"))


def test_more_gpus_than_processes_are_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"run\.gpus=8 on run\.nodes=1 needs 8 processes, but .* has started 1"):
        make_accelerator(make_config("run.gpus=8"))
    execute(make_config("run.gpus=0.25"))


def test_cudnn_attention_is_disabled(make_config: MakeConfig) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    execute(make_config())
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_every_scale_has_its_device(make_config: MakeConfig) -> None:
    assert make_config().run.device == make_config("scale=mini").run.device == "cpu"
    for choice in ("scale=gpu", "experiment=image_classification/vit_b16"):
        assert composed("image_classification", [choice]).run.device == "cuda"


def test_weight_averages_match_pytorchs_bit_for_bit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7))
    ours, theirs = AveragedModel(model), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(4):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(3, 5))
        update_average(ours, model, 0.9)
        theirs.update_parameters(model)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_the_previous_runs_model_is_freed_before_a_bf16_run(make_config: MakeConfig) -> None:
    cfg, model = typed(make_config("train.precision=bf16")), nn.Linear(2, 2)
    gc.disable()
    try:
        make_accelerator(cfg).prepare(model)
        before = weakref.ref(model)
        del model
        assert before() is not None, "the model does not refer to itself, so nothing has to be collected"
        make_accelerator(cfg)
        assert before() is None
    finally:
        gc.enable()
