"""Optimizers with 8-bit, 4-bit and fp8 state from bitsandbytes and torchao: memory, resuming, and what they refuse."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from experiments.harness import low_bit
from experiments.harness.averages import evaluated_weights
from experiments.harness.config import resolved
from experiments.harness.entry import execute
from experiments.harness.errors import ConfigError
from experiments.harness.optimizer import build_optimizer, state_bytes
from experiments.harness.run import check_whole
from lion import Lion, measure_step
from tests.conftest import MakeConfig, executed, finished, killed_after, status_of
from tests.harness.test_divergence import DENSE, poison
from tests.harness.test_optimizer_configs import train, unless_missing

ON_CPU = {
    "lion_8bit": "lion",
    **dict.fromkeys(("adamw_8bit", "adamw_ao_8bit", "adamw_ao_4bit", "adamw_ao_fp8"), "adamw"),
}
PAGED = {"lion_paged_8bit": "lion", "adamw_paged_8bit": "adamw"}
each_on_cpu = pytest.mark.parametrize("name", [unless_missing(name) for name in ON_CPU])
each_paged = pytest.mark.parametrize("name", [unless_missing(name) for name in PAGED])
each_on_gpu = pytest.mark.parametrize("name", [unless_missing(name) for name in [*ON_CPU, *PAGED]])
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

WIDER = ["model.widths=[8,64,64]", "train.steps=12", "train.log_every=1", "run.checkpoint_every=4"]
"""With a kernel of 64 x 64 x 9 entries: the smoke model's tensors are too small to be quantized."""


def two_layers() -> nn.Sequential:
    """Two matrices of 8192 entries, which are quantized, and biases of 128 and 64, which are not."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 64))


@pytest.mark.parametrize(("name", "precise"), [*ON_CPU.items(), *PAGED.items()])
def test_low_bit_configs_differ_from_the_precise_ones_only_in_precision(
    make_config: MakeConfig, name: str, precise: str
) -> None:
    ours, theirs = (resolved(make_config(f"optimizer={each}"))["optimizer"] for each in (name, precise))
    differ = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert differ - {"fused"} == {"name", "_target_"}


# Per moment: codes and a float32 scale per block of both matrices, a code book of 256 or 16 float32 (which bitsandbytes
# shares between tensors, and fp8 does without), and a float32 moment of both biases. torchao counts each tensor's steps
# in a float32.
BYTES = {
    "lion_8bit": 2 * (8192 + 4 * 32) + 4 * 256 + 4 * 192,
    "adamw_8bit": 2 * (2 * (8192 + 4 * 32) + 4 * 256 + 4 * 192),
    "adamw_ao_8bit": 2 * (2 * (8192 + 4 * 32 + 4 * 256) + 4 * 192) + 4 * 4,
    "adamw_ao_4bit": 2 * (2 * (4096 + 4 * 64 + 4 * 16) + 4 * 192) + 4 * 4,
    "adamw_ao_fp8": 2 * (2 * (8192 + 4 * 32) + 4 * 192) + 4 * 4,
}


@each_on_cpu
def test_quantized_state_bytes_match_a_hand_count(make_config: MakeConfig, name: str) -> None:
    net = two_layers()
    config = make_config(f"optimizer={name}").optimizer
    optimizer, resumed = build_optimizer(net, config), build_optimizer(net, config)
    train(net, optimizer, range(2))
    assert state_bytes(optimizer) == BYTES[name]
    low_bit.load_saved_state(resumed, low_bit.saved_state(optimizer))
    assert state_bytes(resumed) == BYTES[name]


@each_on_cpu
def test_the_first_low_bit_step_matches_the_precise_optimizer(make_config: MakeConfig, name: str) -> None:
    """The first step, from a state of zeros, is the same; the state after it is the gradient's within a rounding."""
    config = make_config(f"optimizer={name}").optimizer
    ours, theirs = two_layers(), two_layers()
    precise: Any = Lion if ON_CPU[name] == "lion" else torch.optim.AdamW
    settings = {key: config[key] for key in ("lr", "weight_decay", "betas", "eps") if key in config}
    optimizers = build_optimizer(ours, config), precise([theirs[0].weight, theirs[1].weight], **settings)
    for net, optimizer in zip((ours, theirs), optimizers, strict=True):
        train(net, optimizer, range(1))
    # torchao takes 1 - 0.999 in float32, of which the root in the update has a relative error of up to 2**-25 / 0.001.
    tolerance = config.lr * 3e-5 if "ao" in name else 1e-8
    weight, their_weight = (next(net.parameters()) for net in (ours, theirs))
    torch.testing.assert_close(weight, their_weight, rtol=1e-6, atol=tolerance)
    state = optimizers[0].state[weight]
    assert their_weight.grad is not None
    expected = their_weight.grad * (1 - config.betas[1 if precise is Lion else 0])
    if name.endswith("ao_4bit"):
        got, gap = state["exp_avg"].dequantize(), 0.225  # the widest between two of 16 values, from -0.8875 to 1
    elif "ao" in name:
        widest = 32 / 448 if name.endswith("fp8") else 0.03  # of float8_e4m3fn, just below its largest value
        got, gap = state["exp_avg"].dequantize(), widest
    else:
        scales = state["absmax1"].repeat_interleave(256).view(128, 64)
        got, gap = state["qmap1"][state["state1"].long()] * scales, 0.03
    torch.testing.assert_close(got, expected, rtol=0, atol=gap / 2 * expected.abs().max().item())


