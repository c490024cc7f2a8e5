"""The paper's models have the paper's sizes, and attention masks what it must."""

import pytest
import torch
import yaml
from torch import Tensor, nn

from experiments.harness.composition import composed
from experiments.harness.config import typed
from experiments.harness.memory import CountingMode, move_shapes, pass_memory
from experiments.harness.optimizer import decay_groups
from experiments.harness.source_code import ROOT
from experiments.language_modeling.likelihood import UNCOUNTED, token_nats
from experiments.language_modeling.models import bidirectional, causal, meta_model
from experiments.plan.plan import plan

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment/language_modeling").glob("*.yaml"))
PAPER = yaml.safe_load((ROOT / "results/paper.yaml").read_text())["cells"]["language_modeling"]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiments_model_has_the_published_parameter_count(experiment: str) -> None:
    cfg = composed("language_modeling", [f"experiment=language_modeling/{experiment}"])
    parameters = sum(parameter.numel() for parameter in meta_model(typed(cfg)).parameters())
    if experiment in PAPER:
        stated = PAPER[experiment]["parameters_million"]
        kind = experiment.split("_")[0]
        tolerance = {"c4": 0.01 * stated, "oneshot": min(50, 0.03 * stated)}.get(kind, 0.5)
        assert parameters / 1e6 == pytest.approx(stated, abs=tolerance)


def test_a_causal_model_does_not_see_later_tokens() -> None:
    torch.manual_seed(0)
    model = causal(vocab_size=50, context_length=8, layers=2, width=16, heads=2).eval()
    tokens = torch.randint(0, 50, (1, 8))
    changed = tokens.clone()
    changed[0, 5:] = (tokens[0, 5:] + 1) % 50
    with torch.no_grad():
        before, after = model(tokens).logits, model(changed).logits
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_a_bidirectional_model_sees_both_sides() -> None:
    torch.manual_seed(0)
    model = bidirectional(vocab_size=50, context_length=8, layers=1, width=16, heads=2).eval()
    tokens = torch.randint(0, 50, (1, 8))
    for place in (0, 7):
        changed = tokens.clone()
        changed[0, place] = (tokens[0, place] + 1) % 50
        with torch.no_grad():
            assert not torch.allclose(model(tokens).logits[:, 4], model(changed).logits[:, 4])


def chunked_and_not(device: str = "cpu") -> list[nn.Module]:
    """The same weights, and 5 tokens at a time or all at once."""
    models = []
    for chunk in (5, None):
        torch.manual_seed(0)
        with torch.device(device):
            models.append(causal(vocab_size=500, context_length=8, layers=2, width=16, heads=2, loss_chunk=chunk))
    return models


def inputs_and_targets() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(0, 500, (2, 9), generator=torch.Generator().manual_seed(0))
    targets = tokens[:, 1:].clone()
    targets[1, 6:] = UNCOUNTED
    return tokens[:, :-1], targets


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_chunked_loss_and_its_gradients_match_the_unchunked_ones(precision: torch.dtype) -> None:
    inputs, targets = inputs_and_targets()
    chunked, whole = chunked_and_not()
    assert torch.equal(chunked(inputs).logits, whole(inputs).logits)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        found, expected = chunked(inputs, targets), token_nats(whole, inputs, targets)
    assert found.dtype == torch.float32
    assert not found.view(2, 8)[1, 6:].any()
    torch.testing.assert_close(found, expected)
    found.mean().backward()
    expected.mean().backward()
    # Gradients that are added in bfloat16 are off by its rounding, 2^-9, a few times.
    furthest = 0.02 if precision == torch.bfloat16 else 1e-5
    for (name, mine), theirs in zip(chunked.named_parameters(), whole.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert (mine.grad - theirs.grad).norm() <= furthest * theirs.grad.norm(), name


def test_a_chunked_loss_never_holds_all_logits_in_memory() -> None:
    all_logits = 4 * 16 * 500
    peaks = []
    for model, is_chunked in zip(chunked_and_not("meta"), (True, False), strict=True):

        def loss(model: nn.Module = model, is_chunked: bool = is_chunked) -> Tensor:
            inputs = torch.zeros(2, 8, dtype=torch.int64, device="cuda")
            return (model(inputs, inputs) if is_chunked else token_nats(model, inputs, inputs)).mean()

        with CountingMode() as mode:
            move_shapes(model, "cuda")
            peaks.append(pass_memory(mode, model, loss, bf16=True, gradients=False).peak)
    assert peaks[0] < peaks[1] - 1.5 * all_logits


@pytest.mark.parametrize("make", [causal, bidirectional])
def test_tied_embeddings_positions_biases_and_norms_do_not_decay(make: type[nn.Module]) -> None:
    model = make(vocab_size=50, context_length=8, layers=2, width=16, heads=2)
    groups = decay_groups(model)
    decayed = {name: parameter for name, parameter in model.named_parameters() if name in groups["decay"]}
    assert decayed
    assert all(parameter.ndim == 2 and 50 not in parameter.shape for parameter in decayed.values())
    assert not any("wpe" in name or "position" in name or "norm" in name.lower() for name in decayed)


def test_the_largest_models_flops_and_state_match_a_hand_calculation() -> None:
    planned = plan("language_modeling", ["experiment=language_modeling/oneshot_7b5", "scale=paper"])
    layers, width, tokens, vocabulary = 32, 4096, 1024, 256_000
    # 12 width^2 multiplications per layer and token, the products of attention, the output; backward makes twice that
    forward = 2 * tokens * (layers * 12 * width**2 + vocabulary * width) + layers * 2 * 2 * tokens**2 * width
    again = 2 * tokens * vocabulary * width  # the output's logits are computed twice
    assert planned.flops_per_step == pytest.approx(3072 * (3 * forward + again), rel=0.01)
    assert planned.samples * tokens == pytest.approx(300e9, rel=1e-4)
    assert planned.state_bytes["lion"] == 4 * planned.parameters
    assert planned.state_bytes["adafactor"] < 0.6 * planned.state_bytes["lion"]
