"""What a training step reads back from the device, and what it copies without going on meanwhile: on a GPU each of them
waits for all that was queued before it.

And which of its operators have no deterministic implementation on a GPU, which ends a run.
"""

import gc
import re
import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from omegaconf import DictConfig
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensor
from torch.optim.swa_utils import AveragedModel

from experiments.diffusion.t5 import T5XXL
from experiments.harness.averages import update_average
from experiments.harness.batches import to_device, without_gaps
from experiments.harness.composition import composed
from experiments.harness.memory import CountingMode, move_shapes, pass_memory
from experiments.harness.optimizer import build_optimizer
from experiments.harness.sharding import clip_gradients
from experiments.harness.train import FiniteWatch
from tests.conftest import MakeConfig, built
from tests.every_task.conftest import CASES, TASKS
from tests.harness.census import REFUSED, UNREPRODUCIBLE, Census


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_do_not_synchronize_and_can_repeat_their_bits(make: MakeConfig) -> None:
    cfg = make()
    made = built(cfg)
    model = made.model().train()
    size = min(cfg.train.micro_batch_size, made.num_train)
    batch = made.batch(torch.arange(size).numpy(), list(range(size)))
    with Census("cpu") as census:
        made.loss(model, batch).backward()
    assert census.reads == {}
    assert census.unreproducible == {}


def moved(module: nn.Module, device: torch.device, to: Callable[..., nn.Module] = nn.Module.to) -> nn.Module:
    """Where nothing has to be moved, PyTorch would still try to swap fake weights, and may fail."""
    return module if {each.device for each in module.parameters()} == {device} else to(module, device)


def second_step_on_a_gpu(cfg: DictConfig) -> Census:
    """The operators of a run's second step, on fake tensors; what every step needs is copied in the first. Lion updates
    the weights by operators instead of its kernel, and there is no bfloat16.
    """
    gpu, accelerator = torch.device("cuda"), Accelerator(cpu=True)
    made = built(cfg)
    model = made.model().train()
    size = min(cfg.train.micro_batch_size, made.num_train)
    batches = [made.batch(torch.arange(size).numpy(), list(range(size))) for _ in range(2)]

    def loss(batch: dict[str, Tensor]) -> Tensor:
        value: Tensor = made.loss(model, to_device(without_gaps(batch), gpu))
        return value

    with CountingMode() as mode, pytest.MonkeyPatch.context() as patch:
        for module in ("torch.utils._foreach_utils", "torch.optim.optimizer"):  # by default, fake ones go one by one
            patch.setattr(sys.modules[module], "_foreach_supported_types", [FakeTensor])
        patch.setattr(nn.Module, "to", moved)
        move_shapes(model, gpu.type)
        if kept := getattr(made, "_on_device", None):
            kept._channels_last = torch.empty_like(kept._channels_last, device=gpu)
        optimizer = build_optimizer(model, cfg.optimizer)
        watch = FiniteWatch(SimpleNamespace(device=gpu))
        for step, batch in enumerate(batches, 1):
            with Census(gpu.type) as census:
                pass_memory(mode, model, partial(loss, batch), bf16=False, gradients=True)
                norm = clip_gradients(model, cfg.train.clip_norm, accelerator)
                watch.observe(step, norm, norm)
                optimizer.step()
                optimizer.zero_grad()
    return census


def fake_tensors() -> list[FakeTensor]:
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is FakeTensor]


def forget_fake_tensors(before: list[FakeTensor]) -> None:
    """Empty the caches of the tasks' modules; none may be left but those that other tests had left before."""
    packages = tuple(f"experiments.{task}." for task in TASKS)
    for module in [module for name, module in sys.modules.items() if name.startswith(packages)]:
        for each in vars(module).values():
            if hasattr(each, "cache_clear"):
                each.cache_clear()
    assert {*map(id, fake_tensors())} <= {*map(id, before)}


ON_DEVICE = ["run.images_on_device=true", "data.flip=true"]
STEPS: list[tuple[str, str, list[str]]] = [
    *((case, "optimizer=lion", []) for case in CASES),
    ("language_modeling", "optimizer=adamw", []),
    ("image_classification", "optimizer=lion", [*ON_DEVICE, "data.crop_padding=2"]),
    ("diffusion", "optimizer=lion", ON_DEVICE),
]


@pytest.mark.parametrize(("case", "optimizer", "more"), STEPS)
def test_a_step_on_a_gpu_does_not_wait_for_it(make: MakeConfig, optimizer: str, more: list[str]) -> None:
    before = fake_tensors()
    census = second_step_on_a_gpu(make(optimizer, *more))
    forget_fake_tensors(before)
    assert census.called["aten._foreach_norm"] > 0
    assert census.called["aten._foreach_sign_" if optimizer == "optimizer=lion" else "aten._fused_adamw_"] > 0
    assert census.reads == {}
    assert census.copies == {}


