"""Generate images from noise with diffusers' samplers. The noise of sample i depends only on i."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from experiments.diffusion.config import DiffusionConfig, NoiseConfig, SamplingConfig
from experiments.diffusion.forward_process import make_scheduler
from experiments.diffusion.models import predict
from experiments.harness.errors import ConfigError
from experiments.harness.seeds import derive_seed

MOST_SIGNAL = 0.4
"""Largest share of signal at the timestep where sampling starts from pure noise; with 10 steps of the cosine schedule
it is 0.15, which shifts the mean of all pixels by 2 % of itself."""
SAMPLERS: dict[str, Any] = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}


def check_sampling(sampling: SamplingConfig, noise: NoiseConfig) -> None:
    """Raise ConfigError for settings that cannot be sampled or evaluated."""
    if sampling.sampler not in SAMPLERS:
        raise ConfigError(f"sampling.sampler must be {' or '.join(SAMPLERS)}, but it is {sampling.sampler!r}.")
    if not 0 < sampling.steps <= noise.steps:
        raise ConfigError(f"sampling.steps={sampling.steps} must be from 1 to noise.steps={noise.steps}.")
    if noise.steps % sampling.steps:
        raise ConfigError(
            f"sampling.steps={sampling.steps} must divide noise.steps={noise.steps}: otherwise the first step is not "
            "at the noisy end, but is given pure noise."
        )
    signal = float(_scheduler(sampling, noise).alphas_cumprod[noise.steps - noise.steps // sampling.steps] ** 0.5)
    if signal > MOST_SIGNAL:
        raise ConfigError(
            f"sampling.steps={sampling.steps} starts from pure noise at a timestep where "
            f"noise.schedule={noise.schedule} still has {100 * signal:.0f} % of the signal: use more steps."
        )
    if sampling.guidance != 1 and not noise.condition_dropout:
        raise ConfigError(
            f"sampling.guidance={sampling.guidance} needs unconditional predictions, which are not trained with "
            "noise.condition_dropout=0: set it to 0.1, or sampling.guidance=1."
        )
    if sampling.batch_size < 2 or sampling.num_samples < 2 or sampling.num_samples % sampling.batch_size:
        raise ConfigError(
            f"sampling.num_samples={sampling.num_samples} must be a multiple of sampling.batch_size="
            f"{sampling.batch_size}, which must be at least 2: distances compare distributions, and KID uses batches "
            "as subsets."
        )
    if sampling.shown > sampling.batch_size:
        raise ConfigError(
            f"sampling.shown={sampling.shown} must not exceed sampling.batch_size={sampling.batch_size}: the images "
            "are taken from the first batch."
        )


def _scheduler(sampling: SamplingConfig, noise: NoiseConfig) -> Any:
    scheduler = make_scheduler(SAMPLERS[sampling.sampler], noise)
    scheduler.set_timesteps(sampling.steps)
    return scheduler


def generators(purpose: str, numbers: Sequence[int]) -> list[torch.Generator]:
    """A noise generator for each index, on the CPU, so that every device gets the same noise."""
    return [torch.Generator().manual_seed(derive_seed(purpose, number)) for number in numbers]


def start_noise(numbers: Sequence[int], size: int, device: torch.device) -> Tensor:
    """The initial noise of the samples ``numbers``: float32 ``[N, 3, size, size]``."""
    return randn_tensor((len(numbers), 3, size, size), generator=generators("start", numbers), device=device)


def denoising(
    model: nn.Module,
    arguments: dict[str, Tensor],
    hidden: dict[str, Tensor],
    numbers: Sequence[int],
    cfg: DiffusionConfig,
    device: torch.device,
) -> Iterator[Tensor]:
    """Generate the samples ``numbers`` from their initial noise, yielding uint8 ``[N, 3, size, size]`` after each step
    of the sampler. ``arguments`` are the network's conditional arguments; guidance also uses the unconditional
    ``hidden``.
    """
    noise, guidance = cfg.noise, cfg.sampling.guidance
    scheduler = _scheduler(cfg.sampling, noise)
    streams = generators("sampler", numbers)
    images = start_noise(numbers, cfg.data.image_size, device)
    for timestep in scheduler.timesteps:
        times = timestep.to(device).expand(len(numbers))
        prediction = predict(model, images, times, arguments)
        if guidance != 1:
            without = predict(model, images, times, hidden)
            prediction = without + guidance * (prediction - without)
        images = scheduler.step(prediction, timestep, images, generator=streams, return_dict=False)[0]
        yield to_bytes(images)


def to_bytes(images: Tensor) -> Tensor:
    """Convert pixels from -1 to 1 to uint8, clipping values outside."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_bytes(images: Tensor) -> Tensor:
    """Convert uint8 pixels to float32 from -1 to 1."""
    return images.float() / 127.5 - 1
