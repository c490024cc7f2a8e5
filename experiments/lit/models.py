"""The model, an image tower and a text tower, each optionally with a locked part, with a learned temperature; the image
tower's inputs, and the contrastive loss.
"""

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn as differentiable
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.transforms import InterpolationMode, v2

from experiments.data.images import Images
from experiments.harness.errors import ConfigError
from experiments.harness.task import Passes
from experiments.lit.config import LitConfig, TwoTowersConfig
from experiments.pretrained.locked import Locked, build_locked
from experiments.pretrained.weights import Weights, load_weights

EVALUATION_BATCH_SIZE = 500
"""Inputs per forward pass in an evaluation, and queries compared with all keys at a time; metrics do not depend on
it."""
MAX_LOGIT_SCALE = 100.0
"""Radford et al. 2021, section 2.5, clip it to keep training stable."""


class Normalize(nn.Module):
    """Normalize pixels uint8 ``[N, 3, H, W]`` to float32 around 0."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The normalized pixels."""
        return (images.float() - self.mean) / self.std


class TwoTowers(nn.Module):
    """Unit vectors of images and texts in a shared space. Both towers end in ``[N, embed_dim]``."""

    def __init__(self, image: nn.Module, text: nn.Module, logit_scale_init: float, chunk_size: int | None) -> None:
        super().__init__()
        self.image, self.text, self.chunk_size = image, text, chunk_size
        # A vector, because PyTorch's fully_shard takes no scalar parameters.
        self.logit_scale = nn.Parameter(torch.tensor([math.log(logit_scale_init)]))

    def scale(self) -> Tensor:
        """The factor on cosines, a scalar, at most MAX_LOGIT_SCALE; its logarithm is the learned parameter."""
        return self.logit_scale.squeeze(0).clamp(max=math.log(MAX_LOGIT_SCALE)).exp()

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors float32 ``[N, embed_dim]``."""
        return F.normalize(self.image(images).float(), dim=-1)

    def embed_texts(self, texts: Tensor) -> Tensor:
        """Unit vectors float32 ``[N, embed_dim]``."""
        return F.normalize(self.text(texts).float(), dim=-1)

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The embeddings of both, and the scale. Chunks keep no activations: they are recomputed, with the same
        dropout, in the backward pass (gradient caching, Gao et al. 2021).
        """
        if self.chunk_size is None:
            return self.embed_images(images), self.embed_texts(texts), self.scale()
        pairs = zip(images.split(self.chunk_size), texts.split(self.chunk_size), strict=True)
        chunks = [checkpoint(self._embed_pairs, *pair, use_reentrant=False) for pair in pairs]
        embedded_images, embedded_texts = zip(*chunks, strict=True)
        return torch.cat(embedded_images), torch.cat(embedded_texts), self.scale()

    def _embed_pairs(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        return self.embed_images(images), self.embed_texts(texts)


def build_two_towers(cfg: TwoTowersConfig, weights: Mapping[str, Weights], cached: Mapping[str, bool]) -> TwoTowers:
    """The model described by ``cfg``, with trained parts initialized from PyTorch's global generator or loaded.

    ``weights`` and ``cached`` are by tower ("image", "text"). If a tower's locked part is cached, the model starts
    after it and takes its outputs as input.
    """
    towers = {}
    for name, tower in (("image", cfg.image), ("text", cfg.text)):
        own = weights.get(name, {})
        parts: list[nn.Module] = []
        if not cached[name]:
            if tower.locked:
                parts.append(Locked(build_locked_tower(cfg, name, own)))
            elif name == "image":
                parts.append(_normalize(cfg))
        if tower.trained:
            parts.append(instantiate(tower.trained, _convert_="all"))
            load_weights(parts[-1], own)
        if tower.head:
            parts.append(nn.Linear(tower.features, cfg.embed_dim, bias=False))
        elif tower.features != cfg.embed_dim:
            raise ConfigError(f"model.{name}.head=false needs model.embed_dim={tower.features}, the tower's features.")
        towers[name] = nn.Sequential(*parts)
        if cfg.chunk_size is not None and tower.trained and _has_batch_norm(parts):
            raise ConfigError(
                f"model.chunk_size={cfg.chunk_size} would give the batch norm of model.{name}.trained the statistics "
                "of a chunk, so the gradient would not be the whole batch's: set it to null."
            )
    return TwoTowers(towers["image"], towers["text"], cfg.logit_scale_init, cfg.chunk_size)


def build_locked_tower(cfg: TwoTowersConfig, name: str, weights: Weights) -> nn.Module:
    """The locked part of the tower ``name``, from pixels or tokens, in eval mode."""
    module = build_locked(cfg.tower(name).locked, weights)
    return nn.Sequential(*([_normalize(cfg)] if name == "image" else []), module).eval()


def _has_batch_norm(parts: list[nn.Module]) -> bool:
    trained = [part for part in parts if not isinstance(part, Locked)]
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for part in trained for module in part.modules())


def _normalize(cfg: TwoTowersConfig) -> Normalize:
    return Normalize(list(cfg.pixel_mean), list(cfg.pixel_std))


