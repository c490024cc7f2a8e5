"""Noise, targets and timesteps."""

import math

import numpy as np
import pytest
import torch

from experiments.diffusion.config import NoiseConfig
from experiments.diffusion.forward_process import ForwardProcess, low_resolution
from experiments.diffusion.sampler import from_bytes
from experiments.diffusion.task import build
from experiments.harness.config import typed
from experiments.harness.run import locate
from tests.conftest import MakeConfig, built, sums_of


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("target", ["epsilon", "v_prediction"])
def test_the_noise_is_recovered_from_either_prediction_target(schedule: str, target: str) -> None:
    forward = ForwardProcess(NoiseConfig(schedule=schedule, target=target))
    torch.manual_seed(0)
    images, noise, timesteps = torch.randn(50, 3, 4, 4), torch.randn(50, 3, 4, 4), torch.arange(0, 1000, 20)
    noisy = forward.noisy(images, noise, timesteps)
    answer = forward.target(images, noise, timesteps)
    torch.testing.assert_close(forward.epsilon(answer, noisy, timesteps), noise, rtol=1e-4, atol=1e-4)


def test_the_cosine_schedule_matches_its_published_formula() -> None:
    # Nichol and Dhariwal 2021, equation 17, except at the end, where its steps are capped
    signal = ForwardProcess(NoiseConfig(schedule="squaredcos_cap_v2")).scheduler.alphas_cumprod
    for step in (0, 100, 500, 900):
        expected = (
            math.cos(((step + 1) / 1000 + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
        ) ** 2
        assert signal[step].item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("target", ["epsilon", "v_prediction"])
def test_importance_weights_give_an_unbiased_mean_over_timesteps(target: str) -> None:
    forward = ForwardProcess(NoiseConfig(schedule="linear", target=target, timesteps="importance"))
    torch.manual_seed(0)
    timesteps, weights = forward.draw_timesteps(200_000, torch.device("cpu"))
    errors = 1 / (1 + timesteps.double() / 100)  # large where there is little noise
    exact = (1 / (1 + torch.arange(1000).double() / 100)).mean()
    assert (weights * errors).mean().item() == pytest.approx(exact.item(), rel=0.01)
    assert 0 < weights.min() < 1 < weights.max() <= 2
    early = (timesteps < 500).double().mean().item()
    assert early > 0.6 if target == "epsilon" else early != pytest.approx(0.5, abs=0.05)


def test_uniform_timesteps_are_uniform() -> None:
    forward = ForwardProcess(NoiseConfig(schedule="linear"))
    torch.manual_seed(0)
    timesteps, weights = forward.draw_timesteps(100_000, torch.device("cpu"))
    assert torch.equal(weights, torch.ones_like(weights))
    counts = torch.bincount(timesteps // 100, minlength=10)
    assert len(counts) == 10
    assert counts.min() > 9500


def test_evaluation_timesteps_are_evenly_spread_and_independent_of_the_seed(make_diffusion: MakeConfig) -> None:
    found = []
    for seed in (0, 1):
        task, given = built(make_diffusion(f"seed={seed}")), list[np.ndarray]()
        model = task.model()
        model.register_forward_pre_hook(lambda _, inputs, given=given: given.append(inputs[1].numpy()))
        sums_of(task, "val", model)
        found.append(np.concatenate(given))
    assert np.array_equal(found[0], found[1])
    assert np.diff(np.sort(found[0])).max() <= math.ceil(1000 / 32)
    assert abs(found[0].mean() - 499.5) < 10
    assert not np.array_equal(found[0], np.sort(found[0]))


def test_flips_depend_on_the_sample_seed_and_downsampling_averages_areas(make_diffusion: MakeConfig) -> None:
    cfg = make_diffusion()
    data = locate(cfg).data
    task = build(typed(cfg), data)
    indices = np.arange(4)
    plain, flipped = (task.batch(indices, [seed] * 4)["images"] for seed in (2, 3))
    assert torch.equal(plain.flip(3), flipped)
    assert not torch.equal(plain, flipped)
    originals = data.images.load()["train_images"][:4].reshape(4, 16, 2, 16, 2, 3).mean((2, 4))
    averages = torch.from_numpy(originals / 127.5 - 1).movedim(3, 1).float()
    # rounded twice, by at most a half
    torch.testing.assert_close(from_bytes(plain), averages, rtol=0, atol=1.01 / 127.5)


def test_the_low_resolution_image_averages_blocks_of_the_large_one() -> None:
    images = torch.arange(64.0).view(1, 1, 8, 8).expand(2, 3, 8, 8)
    small = low_resolution(images, 2)
    assert small.shape == images.shape
    # bilinear enlargement keeps the values of the corner pixels
    assert small[0, 0, 0, 0] == images[0, 0, :4, :4].mean()
    assert small[0, 0, -1, -1] == images[0, 0, 4:, 4:].mean()
