"""The memory of a training step, counted without a GPU: against hand counts, PyTorch's own engine and a real GPU."""

import json
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from experiments.harness.composition import composed
from experiments.harness.memory import CountingMode, PassMemory, move_shapes, pass_memory
from experiments.harness.source_code import ROOT
from experiments.plan.costs import CONTEXT_BYTES, GPU_BYTES
from experiments.plan.plan import memory, plan

EXPERIMENTS = sorted(
    path.relative_to(ROOT / "conf/experiment").with_suffix("").as_posix()
    for path in (ROOT / "conf/experiment").glob("*/*.yaml")
    if not any(small in path.stem for small in ("mini", "smoke"))
)
FAST = ("language_modeling/gpu",)
WORKSPACES = 2 * 32 * 2**20
"""cuBLAS's and cuBLASLt's on Hopper, by default, which PyTorch allocates"""


@pytest.mark.parametrize(
    "experiment", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in EXPERIMENTS]
)
def test_the_runs_of_every_experiment_fit_on_the_requested_gpus(experiment: str) -> None:
    task, name = experiment.split("/")
    overrides = [f"experiment={experiment}", f"scale={'gpu' if name.startswith('gpu') else 'paper'}"]
    planned = plan(task, overrides)
    used = memory(task, overrides, planned)
    runs_on_a_gpu = round(1 / (min(1, composed(task, overrides).run.gpus) or 1))
    assert set(used.peak) == set(planned.state_bytes)
    assert runs_on_a_gpu * (max(used.peak.values()) + CONTEXT_BYTES) <= GPU_BYTES
    assert used.runs >= runs_on_a_gpu


def counted(
    model: nn.Module, loss: Callable[[nn.Module], Tensor], device: str, *, bf16: bool = False, gradients: bool = True
) -> PassMemory:
    with CountingMode() as mode:
        move_shapes(model, device)
        return pass_memory(mode, model, lambda: loss(model), bf16=bf16, gradients=gradients)


def test_a_linear_classifiers_memory_matches_a_hand_calculation() -> None:
    rows, width, classes = 1000, 64, 500
    with torch.device("meta"):
        model = nn.Linear(width, classes, bias=False)

    def loss(model: nn.Module) -> Tensor:
        inputs, labels = torch.empty(rows, width, device="cuda"), torch.zeros(rows, dtype=torch.int64, device="cuda")
        return F.cross_entropy(model(inputs), labels)

    inputs, labels, logits = rows * width, 8 * rows, rows * classes
    used = counted(model, loss, "cuda", bf16=True)
    # Kept: the inputs in bfloat16, the labels, and log-probabilities in float32; besides these a few scalars.
    assert used.saved == pytest.approx(2 * inputs + labels + 4 * logits, abs=100)
    # In the backward pass, when the labels are no longer needed: gradients of the log-probabilities and of the logits.
    assert used.peak == pytest.approx(2 * inputs + 3 * 4 * logits, abs=100)


class Residual(nn.Module):
    """Attention with dropout, normalization, a convolution, a shared weight, and parts that may be recomputed."""

    def __init__(self, recomputes: bool) -> None:
        super().__init__()
        self.recomputes = recomputes
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.maps, self.shared, self.after = nn.Linear(8, 24), nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, images: Tensor) -> Tensor:
        """Numbers [N, 64, 8]."""
        hidden = images + F.gelu(self.norm(self.conv(images)))
        tokens = hidden.flatten(2).transpose(1, 2)
        for _ in range(3):
            tokens = checkpoint(self.layer, tokens, use_reentrant=False) if self.recomputes else self.layer(tokens)
        return self.shared(tokens)

    def layer(self, tokens: Tensor) -> Tensor:
        """Numbers of the same shape."""
        query, key, value = self.maps(self.after(tokens)).view(*tokens.shape[:2], 2, 12).transpose(1, 2).chunk(3, -1)
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=0.1)
        return tokens + self.shared(attended.transpose(1, 2).flatten(2))


def residual_loss(model: nn.Module) -> Tensor:
    return model(torch.empty(16, 8, 8, 8, device=next(model.parameters()).device)).square().mean()


@pytest.mark.parametrize("recomputes", [False, True])
def test_the_estimated_peak_matches_pytorchs_autograd_engine(recomputes: bool) -> None:
    with torch.device("meta"):
        model, again = Residual(recomputes), Residual(recomputes)
    with CountingMode() as mode:  # on a CPU, PyTorch's engine takes fake tensors
        move_shapes(model, "cpu")
        weights = mode.peak = mode.live
        residual_loss(model).backward()
        expected = mode.peak - weights
    assert counted(again, residual_loss, "cpu").peak == pytest.approx(expected, rel=0.02)
    shapes, expected_shapes = (
        {name: weight.grad is not None and weight.grad.shape for name, weight in each.named_parameters()}
        for each in (again, model)
    )
    assert shapes == expected_shapes
    assert all(shapes.values())


def test_activation_checkpointing_lowers_the_estimate_under_autocast() -> None:
    with torch.device("meta"):
        kept, recomputed = Residual(recomputes=False), Residual(recomputes=True)
    all_kept, some_kept = (counted(model, residual_loss, "cuda", bf16=True) for model in (kept, recomputed))
    assert some_kept.saved < 0.7 * all_kept.saved
    assert some_kept.peak < all_kept.peak


def test_memory_estimates_do_not_depend_on_earlier_estimates() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    def fresh() -> PassMemory:
        with torch.device("meta"):
            return counted(Residual(recomputes=False), residual_loss, "cuda", bf16=True)

    FakeTensorMode.cache_clear()  # shapes of unknown operators come from decompositions, whose tensors do not count
    assert fresh() == fresh()


def test_the_memory_estimate_matches_committed_gpu_measurements() -> None:
    """The committed runs on an H200. Runs in one worker leave some of their weights to later ones, so the least."""
    overrides = ["experiment=language_modeling/gpu", "scale=gpu"]
    planned = plan("language_modeling", overrides)
    used = memory("language_modeling", overrides, planned)
    folder = ROOT / "results/language_modeling/gpu/gpu/replicates"
    runs = [run for number in range(4) for run in pq.read_table(folder / f"{number}.parquet").to_pylist()]
    for optimizer in ("lion", "adamw"):
        first_rows = [run["metrics"].partition("\n")[0] for run in runs if run["optimizer"] == optimizer]
        measured = min(json.loads(row)["cost/peak_bytes"] for row in first_rows)
        assert used.peak[optimizer] + WORKSPACES == pytest.approx(measured, rel=0.02)