def assert_resumes_to_the_bit(make: MakeConfig, tmp_path: Path, *more: str) -> Path:
    """Kill a run two steps after a checkpoint and continue it; returns its last checkpoint."""
    whole, whole_rows = finished(make(*WIDER, *more, f"run.runs_dir={tmp_path}/whole"))
    cfg = make(*WIDER, *more)
    directory = killed_after(6, cfg)
    assert [path.name.split("-")[1] for path in directory.glob("step-*.pt")] == ["00000004"]
    assert finished(cfg) == (directory, whole_rows)
    newest = max(directory.glob("step-*.pt"))
    ours, theirs = (torch.load(path, weights_only=True) for path in (newest, max(whole.glob("step-*.pt"))))
    weights = evaluated_weights(theirs)
    assert all(torch.equal(value, weights[name]) for name, value in evaluated_weights(ours).items())
    states, their_states = (torch.utils._pytree.tree_leaves(each["optimizer"]["state"]) for each in (ours, theirs))
    assert [bits(state) for state in states] == [bits(state) for state in their_states]
    return newest


def bits(value: Any) -> Any:
    """A tensor's dtype and bytes, as PyTorch compares no 8-bit floats; any other value itself."""
    is_tensor = isinstance(value, torch.Tensor)
    return (value.dtype, value.reshape(-1).view(torch.uint8).tolist()) if is_tensor else value


@each_on_cpu
def test_a_killed_and_resumed_run_is_bit_identical(make_config: MakeConfig, tmp_path: Path, name: str) -> None:
    checkpoint = assert_resumes_to_the_bit(make_config, tmp_path, f"optimizer={name}")
    declared = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()  # as in a process without torchao
    try:
        saved = torch.load(checkpoint, weights_only=True)["optimizer"]["state"]
    finally:
        torch.serialization.add_safe_globals(declared)
    tensors = [leaf for leaf in torch.utils._pytree.tree_leaves(saved) if isinstance(leaf, torch.Tensor)]
    assert any(tensor.dtype.itemsize == 1 for tensor in tensors), "nothing was quantized"
    assert {type(tensor) for tensor in tensors} == {torch.Tensor}


