"""The U-Net that the config names."""

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor, nn

from experiments.diffusion.config import DiffusionConfig
from experiments.diffusion.t5 import SIZES
from experiments.harness.task import Passes
from experiments.pretrained.locked import build_locked

EVALUATION_BATCH_SIZE, EVALUATION_PIXELS = 256, 256 * 64**2
"""The most images, and pixels, in one forward pass without gradients; results depend on it only through rounding. A
U-Net that fits into a GPU's memory with 256 images of 64 x 64 pixels also fits with 16 of 256 x 256.
"""


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
    """The loss of this many images; a frozen text encoder, if any, encodes their texts on the same device."""
    frozen = _encode_texts(model, cfg, samples) if cfg.text.encoder else None  # until the end, as in training
    output = meta_output(model, cfg, samples)
    del frozen
    return F.mse_loss(output, torch.empty_like(output))


def _encode_texts(model: nn.Module, cfg: DiffusionConfig, samples: int) -> nn.Module:
    """The frozen encoder on the device of ``model``, after encoding this many texts."""
    encoder = cfg.text.encoder
    with next(model.parameters()).device, torch.no_grad():
        random = {"sizes": SIZES} if encoder["_target_"] == "experiments.diffusion.t5.T5XXL" else {}
        frozen = build_locked({**encoder, **random}, {})
        frozen(torch.ones(samples, cfg.text.context_length, dtype=torch.int64))
    return frozen


def evaluation_batch(image_size: int) -> int:
    """The images in one forward pass without gradients."""
    return max(1, min(EVALUATION_BATCH_SIZE, EVALUATION_PIXELS // image_size**2))


def meta_evaluation(model: nn.Module, cfg: DiffusionConfig) -> Tensor:
    """The loss of a batch of an evaluation; a step of the sampler needs about as much memory."""
    return meta_loss(model, cfg, min(evaluation_batch(cfg.data.image_size), cfg.sampling.batch_size))


def besides_training(cfg: DiffusionConfig) -> list[Passes]:
    """Sampling: in each evaluation, every sample takes all steps of the sampler, with two forward passes per step under
    guidance. Its text is encoded once, and so is the empty text under guidance.
    """
    if not cfg.train.sample_every:
        return []
    evaluations = -(-cfg.train.steps // cfg.train.sample_every)
    predicted = evaluations * cfg.sampling.num_samples * (1 if cfg.sampling.guidance == 1 else 2)
    network = Passes(
        "sampling", lambda model, samples: meta_output(model, cfg, samples), predicted * cfg.sampling.steps
    )
    texts = Passes("the samples' texts", lambda model, samples: _encode_texts(model, cfg, samples), predicted)
    return [network, texts] if cfg.text.encoder else [network]


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
