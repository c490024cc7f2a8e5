"""From a stored image to the model's input tensor, in training and in evaluation."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from experiments.harness.errors import ConfigError
from experiments.image_classification.config import ImageClassificationConfig

RESIZE_FACTOR = 256 / 224
"""Shorter edge of an evaluation image before the center crop, as a multiple of the crop size."""

RANDAUGMENT_MAGNITUDES = 31
"""Steps of torchvision's magnitude scale. In TensorFlow's implementation, which the paper's code bases use, the same
number is stronger: 15 rotates by up to 15 degrees here and by 45 there."""


def training_transform(cfg: ImageClassificationConfig) -> v2.Compose:
    """An image (PIL, or uint8 ``[C, H, W]``) to uint8 ``[C, image_size, image_size]``, using PyTorch's global
    generator. Without ``augmentation.crop_area``, an image of another size is first resized and center-cropped.
    """
    augmentation, size = cfg.augmentation, cfg.data.image_size
    steps: list[Any] = []
    if augmentation.crop_area is None:
        steps += [partial(centred, size), v2.RandomCrop(size, padding=cfg.data.crop_padding)]
    else:
        area = augmentation.crop_area
        steps.append(v2.RandomResizedCrop(size, scale=(area[0], area[1]), antialias=True))
    if cfg.data.flip:
        steps.append(v2.RandomHorizontalFlip())
    if augmentation.randaugment_ops:
        magnitude = augmentation.randaugment_magnitude
        if not 0 <= magnitude < RANDAUGMENT_MAGNITUDES:
            raise ConfigError(
                f"augmentation.randaugment_magnitude must be in 0..{RANDAUGMENT_MAGNITUDES - 1}, but it is {magnitude}."
            )
        # fills areas exposed by rotations and shifts with grey, as in the authors' implementation
        steps.append(v2.RandAugment(augmentation.randaugment_ops, magnitude, RANDAUGMENT_MAGNITUDES, fill=128))
    return v2.Compose([*steps, v2.ToImage()])


def draw_crops_and_flips(padding: int, flip: bool, seeds: list[int]) -> dict[str, Tensor]:
    """What ``training_transform`` draws without ``augmentation``, with PyTorch's global generator seeded by an entry of
    ``seeds`` for each image: the upper left ``corners`` of the crops in the padded images, int64 ``[N, 2]``, and which
    are ``flipped``, bool ``[N]``.
    """
    draw = torch.Generator()
    corners, flips = [], []
    for seed in seeds:
        draw.manual_seed(seed)
        corners.append([int(torch.randint(2 * padding + 1, (), generator=draw)) for _ in "yx"] if padding else [0, 0])
        flips.append(flip and bool(torch.rand(1, generator=draw) < 0.5))
    return {"corners": torch.tensor(corners), "flipped": torch.tensor(flips)}


def cropped_and_flipped(images: Tensor, padding: int, drawn: dict[str, Tensor]) -> Tensor:
    """Square images, uint8 ``[N, C, size, size]``, padded with zeros, cropped and flipped as ``drawn``, and contiguous.
    On their device, without waiting for it.
    """
    size, corners = images.shape[-1], drawn["corners"]
    along = torch.arange(size, device=images.device)
    if padding:
        rows = (corners[:, :1] + along)[:, None, :, None]
        images = F.pad(images, [padding] * 4)
        images = images.gather(2, rows.expand(-1, images.shape[1], -1, images.shape[3]))
    columns = (corners[:, 1:] + torch.where(drawn["flipped"][:, None], size - 1 - along, along))[:, None, None, :]
    return images.gather(3, columns.expand(-1, images.shape[1], size, -1))


def evaluation_transform(cfg: ImageClassificationConfig) -> v2.Compose:
    """An image to uint8 ``[C, image_size, image_size]``: its centre, leaving a margin if training uses random resized
    crops.
    """
    size = cfg.data.image_size
    if cfg.augmentation.crop_area is None:
        return v2.Compose([partial(centred, size), v2.ToImage()])
    return v2.Compose([v2.Resize(round(size * RESIZE_FACTOR), antialias=True), v2.CenterCrop(size), v2.ToImage()])


def centred(size: int, image: Any) -> Any:
    """The largest central square of an image (PIL, or uint8 ``[C, H, W]``), resized to ``size`` x ``size`` pixels; an
    image that already has this size is returned unchanged.
    """
    height, width = image.shape[-2:] if isinstance(image, Tensor) else image.size[::-1]
    if height == width == size:
        return image
    return functional.center_crop(functional.resize(image, [size], antialias=True), [size, size])


def normalization(cfg: ImageClassificationConfig) -> Callable[[Tensor], Tensor]:
    """uint8 ``[N, C, H, W]`` to float32, normalized by the data set's mean and standard deviation, on any device."""
    return partial(_normalized, tuple(cfg.data.mean), tuple(cfg.data.std))


def _normalized(mean: tuple[float, ...], std: tuple[float, ...], images: Tensor) -> Tensor:
    scaled = images.float().mul_(1 / 255)
    return scaled.sub_(_per_channel(mean, images.device)).div_(_per_channel(std, images.device))


@lru_cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """float32 ``[C, 1, 1]``. Cached, because a copy to a GPU waits for it."""
    return torch.tensor(values).view(-1, 1, 1).to(device)


def mixup_weights(alpha: float) -> Tensor:
    """The weights of the previous sample and of the sample itself in a mixed sample, float32 ``[2]``; the same for the
    whole batch (Zhang et al. 2018), from PyTorch's global CPU generator.
    """
    own = torch.distributions.Beta(torch.tensor(alpha), torch.tensor(alpha)).sample().item()
    return torch.tensor([1 - own, own])


def mixed(values: Tensor, weights: Tensor) -> Tensor:
    """Each entry of ``values``, float32 ``[N, ...]``, mixed with the previous one."""
    return values.roll(1, 0).mul_(weights[0]).add_(values * weights[1])


def mixed_labels(labels: Tensor, weights: Tensor, num_classes: int) -> Tensor:
    """Class indices int64 ``[N]`` as class weights float32 ``[N, num_classes]``, mixed like the images."""
    return mixed(F.one_hot(labels, num_classes).float(), weights)
