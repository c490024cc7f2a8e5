"""Noise added to images, and the low-resolution input of a super-resolution model."""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor

from experiments.diffusion.config import NoiseConfig
from experiments.harness.errors import ConfigError

SCHEDULES = ("linear", "squaredcos_cap_v2")
IMAGE_VARIANCE = 0.05
"""Assumed variance of pixels, from -1 to 1, given their surroundings; it sets where importance sampling samples most.
It only affects the variance of the gradient, never its mean."""

FEWEST_STEPS = 25
"""With fewer, the scaled linear betas reach 1, so nothing of the image is left to predict from."""


def make_scheduler(kind: Any, cfg: NoiseConfig) -> Any:
    """A diffusers scheduler with the betas of ``cfg``, for training or sampling.

    Linear betas are those of Ho et al. 2020 for 1 000 steps, scaled for other numbers of steps so that equally little
    signal is left at the end (as in Nichol and Dhariwal 2021; the cosine schedule needs no scaling).
    """
    scale = 1000 / cfg.steps
    return kind(
        num_train_timesteps=cfg.steps,
        beta_schedule=cfg.schedule,
        beta_start=scale * 0.0001,
        beta_end=scale * 0.02,
        prediction_type=cfg.target,
    )


class ForwardProcess:
    """Images float ``[N, ...]`` from -1 to 1, noise of that shape, timesteps int64 ``[N]`` from 0."""

    def __init__(self, cfg: NoiseConfig) -> None:
        offered = {"schedule": SCHEDULES, "target": ("epsilon", "v_prediction"), "timesteps": ("uniform", "importance")}
        for key, choices in offered.items():
            if getattr(cfg, key) not in choices:
                raise ConfigError(f"noise.{key} must be {' or '.join(choices)}, but it is {getattr(cfg, key)!r}.")
        if not 0 <= cfg.condition_dropout < 1:
            raise ConfigError(f"noise.condition_dropout must be in [0, 1), but it is {cfg.condition_dropout}.")
        if cfg.steps < FEWEST_STEPS:
            raise ConfigError(f"noise.steps must be at least {FEWEST_STEPS}, but it is {cfg.steps}.")
        self._cfg = cfg
        self.scheduler = make_scheduler(DDPMScheduler, cfg)
        signal: Tensor = self.scheduler.alphas_cumprod.double()
        share = torch.ones_like(signal)
        if cfg.timesteps == "importance":
            # The loss of the optimal prediction for Gaussian pixels; half of the draws stay uniform, so weights are at
            # most 2.
            share = IMAGE_VARIANCE / (signal * IMAGE_VARIANCE + 1 - signal)
            if cfg.target == "epsilon":
                share *= signal
            share = share / share.sum() + 1 / cfg.steps
        self.probabilities = share / share.sum()
        self._ends = self.probabilities.cumsum(0)[:-1]

    def draw_timesteps(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Timesteps int64 ``[count]`` from the global generator, and weights float32 ``[count]`` with which the
        expected loss is that of uniform timesteps.
        """
        if self.probabilities.device != device:  # moved once: a copy per batch would wait for the GPU
            self.probabilities, self._ends = self.probabilities.to(device), self._ends.to(device)
        if device.type == "cpu":
            timesteps = torch.multinomial(self.probabilities, count, replacement=True)
        else:  # on a GPU, multinomial adds up the probabilities in no fixed order
            places = torch.rand(count, dtype=self.probabilities.dtype, device=device)
            timesteps = torch.searchsorted(self._ends, places, right=True)
        weights = 1 / (self._cfg.steps * self.probabilities[timesteps])
        return timesteps, weights.float()

    def noisy(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The noisy images at these timesteps."""
        noised: Tensor = self.scheduler.add_noise(images, noise, timesteps)
        return noised

    def target(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The training target."""
        if self._cfg.target == "epsilon":
            return noise
        velocity: Tensor = self.scheduler.get_velocity(images, noise, timesteps)
        return velocity

    def epsilon(self, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The noise implied by the network's output, whatever its training target."""
        if self._cfg.target == "epsilon":
            return prediction
        signal: Tensor = self.scheduler.alphas_cumprod.to(prediction)[timesteps].view(-1, *[1] * (prediction.ndim - 1))
        return signal.sqrt() * prediction + (1 - signal).sqrt() * noisy


def low_resolution(images: Tensor, size: int) -> Tensor:
    """Images float ``[N, 3, S, S]``, reduced by averaging to ``size`` pixels, which divides S, and enlarged again
    (bilinear).
    """
    small = F.avg_pool2d(images, images.shape[-1] // size)
    return F.interpolate(small, images.shape[-2:], mode="bilinear", align_corners=False)


def clean(images: Tensor, size: int) -> dict[str, Tensor]:
    """Arguments of ``predict`` for evaluation: the small image without noise, with noise level 0."""
    levels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    return {"low_resolution": low_resolution(images, size), "class_labels": levels}


def augmented(images: Tensor, size: int, forward: ForwardProcess, num_levels: int) -> dict[str, Tensor]:
    """The same for training: the small image with noise of a random level, and that level, from the global generator.
    This teaches the model not to trust every detail of an image generated by a smaller model.
    """
    levels = torch.randint(num_levels, (len(images),), device=images.device)
    small = low_resolution(images, size)
    return {"low_resolution": forward.noisy(small, torch.randn_like(small), levels), "class_labels": levels}