def test_resumed_state_is_moved_back_to_paged_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A loaded tensor says that it is paged, because torch saves attributes, but its memory is not CUDA's: bitsandbytes
    would hand CUDA an address that it does not know. Pages are simulated here.
    """
    bitsandbytes = pytest.importorskip("bitsandbytes")
    pages: list[torch.Tensor] = []

    def new_pages(self: Any, param: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        pages.append(torch.zeros_like(param, dtype=dtype))
        pages[-1].is_paged = True  # type: ignore[attr-defined]
        return pages[-1]

    kind = bitsandbytes.optim.PagedAdamW8bit
    monkeypatch.setattr(kind, "get_state_buffer", new_pages)
    monkeypatch.setattr(kind, "prefetch_state", lambda self, param: None)
    net = two_layers()
    optimizer, resumed = kind(net.parameters()), kind(net.parameters())
    train(net, optimizer, range(2))
    torch.save(low_bit.saved_state(optimizer), tmp_path / "state.pt")
    low_bit.load_saved_state(resumed, torch.load(tmp_path / "state.pt", weights_only=True))
    for parameter, state in resumed.state.items():
        assert state["step"] == 2
        for name in ("state1", "state2"):
            assert any(state[name] is page for page in pages)
            assert torch.equal(state[name], optimizer.state[parameter][name])


@each_on_cpu
def test_a_nan_loss_with_low_bit_state_is_detected_at_its_step(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    cfg = make_config(*DENSE, "model.widths=[8,64,64]", f"optimizer={name}")
    poison(monkeypatch, step=5, value=math.nan)
    status = status_of(executed(cfg))
    assert (status["status"], status["step"]) == ("diverged", 5)


@pytest.mark.parametrize(("name", "shows"), [(name, "_ao_" in name) for name in ON_CPU])
def test_a_nan_in_quantized_state_is_visible_in_torchao_but_not_in_bitsandbytes(
    make_config: MakeConfig, name: str, shows: bool
) -> None:
    """So for bitsandbytes, only the check of loss and gradients finds it, as measure_step says."""
    pytest.importorskip("torchao" if "ao" in name else "bitsandbytes")
    net = two_layers()
    optimizer = build_optimizer(net, make_config(f"optimizer={name}").optimizer)
    train(net, optimizer, range(2))
    assert measure_step(optimizer)["nonfinite_state"] == 0
    gradient = next(net.parameters()).grad
    assert gradient is not None
    gradient[3, 5] = math.nan
    assert (measure_step(optimizer)["nonfinite_state"] > 0) == shows


def test_optimizer_state_nested_in_lists_is_counted_and_checked() -> None:
    net = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(net.parameters())
    shared = torch.full((5,), math.nan)
    optimizer.state[net.weight] = {"factors": [torch.ones(3, 3), {"root": shared}], "step": 3}
    optimizer.state[net.bias] = {"root": shared}
    net(torch.ones(1, 3)).sum().backward()
    assert state_bytes(optimizer) == 4 * (9 + 5)
    assert measure_step(optimizer)["nonfinite_state"] == 10


# --------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize("name", [*ON_CPU, *PAGED])
def test_the_error_for_a_missing_package_says_how_to_install_it(
    make_config: MakeConfig, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(low_bit, "find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=rf"optimizer={name} is .* not installed: run .*pip install .*'\.\[lowbit\]'"):
        execute(make_config(f"optimizer={name}"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", [unless_missing("lion_8bit"), unless_missing("adamw_ao_8bit")])
def test_low_bit_optimizers_refuse_sharding(make_config: MakeConfig, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"optimizer={name} .* set run\.shards to 1"):
        check_whole(resolved(make_config(f"optimizer={name}", "run.shards=2")))


@each_paged
def test_paged_optimizers_are_refused_on_a_cpu(make_config: MakeConfig, name: str) -> None:
    cfg = make_config(f"optimizer={name}", "run.device=cpu")
    with pytest.raises(ConfigError, match=rf"optimizer={name} .* set run\.device to cuda"):
        check_whole(resolved(cfg))
    check_whole(resolved(make_config(f"optimizer={name}", "run.device=auto")))
    with pytest.raises(ConfigError, match=rf"optimizer={name} .* set run\.device to cuda"):
        build_optimizer(two_layers(), cfg.optimizer)


@each_on_cpu
def test_an_optimizer_whose_step_fails_is_refused_when_it_is_built(
    make_config: MakeConfig, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(f"optimizer={name}").optimizer
    kind = type(build_optimizer(two_layers(), config))

    def step(self: Any, closure: Any = None) -> None:
        raise RuntimeError("undefined symbol: at::native\nand more")

    monkeypatch.setattr(kind, "step", step)
    said = (
        rf"optimizer={name} cannot take a step on this cpu with torch {re.escape(torch.__version__)}: undefined symbol"
    )
    with pytest.raises(ConfigError, match=said):
        build_optimizer(two_layers(), config)


def test_the_warm_up_compiles_all_code_of_torchaos_steps() -> None:
    """As before training on a GPU; here without generating code, which would take a minute."""
    torchao = pytest.importorskip("torchao.optim")
    net = nn.Sequential(
        nn.Linear(64, 128), nn.Conv2d(8, 16, 3).to(memory_format=torch.channels_last), nn.Linear(64, 128)
    )
    params = list(net.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [param for param in params if param.ndim > 1], "weight_decay": 0.1},
        {"params": [param for param in params if param.ndim == 1], "weight_decay": 0.0},
    ]
    compiled = torch._dynamo.utils.counters["stats"]
    torch._dynamo.reset()
    with torch.compiler.set_stance("default", force_backend="eager"):
        before = compiled["unique_graphs"]
        torchao.AdamW8bit([{**group, "params": low_bit._stand_ins(group["params"], True)} for group in groups]).step()
        warm = compiled["unique_graphs"]
        assert warm - before == 4  # the two matrices share one
        optimizer = torchao.AdamW8bit(groups)
        for rate in (1e-3, 1e-4):
            for param in params:
                param.grad = torch.randn_like(param)
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(rate)
            optimizer.step()
    assert compiled["unique_graphs"] == warm


# ------------------------------------------------------------------------------------------------------------ on a GPU
@pytest.mark.gpu
@gpu
@each_on_gpu
def test_a_killed_and_resumed_gpu_run_is_bit_identical(make_config: MakeConfig, tmp_path: Path, name: str) -> None:
    assert_resumes_to_the_bit(make_config, tmp_path, f"optimizer={name}", "run.device=cuda")


@pytest.mark.gpu
@gpu
@each_on_gpu
def test_resumed_gpu_state_uses_the_same_kind_of_memory(make_config: MakeConfig, name: str) -> None:
    config = make_config(f"optimizer={name}").optimizer
    net = nn.Linear(512, 512, device="cuda")  # 262 144 entries: paged if the optimizer is
    optimizer, resumed = build_optimizer(net, config), build_optimizer(net, config)
    net(torch.ones(1, 512, device="cuda")).sum().backward()
    optimizer.step()
    low_bit.load_saved_state(resumed, low_bit.saved_state(optimizer))
    assert state_bytes(resumed) == state_bytes(optimizer)
    states = optimizer.state[net.weight], resumed.state[net.weight]
    assert [getattr(each.get("state1"), "is_paged", False) for each in states] == [name in PAGED] * 2
    for key, value in states[0].items():
        if isinstance(value, torch.Tensor):
            assert states[1][key].device == value.device, key
