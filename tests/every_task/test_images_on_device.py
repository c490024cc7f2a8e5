"""Training images that stay on the run's device: the batches, and so the rows, are those of images read on the host."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import MakeConfig, built, finished

ON_DEVICE = "run.images_on_device=true"
CASES = {
    "cropped and flipped": ("make_config", ["data.crop_padding=2", "data.flip=true"]),
    "neither": ("make_config", ["data.crop_padding=0", "data.flip=false"]),
    "mixed up": ("make_config", ["data.flip=true", "augmentation.mixup_alpha=0.3"]),
    "halved": ("make_diffusion", []),
    "unchanged": ("make_diffusion", ["data.image_size=32", "model.sample_size=32"]),
    "with captions": ("make_text_to_image", []),
    "not flipped": ("make_diffusion", ["data.flip=false"]),
}


@pytest.fixture(params=CASES)
def make(request: pytest.FixtureRequest) -> MakeConfig:
    maker, overrides = CASES[request.param]
    return lambda *more: request.getfixturevalue(maker)(*overrides, *more)


def given_to_the_model(cfg: Any) -> tuple[list[Tensor], float]:
    """The first argument of the model in two micro-batches that share images, and the loss of the second."""
    task = built(cfg)
    torch.manual_seed(0)
    model, given = task.model(), list[Tensor]()
    model.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    for first in (0, 3):
        indices = torch.arange(first, first + 8).flip(0).numpy()
        loss = task.loss(model, task.batch(indices, [7 * int(index) + first for index in indices]))
    return given, loss.item()


def test_the_model_gets_the_same_pixels_in_the_same_memory_layout(make: MakeConfig) -> None:
    (on_host, host_loss), (on_device, loss) = (given_to_the_model(make(*more)) for more in ([], [ON_DEVICE]))
    assert len(on_host) == len(on_device) == 2
    for ours, theirs in zip(on_device, on_host, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.stride() == theirs.stride()
    assert loss == host_loss


def test_batches_have_no_pixels_to_copy(make: MakeConfig) -> None:
    batch = built(make(ON_DEVICE)).batch(torch.arange(8).numpy(), list(range(8)))
    assert {name for name, value in batch.items() if value.dtype == torch.uint8} == set()


@pytest.mark.parametrize("maker", ["make_config", "make_diffusion"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_has_the_same_id_and_the_same_rows(
    maker: str, workers: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    make = request.getfixturevalue(maker)
    on_host = finished(make(f"run.runs_dir={tmp_path}/host"))
    on_device = finished(make(ON_DEVICE, f"run.num_workers={workers}"))
    assert on_device[0].name == on_host[0].name
    assert on_device[1] == on_host[1]


def test_images_in_files_resized_or_augmented_otherwise_are_read_by_batch(
    make_config: MakeConfig, compose_small: MakeConfig, make_diffusion: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    for cfg in (
        make_config(ON_DEVICE, "augmentation.randaugment_ops=2"),
        make_config(ON_DEVICE, "data.image_size=20"),
        compose_small("vit_b16", ON_DEVICE),
        make_diffusion(ON_DEVICE, "data.image_size=24", "model.sample_size=24"),
    ):
        caplog.clear()
        batch = built(cfg).batch(np.arange(4), [0, 1, 2, 3])
        assert batch["images"].shape[0] == 4
        assert "run.images_on_device: these images are in files, resized or augmented" in caplog.text


def test_the_images_of_an_earlier_run_are_not_kept(make_diffusion: MakeConfig) -> None:
    task = built(make_diffusion(ON_DEVICE))
    images = weakref.ref(task._on_device)
    del task
    gc.collect()  # as before every run in a process with a GPU
    assert images() is None


@pytest.mark.parametrize("maker", ["make_lit", "make_lm", "make_classification"])
def test_tasks_without_training_images_have_no_such_setting(maker: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(Exception, match="images_on_device"):
        request.getfixturevalue(maker)(ON_DEVICE)
