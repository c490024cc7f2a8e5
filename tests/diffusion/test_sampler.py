"""Every supported sampler generates the pixel distribution that a perfectly trained network has learnt.

For normally distributed pixels x0 with mean m and standard deviation s, such a network's predictions, the means of x0
and of the noise given x_t, have a closed form. The schedules are written out here, and so is the effect of the
sampler's steps on the standard deviation, which shrinks if there are few steps.
"""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from experiments.diffusion.config import DiffusionConfig, NoiseConfig, SamplingConfig
from experiments.diffusion.forward_process import ForwardProcess
from experiments.diffusion.sampler import check_sampling, denoising, from_bytes
from experiments.harness.errors import ConfigError

MEAN, SPREAD = 0.4, 0.15


def signal_of(schedule: str, steps: int) -> np.ndarray:
    """The remaining share of an image's variance, float64 [steps]: Ho et al. 2020, Nichol and Dhariwal 2021."""
    if schedule == "linear":
        return np.cumprod(1 - np.linspace(1e-4, 0.02, steps) * 1000 / steps)
    at = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - at[1:] / at[:-1], 0.999))


class RightNetwork(nn.Module):
    """The output of a network that has learnt the pixels perfectly."""

    def __init__(self, noise: NoiseConfig) -> None:
        super().__init__()
        self.signal, self.target = torch.from_numpy(signal_of(noise.schedule, noise.steps)), noise.target

    def forward(self, noisy: Tensor, timesteps: Tensor, return_dict: bool) -> tuple[Tensor]:
        signal = self.signal[timesteps].view(-1, 1, 1, 1)
        share = (noisy.double() - signal.sqrt() * MEAN) / (signal * SPREAD**2 + 1 - signal)
        epsilon = (1 - signal).sqrt() * share
        image = MEAN + signal.sqrt() * SPREAD**2 * share
        said = epsilon if self.target == "epsilon" else signal.sqrt() * epsilon - (1 - signal).sqrt() * image
        return (said.float(),)


def spread_after(sampler: str, schedule: str, noise_steps: int, steps: int) -> float:
    """For pixels that start from the true distribution of the first timestep: each step is linear in them."""
    signal = signal_of(schedule, noise_steps)
    timesteps = np.arange(steps)[::-1] * (noise_steps // steps)
    variance = signal[timesteps[0]] * SPREAD**2 + 1 - signal[timesteps[0]]
    for t in timesteps:
        now, then = signal[t], signal[t - noise_steps // steps] if t else 1.0
        slope = 1 / (now * SPREAD**2 + 1 - now)
        image, noise = np.sqrt(now) * SPREAD**2 * slope, np.sqrt(1 - now) * slope
        if sampler == "ddim":  # Song et al. 2021, equation 12 without its noise
            variance *= (np.sqrt(then) * image + np.sqrt(1 - then) * noise) ** 2
        else:  # Ho et al. 2020, equations 6 and 7
            beta = 1 - now / then
            factor = np.sqrt(then) * beta / (1 - now) * image + np.sqrt(now / then) * (1 - then) / (1 - now)
            variance = factor**2 * variance + (1 - then) / (1 - now) * beta
    return float(np.sqrt(variance))


def config(schedule: str, sampler: str, noise_steps: int, steps: int, target: str) -> DiffusionConfig:
    noise = NoiseConfig(schedule=schedule, steps=noise_steps, target=target)
    sampling = SamplingConfig(sampler=sampler, steps=steps, num_samples=8, batch_size=8)
    cfg = DiffusionConfig(noise=noise, sampling=sampling)
    cfg.data = type("Data", (), {"image_size": 32})  # type: ignore[assignment]
    return cfg


SIZES = [*((1000, steps) for steps in (5, 10, 50, 250, 1000)), (100, 10), (100, 100), (250, 25), (40, 8), (25, 5)]


@pytest.mark.parametrize("target", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("noise_steps", "steps"), SIZES)
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_samples_of_a_perfect_network_have_the_expected_mean_and_spread(
    schedule: str, sampler: str, noise_steps: int, steps: int, target: str
) -> None:
    cfg = config(schedule, sampler, noise_steps, steps, target)
    check_sampling(cfg.sampling, cfg.noise)
    *_, images = denoising(RightNetwork(cfg.noise), {}, {}, range(8), cfg, torch.device("cpu"))
    pixels = from_bytes(images)
    assert pixels.mean().item() == pytest.approx(MEAN, abs=0.012)
    assert pixels.std().item() == pytest.approx(spread_after(sampler, schedule, noise_steps, steps), rel=0.06)


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("steps", [25, 40, 100, 250, 999, 1000, 4000])
def test_noise_schedules_end_in_pure_noise_for_any_number_of_steps(schedule: str, steps: int) -> None:
    process = ForwardProcess(NoiseConfig(schedule=schedule, steps=steps))
    np.testing.assert_allclose(process.scheduler.alphas_cumprod, signal_of(schedule, steps), rtol=1e-3, atol=1e-7)
    assert process.scheduler.alphas_cumprod[-1] < 1e-4


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize(
    ("noise_steps", "steps"), [(1000, steps) for steps in (501, 600, 998, 999, 3, 7)] + [(100, 30)]
)
def test_sampling_steps_must_divide_the_noise_steps(schedule: str, sampler: str, noise_steps: int, steps: int) -> None:
    cfg = config(schedule, sampler, noise_steps, steps, "epsilon")
    with pytest.raises(ConfigError, match=rf"sampling\.steps={steps} must divide noise\.steps={noise_steps}"):
        check_sampling(cfg.sampling, cfg.noise)


@pytest.mark.parametrize(("schedule", "steps"), [("linear", 1), ("squaredcos_cap_v2", 1), ("squaredcos_cap_v2", 2)])
def test_too_few_sampling_steps_to_start_from_pure_noise_are_refused(schedule: str, steps: int) -> None:
    cfg = config(schedule, "ddim", 1000, steps, "epsilon")
    with pytest.raises(ConfigError, match=r"pure noise at a timestep where .* still has \d+ % of the signal"):
        check_sampling(cfg.sampling, cfg.noise)


def test_too_few_noise_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"noise\.steps must"):
        ForwardProcess(NoiseConfig(schedule="linear", steps=20))
