import re
from typing import Any

import pytest
import timm
import torch
from torch import nn

from experiments.harness.errors import ConfigError
from experiments.harness.optimizer import build_optimizer, decay_groups, state_bytes
from tests.conftest import MakeConfig

ADAMW = {"name": "adamw", "_target_": "torch.optim.AdamW", "lr": 1e-3, "weight_decay": 0.3}


class Tied(nn.Module):
    """A language model's parts: a tied embedding, an attention, a norm, a temperature, a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.norm = nn.LayerNorm(4)
        self.frozen = nn.Linear(4, 4)
        self.frozen.requires_grad_(False)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.position_table = nn.Parameter(torch.zeros(5, 4))
        self.temperature = nn.Parameter(torch.tensor(1.0))


def test_only_matrices_decay_and_not_biases_norms_embeddings_or_scalars() -> None:
    assert decay_groups(Tied()) == {
        "decay": ["attention.in_proj_weight", "attention.out_proj.weight"],
        "no_decay": [
            "position_table", "temperature", "embedding.weight", "attention.in_proj_bias", "attention.out_proj.bias",
            "norm.weight", "norm.bias",
        ],
    }  # fmt: skip


def test_a_vision_transformers_kernels_decay_but_not_its_tokens_and_positions() -> None:
    groups = decay_groups(timm.create_model("vit_tiny_patch16_224"))
    assert "patch_embed.proj.weight" in groups["decay"]
    assert {"cls_token", "pos_embed"} <= set(groups["no_decay"])
    kernels = 1 + 12 * 4 + 1  # patches; qkv, projection and two MLP matrices per block; head
    assert len(groups["decay"]) == kernels


def test_weight_decay_changes_only_the_decayed_group() -> None:
    model = Tied()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    build_optimizer(model, ADAMW).step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved <= set(decay_groups(model)["decay"])
    torch.testing.assert_close(model.attention.in_proj_weight, before["attention.in_proj_weight"] * (1 - 1e-3 * 0.3))


def test_state_bytes_count_two_moments_for_adamw_and_one_for_lion(make_config: MakeConfig) -> None:
    for name, moments, extra in (("lion", 1, 0), ("adamw", 2, 4)):
        model = nn.Linear(10, 10)
        optimizer = build_optimizer(model, make_config(f"optimizer={name}").optimizer)
        model(torch.ones(1, 10)).sum().backward()
        optimizer.step()
        assert state_bytes(optimizer) == 110 * 4 * moments + 2 * extra  # AdamW keeps a step counter for each tensor


class AsksForTheLoss(torch.optim.SGD):
    """Takes parameter groups, and a step only with a closure."""

    def step(self, closure: Any) -> Any:  # type: ignore[override]
        return super().step(closure)


@pytest.mark.parametrize("target", ["torch.optim.LBFGS", f"{__name__}.AsksForTheLoss"])
def test_an_optimizer_whose_step_requires_a_closure_is_refused(target: str) -> None:
    with pytest.raises(ConfigError, match=r"optimizer=mine cannot be used: the suite calls step\(\) without a closure"):
        build_optimizer(nn.Linear(2, 2), {"name": "mine", "_target_": target, "lr": 0.1})


@pytest.mark.parametrize(
    ("target", "missing"), [("no_such_package.Lion", "no_such_package"), ("torch.optim.Lyon", "torch.optim.Lyon")]
)
def test_a_misspelt_optimizer_is_refused_by_what_python_does_not_find(target: str, missing: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"Error locating target '{target}': ")) as raised:
        build_optimizer(nn.Linear(2, 2), {"name": "mine", "_target_": target, "lr": 0.1})
    assert str(raised.value).endswith(f"Python finds no module or class {missing}.")
