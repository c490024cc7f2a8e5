"""Which timesteps are trained, and what the network's output says about the noise. Schedules are those of diffusers."""

from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from experiments.diffusion.config import NoiseConfig
from experiments.harness.errors import ConfigError

SCHEDULES = ("linear", "squaredcos_cap_v2")
IMAGE_VARIANCE = 0.05
"""Of pixels from -1 to 1 around what their surroundings tell: a guess, which sets where importance sampling looks most.
It changes only the variance of the gradient, never its mean."""

FEWEST_STEPS = 25
"""With fewer, linear betas that are scaled to them reach 1, and nothing of an image is left to predict it from."""


def make_scheduler(kind: Any, cfg: NoiseConfig) -> Any:
    """A scheduler of diffusers with the betas of ``cfg``, for training or sampling.

    Linear betas are those of Ho et al. 2020 for 1 000 steps, and for another number of steps scaled so that as little
    signal is left at the end (as Nichol and Dhariwal 2021 do; the cosine schedule does it by itself).
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
            # The loss of the best guess for Gaussian pixels; half of the draws stay uniform, so no weight exceeds 2.
            share = IMAGE_VARIANCE / (signal * IMAGE_VARIANCE + 1 - signal)
            if cfg.target == "epsilon":
                share *= signal
            share = share / share.sum() + 1 / cfg.steps
        self.probabilities = share / share.sum()
        self._ends = self.probabilities.cumsum(0)[:-1]

    def draw_timesteps(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Timesteps int64 ``[count]`` from the global generator, and weights float32 ``[count]`` that make the mean
        loss the one of uniform timesteps.
        """
        if self.probabilities.device != device:  # once: a copy for every batch would wait for the GPU
            self.probabilities, self._ends = self.probabilities.to(device), self._ends.to(device)
        if device.type == "cpu":
            timesteps = torch.multinomial(self.probabilities, count, replacement=True)
        else:  # where multinomial sums up the probabilities in no fixed order
            places = torch.rand(count, dtype=self.probabilities.dtype, device=device)
            timesteps = torch.searchsorted(self._ends, places, right=True)
        weights = 1 / (self._cfg.steps * self.probabilities[timesteps])
        return timesteps, weights.float()

    def noisy(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The images at these timesteps."""
        noised: Tensor = self.scheduler.add_noise(images, noise, timesteps)
        return noised

    def target(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network should say."""
        if self._cfg.target == "epsilon":
            return noise
        velocity: Tensor = self.scheduler.get_velocity(images, noise, timesteps)
        return velocity

    def epsilon(self, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The noise that the network's output stands for, whatever it was trained to say."""
        if self._cfg.target == "epsilon":
            return prediction
        signal: Tensor = self.scheduler.alphas_cumprod.to(prediction)[timesteps].view(-1, *[1] * (prediction.ndim - 1))
        return signal.sqrt() * prediction + (1 - signal).sqrt() * noisy
