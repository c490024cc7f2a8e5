"""The U-Net that the config names."""

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor, nn

from experiments.diffusion.config import DiffusionConfig
from experiments.diffusion.t5 import SIZES
from experiments.pretrained.locked import build_locked


def meta_model(cfg: DiffusionConfig) -> nn.Module:
    """The U-Net on the device ``meta``."""
    with torch.device("meta"):
        model: nn.Module = instantiate(cfg.model, _convert_="all")
    return model


def meta_output(model: nn.Module, cfg: DiffusionConfig, samples: int) -> Tensor:
    """The U-Net's output for this many noisy images, on its device, and for texts of full context length."""
    size = cfg.data.image_size
    with next(model.parameters()).device:
        images, numbers = torch.empty(samples, 3, size, size), torch.zeros(samples, dtype=torch.int64)
        if not cfg.text.encoder:
            return predict(model, images, numbers, {"class_labels": numbers})
        tokens = torch.ones(samples, cfg.text.context_length, dtype=torch.int64)
        arguments = {
            "encoder_hidden_states": torch.empty(*tokens.shape, cfg.model["encoder_hid_dim"]),
            "encoder_attention_mask": tokens != 0,
        }
        if cfg.data.low_resolution:
            arguments |= {"low_resolution": images, "class_labels": numbers}
        return predict(model, images, numbers, arguments)


def meta_loss(model: nn.Module, cfg: DiffusionConfig, samples: int) -> Tensor:
    """A loss of as many images, whose texts a frozen encoder, if there is one, has encoded on the same device."""
    encoder, device = cfg.text.encoder, next(model.parameters()).device
    if encoder:
        with device, torch.no_grad():
            random = {"sizes": SIZES} if encoder["_target_"] == "experiments.diffusion.t5.T5XXL" else {}
            tokens = torch.ones(samples, cfg.text.context_length, dtype=torch.int64)
            frozen = build_locked({**encoder, **random}, {})  # until the end, as in training
            frozen(tokens)
    output = meta_output(model, cfg, samples)
    return F.mse_loss(output, torch.empty_like(output))


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
