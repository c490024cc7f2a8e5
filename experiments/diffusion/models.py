"""The U-Net that the config names."""

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from experiments.diffusion.config import DiffusionConfig


def meta_model(cfg: DiffusionConfig) -> nn.Module:
    """The U-Net on the device ``meta``."""
    with torch.device("meta"):
        model: nn.Module = instantiate(cfg.model, _convert_="all")
    return model


def meta_output(model: nn.Module, cfg: DiffusionConfig, samples: int) -> Tensor:
    """The U-Net's output for this many noisy images; the text encoder is not part of it."""
    size = cfg.data.image_size
    with torch.device("meta"):
        images, numbers = torch.empty(samples, 3, size, size), torch.zeros(samples, dtype=torch.int64)
        if not cfg.text.encoder:
            return predict(model, images, numbers, {"class_labels": numbers})
        shape = samples, cfg.text.context_length
        arguments = {
            "encoder_hidden_states": torch.empty(*shape, cfg.model["encoder_hid_dim"]),
            "encoder_attention_mask": torch.ones(shape, dtype=torch.bool),
        }
        if cfg.data.low_resolution:
            arguments |= {"low_resolution": images, "class_labels": numbers}
        return predict(model, images, numbers, arguments)


def samples_per_epoch(cfg: DiffusionConfig) -> int | None:
    """The number of training images, if the config gives it."""
    images: int | None = cfg.data.images.get("train_images")
    return images


def predict(model: nn.Module, noisy: Tensor, timesteps: Tensor, arguments: dict[str, Tensor]) -> Tensor:
    """The network's output, float32 ``[N, 3, H, W]``, for noisy images of that shape and timesteps int64 ``[N]``.

    ``low_resolution`` among the arguments is an image of the same shape, which super-resolution also gets as input.
    """
    arguments = dict(arguments)
    if "low_resolution" in arguments:
        noisy = torch.cat([noisy, arguments.pop("low_resolution")], 1)
    output: Tensor = model(noisy, timesteps, **arguments, return_dict=False)[0]
    return output.float()