@dataclass(frozen=True)
class Pixels:
    """Maps indices to the images as inputs, uint8 ``[N, 3, size, size]``: the shorter side is resized to ``size``, the
    longer one cropped.
    """

    images: Images
    size: int

    def __call__(self, numbers: np.ndarray) -> Tensor:
        """The images with these indices."""
        size = self.size
        whole = v2.Compose([v2.Resize(size, InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(size)])
        return torch.stack([whole(self.images[int(number)]) for number in numbers])


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Mean cross-entropy of matching each image to its text, and each text to its image, among those of all processes.

    ``images`` and ``texts`` are this process's unit vectors ``[N, D]``; ``scale`` multiplies their cosines. Averaged
    over the processes, value and gradient equal those of a single process with the whole batch. Bitwise
    equal to open_clip's ClipLoss(local_loss=True, gather_with_grad=True), which is not used because importing it takes
    longer than everything else before the first step.
    """
    all_images, all_texts, first = images, texts, 0
    if dist.is_initialized() and dist.get_world_size() > 1:
        all_images, all_texts = (torch.cat(differentiable.all_gather(part)) for part in (images, texts))
        first = dist.get_rank() * len(images)
    partners = torch.arange(first, first + len(images), device=images.device)
    with torch.autocast(images.device.type, enabled=False):  # in bf16, logits near 100 would be rounded to integers
        of_images = F.cross_entropy(scale * images @ all_texts.T, partners)
        of_texts = F.cross_entropy(scale * texts @ all_images.T, partners)
    return (of_images + of_texts) / 2


def check_batch(batch_size: int, micro_batch_size: int) -> None:
    """Raise ConfigError unless each process has one micro-batch per step: pairs are compared with the whole batch."""
    processes = dist.get_world_size() if dist.is_initialized() else 1
    if micro_batch_size * processes != batch_size:
        raise ConfigError(
            f"train.micro_batch_size={micro_batch_size} must be train.batch_size / processes = {batch_size} / "
            f"{processes}: the contrastive loss needs the whole batch. To save memory set model.chunk_size."
        )


def meta_model(cfg: LitConfig) -> nn.Module:
    """The two towers on the device ``meta``, without the locked parts whose outputs a run computes once."""
    with torch.device("meta"):
        return build_two_towers(_without_weights(cfg).model, {}, computed_once(cfg))


def meta_loss(model: nn.Module, cfg: LitConfig, samples: int) -> Tensor:
    """The loss of this many pairs, on the device of ``model``, without what a run computes only once; on ``meta`` only
    that of the embeddings.
    """
    images, texts, scale = model(*_meta_inputs(model, cfg, samples))
    if images.device.type == "meta":  # for which there is no autocast
        return images.sum() + texts.sum()
    return contrastive_loss(images, texts, scale)


def _meta_inputs(model: nn.Module, cfg: LitConfig, samples: int) -> tuple[Tensor, Tensor]:
    """The inputs of both towers for this many pairs, on the device of ``model``."""
    towers, once = cfg.model, computed_once(cfg)
    with next(model.parameters()).device:
        images, texts = _raw_inputs(cfg, "image", samples), _raw_inputs(cfg, "text", samples)
        return (
            torch.empty(samples, towers.image.features) if once["image"] else images,
            torch.empty(*texts.shape, towers.text.features) if once["text"] else texts,
        )


def _raw_inputs(cfg: LitConfig, name: str, samples: int) -> Tensor:
    """Pixels or tokens, on the default device."""
    size = cfg.model.image_size
    if name == "image":
        return torch.empty(samples, 3, size, size, dtype=torch.uint8)
    return torch.ones(samples, cfg.model.context_length, dtype=torch.int64)


def meta_evaluation(model: nn.Module, cfg: LitConfig) -> tuple[Tensor, Tensor]:
    """The embeddings of a batch of an evaluation. Those of a whole split, and the cosines of a batch with them, come
    on top; how many they are is known only once the data are opened.
    """
    assert isinstance(model, TwoTowers)
    images, texts = _meta_inputs(model, cfg, EVALUATION_BATCH_SIZE)
    return model.embed_images(images), model.embed_texts(texts)


def besides_training(cfg: LitConfig) -> list[Passes]:
    """The outputs of the locked parts that are computed once."""
    from experiments.harness.memory import move_shapes  # here, because no run needs it

    own = _without_weights(cfg)

    def outputs(name: str) -> Callable[[nn.Module, int], Tensor]:
        with torch.device("meta"):
            tower = build_locked_tower(own.model, name, {})  # timm reads values while it builds one

        def forward(model: nn.Module, samples: int) -> Tensor:
            device = next(model.parameters()).device
            move_shapes(tower, device.type)
            with device:
                features: Tensor = tower(_raw_inputs(own, name, samples))
            return features

        return forward

    return [
        Passes(f"the {name} tower's features", outputs(name), None) for name, once in computed_once(cfg).items() if once
    ]


def computed_once(cfg: LitConfig) -> dict[str, bool]:
    """Whether a tower's locked part is outside the model, because its outputs are computed once. With random crops in
    training, a locked image tower has to process every crop.
    """
    return {"image": bool(cfg.model.image.locked) and cfg.data.crop_area is None, "text": bool(cfg.model.text.locked)}


def _without_weights(cfg: LitConfig) -> LitConfig:
    own = deepcopy(cfg)
    for tower in (own.model.image, own.model.text):
        if tower.locked and "pretrained" in tower.locked:
            tower.locked["pretrained"] = False
    return own
