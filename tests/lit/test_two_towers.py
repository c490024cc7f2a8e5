"""Locked parts do not change, and chunks give the whole batch's gradient; the contrastive loss."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.harness.optimizer import build_optimizer
from experiments.lit.evaluation import cosines
from experiments.lit.models import TwoTowers, contrastive_loss
from experiments.pretrained.locked import Locked
from tests.harness.process_group import in_processes

LION = {"name": "lion", "_target_": "lion.Lion", "lr": 1e-2, "weight_decay": 0.1, "betas": [0.9, 0.99]}


def text_tower(dropout: float = 0.0) -> nn.Sequential:
    return nn.Sequential(nn.Embedding(20, 16), nn.Flatten(), nn.Linear(64, 32), nn.Dropout(dropout), nn.Linear(32, 8))


def image_tower() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 36, 8))


def pairs(count: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 8, 8, generator=generator), torch.randint(0, 20, (count, 4), generator=generator)


def test_training_does_not_change_a_bit_of_a_locked_tower() -> None:
    torch.manual_seed(0)
    model = TwoTowers(Locked(image_tower()), text_tower(), 14.3, None).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build_optimizer(model, LION)
    for _ in range(3):
        optimizer.zero_grad()
        contrastive_loss(*model(*pairs())).backward()
        optimizer.step()
    after = model.state_dict()
    locked = [name for name in before if name.startswith("image.")]
    assert len(locked) == 9
    assert all(torch.equal(before[name], after[name]) for name in locked)
    assert not any(torch.equal(before[name], after[name]) for name in before if name.startswith("text."))


def test_a_locked_tower_has_no_gradients_optimizer_state_or_saved_activations() -> None:
    model = TwoTowers(Locked(image_tower()), text_tower(), 14.3, None).train()
    saved: list[Tensor] = []

    def save(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        features = model.image(pairs()[0])
    assert not saved, "no activation is kept for a backward pass"
    assert not features.requires_grad
    optimizer = build_optimizer(model, LION)
    contrastive_loss(*model(*pairs())).backward()
    optimizer.step()
    locked = list(model.image.parameters())
    assert all(parameter.grad is None and parameter not in optimizer.state for parameter in locked)
    assert not any(parameter.requires_grad for parameter in locked)
    assert all(parameter in optimizer.state for parameter in model.text.parameters())


def test_a_locked_tower_stays_in_evaluation_mode_during_training() -> None:
    model = TwoTowers(Locked(image_tower()), text_tower(), 14.3, None)
    images = pairs()[0]
    model.eval()
    expected = model.embed_images(images)
    model.train()
    assert torch.equal(model.embed_images(images), expected)


def test_both_towers_get_gradients_when_neither_is_locked() -> None:
    model = TwoTowers(nn.Sequential(nn.Flatten(), nn.Linear(192, 8)), text_tower(), 14.3, None)
    contrastive_loss(*model(*pairs())).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("chunk_size", [5, 8, 24])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_chunked_gradients_match_the_whole_batch(chunk_size: int, dropout: float) -> None:
    torch.manual_seed(0)
    model = TwoTowers(nn.Sequential(nn.Flatten(), nn.Linear(192, 8)), text_tower(dropout), 14.3, None).double()
    images, texts = pairs()
    whole = gradient_with_all_activations(model, images.double(), texts, chunk_size)
    model.chunk_size = chunk_size
    model.zero_grad()
    torch.manual_seed(1)
    loss = contrastive_loss(*model(images.double(), texts))
    loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-5, atol=1e-9)


def gradient_with_all_activations(
    model: TwoTowers, images: Tensor, texts: Tensor, chunk_size: int
) -> dict[str, Tensor]:
    """The gradient of the whole batch, whose chunks were embedded one after the other with all activations kept."""
    torch.manual_seed(1)
    parts: list[Any] = [
        (model.embed_images(image), model.embed_texts(text))
        for image, text in zip(images.split(chunk_size), texts.split(chunk_size), strict=True)
    ]
    contrastive_loss(torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts]), model.scale()).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(("chunk_size", "kept"), [(None, 1), (6, 0)])
def test_chunking_keeps_no_activations(chunk_size: int | None, kept: int) -> None:
    tower = text_tower()
    model = TwoTowers(nn.Sequential(nn.Flatten(), nn.Linear(192, 8)), tower, 14.3, chunk_size)
    activations: list[weakref.ref[Tensor]] = []
    tower[2].register_forward_hook(lambda module, inputs, output: activations.append(weakref.ref(output)))
    outputs = model(*pairs())
    assert len(activations) == (24 // chunk_size if chunk_size else 1)
    assert sum(activation() is not None for activation in activations) == kept
    assert outputs[0].requires_grad


def vectors() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(8, 6, generator=generator, dtype=torch.float64) for _ in range(2)]


def embed(images: Tensor, texts: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return F.normalize(images, dim=1), F.normalize(texts @ weight, dim=1), torch.tensor(5.0, dtype=torch.float64)


def test_the_contrastive_loss_of_two_processes_matches_one_with_the_whole_batch(tmp_path: Path) -> None:
    def save_sums() -> None:
        dist.init_process_group("gloo")
        weight = nn.Parameter(torch.eye(6, dtype=torch.float64))
        images, texts = (part.chunk(2)[dist.get_rank()] for part in vectors())
        loss = contrastive_loss(*embed(images, texts, weight))
        loss.backward()
        assert weight.grad is not None
        sums = {"loss": loss.detach(), "grad": weight.grad}
        for value in sums.values():
            dist.all_reduce(value)
        if dist.get_rank() == 0:
            torch.save({name: value / 2 for name, value in sums.items()}, tmp_path / "out.pt")

    assert in_processes(2, save_sums) == [0, 0]
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    weight = nn.Parameter(torch.eye(6, dtype=torch.float64))
    images, texts = vectors()
    loss = contrastive_loss(*embed(images, texts, weight))
    loss.backward()
    torch.testing.assert_close(found["loss"], loss.detach())
    torch.testing.assert_close(found["grad"], weight.grad)


def test_the_contrastive_loss_matches_open_clip_bit_for_bit() -> None:
    from open_clip.loss import ClipLoss

    results = []
    for loss_of in (contrastive_loss, ClipLoss()):
        weight = nn.Parameter(torch.eye(6))
        images, texts = (part.float() for part in vectors())
        loss = loss_of(F.normalize(images, dim=1), F.normalize(texts @ weight, dim=1), torch.tensor(14.3))
        loss.backward()
        results.append((loss.detach(), weight.grad))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_loss_and_cosines_stay_in_float32_under_autocast() -> None:
    images, texts = (F.normalize(torch.randn(7, 5), dim=1) for _ in range(2))
    logits, right = 90 * images @ texts.T, torch.arange(7)
    loss = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(contrastive_loss(images, texts, torch.tensor(90.0)), loss)
        torch.testing.assert_close(cosines(images, texts), logits / 90)


def test_the_logit_scale_starts_as_configured_and_is_capped_at_100() -> None:
    model = TwoTowers(nn.Identity(), nn.Identity(), 30, None)
    assert model.scale().item() == pytest.approx(30)
    with torch.no_grad():
        model.logit_scale.fill_(9)
    assert model.scale().item() == pytest.approx(100)