@pytest.mark.parametrize("optimizer", ["lion", "adamw"])
def test_updates_of_weights_and_their_average_read_nothing_back_from_the_device(optimizer: str) -> None:
    """On the device ``meta``, because AdamW and PyTorch's average count steps on the CPU, where reading is free."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 4)).to("meta")
    config = composed("image_classification", ["scale=smoke", f"optimizer={optimizer}"]).optimizer
    update = build_optimizer(model, {key: value for key, value in config.items() if key != "fused"})  # refuses meta
    average = AveragedModel(model)
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    for _ in range(2):  # the first fills state
        with Census("meta") as census:
            update.step()
            update_average(average, model, 0.9)
        assert census.called
        assert census.reads == {}
        assert census.unreproducible == {}


def test_imagens_text_encoder_does_not_synchronize_with_the_device() -> None:
    encoder = T5XXL({"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2})
    with Census("cpu") as census:
        encoder(torch.tensor([[4, 5, 6], [7, 0, 0], [0, 0, 0]]))
    assert census.reads == {}


def test_the_census_counts_synchronizing_operators() -> None:
    values = torch.arange(4.0)
    with Census("cpu") as census:
        values.sum().item()
        values[values > 1].sum()
    assert census.reads.keys() >= {"aten._local_scalar_dense", "aten.index"}


WAITS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a tensor to the host": lambda host, gpu: gpu.cpu(),
    "into a tensor of the host": lambda host, gpu: host.copy_(gpu, non_blocking=True),
    "a tensor to the GPU": lambda host, gpu: host.to(gpu.device),
    "with gaps": lambda host, gpu: host[::2].to(gpu.device, non_blocking=True),
    "into a tensor of the GPU": lambda host, gpu: gpu.copy_(host),
    "numbers": lambda host, gpu: torch.tensor([1.0, 2.0], device=gpu.device),
    "one number": lambda host, gpu: torch.tensor(1.0, device=gpu.device),
    "a scalar that is no argument": lambda host, gpu: torch.where(gpu > 0, gpu, torch.tensor(0.0)),
    "indices": lambda host, gpu: gpu[host],
    "indices to write to": lambda host, gpu: gpu.index_put((host,), gpu),
}


@pytest.mark.parametrize("what", WAITS)
def test_the_census_counts_copies_between_devices_that_wait(what: str) -> None:
    with CountingMode():
        host, gpu = torch.arange(4), torch.zeros(4, device="cuda")
        with Census("cuda") as census:
            WAITS[what](host, gpu)
    assert census.copies.total() == 1
    assert census.reads == {}


def test_the_census_counts_no_copy_that_does_not_wait() -> None:
    with CountingMode():
        host, gpu = torch.arange(4.0).view(2, 2), torch.zeros(2, 2, device="cuda")
        with Census("cuda") as census:
            gpu.copy_(host, non_blocking=True)
            gpu.copy_(host.t().to(gpu.device, non_blocking=True))
            gpu.to("cpu", non_blocking=True).to(torch.float64)
            torch.tensor([], device=gpu.device)
            gpu.double().mul_(torch.tensor(2.0)).fill_(1.0)
    assert census.called["aten.copy_"] == 2
    assert census.called["aten._to_copy"] == 5
    assert census.copies == {}


def test_the_census_counts_a_mask_on_a_fake_gpu() -> None:
    with CountingMode():
        gpu = torch.zeros(4, device="cuda")
        with Census("cuda") as census, pytest.raises(DynamicOutputShapeException):
            gpu[gpu > 0]
    assert census.reads == {"aten.index": 1}


def test_the_census_sees_what_cannot_repeat_its_bits() -> None:
    images = torch.rand(1, 2, 4, 4, requires_grad=True)
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    with Census("cpu") as census:
        larger = nn.functional.interpolate(images, size=8, mode="bilinear")
        nn.functional.cross_entropy(nn.functional.adaptive_avg_pool2d(larger, 4), labels).backward()
    assert census.unreproducible == {
        "aten.nll_loss2d_forward": 1,
        "aten._adaptive_avg_pool2d_backward": 1,
        "aten.upsample_bilinear2d_backward": 1,
    }


def test_the_list_of_operators_that_throw_is_pytorchs() -> None:
    text = str(torch.use_deterministic_algorithms.__doc__)
    text = text.partition("operations will throw a")[2].partition("In addition")[0]
    entries = re.findall(r"\n +\* (:.*?)(?=\n +\* |\Z)", text, re.DOTALL)
    on_cuda = [entry for entry in entries if "CUDA" in entry or not re.search("MPS|quantized", entry)]
    assert {re.match(r":\w+:`([\w.]+)`", entry)[1] for entry in on_cuda} == REFUSED.keys()  # type: ignore[index]
    assert [name for name in UNREPRODUCIBLE if not hasattr(torch.ops.aten, name.removeprefix("aten."))] == []
