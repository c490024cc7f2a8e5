"""Diffusion: a U-Net that predicts the noise in images, and images that it generates from noise."""

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import import_utils
from diffusers.utils.torch_utils import randn_tensor
from hydra.utils import instantiate
from torch import Tensor, nn

from experiments.data.copies import warn_of_copies
from experiments.data.labels import check_classes
from experiments.data.on_device import kept_on_device
from experiments.diffusion.conditions import ClassConditions, Conditions, TextConditions
from experiments.diffusion.config import DiffusionConfig
from experiments.diffusion.data import DiffusionSets, captioned_splits, class_splits, flipped
from experiments.diffusion.feature_nets import INCEPTION_FILE, feature_nets, found_inception
from experiments.diffusion.forward_process import ForwardProcess, augmented, clean
from experiments.diffusion.models import evaluation_batch, meta_model, meta_output, predict
from experiments.diffusion.sample_metrics import GeneratedImages, ImageSources, ScoreTexts, reference
from experiments.diffusion.sample_sheet import write_row
from experiments.diffusion.sampler import (
    check_sampling,
    denoising,
    from_bytes,
    generators,
    start_noise,
    to_bytes,
)
from experiments.harness.errors import ConfigError, refused_as
from experiments.harness.flatness import flatness
from experiments.harness.seeds import derive_seed
from experiments.harness.task import Evaluator
from experiments.metrics.clip_score import ClipScorer

# No weight here is quantised, but diffusers would import bitsandbytes, which `make bench-optimizer` has installed, with
# every model: a second and 50 MB a run, and a warning.
import_utils._bitsandbytes_available = False


class Diffusion:
    """The images, the U-Net described by the config, and the reference for generated images."""

    def __init__(self, cfg: DiffusionConfig, sets: DiffusionSets) -> None:
        self._cfg, self._sets = cfg, sets
        self.frozen_outputs: dict[str, str] = {}
        self._forward = ForwardProcess(cfg.noise)
        check_sampling(cfg.sampling, cfg.noise)
        self._conditions: Conditions
        if cfg.text.encoder:
            if cfg.data.split_seed is not None:
                raise ConfigError(f"data.split_seed={cfg.data.split_seed} is for images with classes: set it to null.")
            splits, self._conditions = captioned_splits(sets.images), TextConditions(cfg, sets)
        else:
            images = cfg.data.images
            splits = class_splits(sets.images, images["val_size"], images["name"])
            fit, val, test = (np.asarray(splits[name].conditions) for name in ("fit", "val", "test"))
            check_classes({"train": np.concatenate([fit, val]), "test": test}, images["num_classes"], images["name"])
            self._conditions = ClassConditions(images["num_classes"], cfg.sampling.batch_size)
        held_out = {name: split.images for name, split in splits.items() if name != "fit"}
        identity, workers = f"{sets.images.fingerprint} {cfg.data.images.get('val_size')} drawn", cfg.run.num_workers
        name = cfg.data.images["name"]
        warn_of_copies(name, splits["fit"].images, held_out, identity, sets.cache_dir, workers)
        # Generated images are compared with the same training images whatever split is drawn, to reuse their features.
        self._reference = splits["fit"]
        if cfg.data.split_seed is not None:
            splits = class_splits(sets.images, images["val_size"], images["name"], cfg.data.split_seed)
        self._splits = splits | {"train": splits["fit"]}
        self._numbers = {name: self._conditions.numbers(split) for name, split in self._splits.items()}
        self._numbers["samples"] = self._conditions.of_samples(splits["test"], cfg.sampling.num_samples)
        self._sizes = {"train": cfg.flatness.samples, "val": cfg.data.num_val, "test": cfg.data.num_test}
        self.num_train = len(splits["fit"])
        self._on_device = kept_on_device(cfg.run, splits["fit"].stacked(cfg.data.image_size), self.num_train)
        self._samples: GeneratedImages | None = None
        self._at_once = evaluation_batch(cfg.data.image_size)
        self._check()
        self.evaluators = {
            "val": Evaluator("evaluate", partial(self._errors, "val"), _metrics),
            "samples": Evaluator("sample", self._sample_sums, self._sample_metrics, write_files=self._write_samples),
            "test": Evaluator("end", partial(self._errors, "test"), _metrics, _example_losses),
            **flatness(cfg, self.num_train, partial(self._errors, "train"), _metrics),
        }

    def _check(self) -> None:
        cfg = self._cfg
        if cfg.model["sample_size"] != cfg.data.image_size:
            raise ConfigError(
                f"model.sample_size={cfg.model['sample_size']} generates images of a different resolution than the "
                f"real ones, data.image_size={cfg.data.image_size}: make them equal."
            )
        small = cfg.data.low_resolution
        if small is not None and not (0 < small < cfg.data.image_size and cfg.data.image_size % small == 0):
            raise ConfigError(
                f"data.low_resolution={small} must divide data.image_size={cfg.data.image_size} and be smaller: "
                "otherwise the small image reveals the target to the network."
            )
        classes, embedded = cfg.data.images.get("num_classes") or 0, cfg.model.get("num_class_embeds")
        hides = bool(cfg.noise.condition_dropout) or cfg.sampling.guidance != 1
        if not cfg.text.encoder and embedded is not None and embedded < classes + hides:
            raise ConfigError(
                f"model.num_class_embeds={embedded} must be at least {classes + hides}: {classes} classes"
                + (", and one for no class, which noise.condition_dropout and guidance need." if hides else ".")
            )
        with refused_as(f"The model cannot take images of data.image_size={cfg.data.image_size} and its conditions"):
            meta_output(meta_model(cfg), cfg, 1)
        named = {cfg.study.primary_metric, *cfg.study.secondary_metrics}
        sources = list(cfg.data.inception_sources)
        if named & {"samples/fid", "samples/kid"} and not found_inception(sources):
            raise ConfigError(
                f"study names samples/fid or samples/kid, but the Inception weights are not at {' or '.join(sources)}: "
                f"put the file {INCEPTION_FILE} of torch-fidelity there, or use samples/fd_efficientnet_lite0 "
                "(study.primary_metric), which is always reported."
            )
        if "samples/clip_score" in named and not cfg.text.clip_model:
            raise ConfigError("study names samples/clip_score, but text.clip_model is null: choose an open_clip model.")
        wanted = {
            "data.num_reference": ("fit", cfg.data.num_reference),
            "data.num_val": ("val", cfg.data.num_val),
            "data.num_test": ("test", cfg.data.num_test),
            "sampling.num_samples": ("test", cfg.sampling.num_samples),
        }
        for key, (split, count) in wanted.items():
            if count < 1:
                raise ConfigError(f"{key}={count}, but it must be at least 1.")
            if count > len(self._splits[split]):
                raise ConfigError(f"{key}={count}, but {split} has {len(self._splits[split])} images.")

    def model(self) -> nn.Module:
        """The U-Net of ``cfg.model``, initialized from PyTorch's global generator."""
        model: nn.Module = instantiate(self._cfg.model, _convert_="all")
        return model

    def batch(self, indices: np.ndarray, seeds: list[int]) -> dict[str, Tensor]:
        """Training images uint8 ``[N, 3, size, size]``, randomly flipped according to their seeds, and their
        conditions, int64 ``[N, ...]``. With ``run.images_on_device``, ``indices`` and ``flipped`` replace ``images``.
        """
        batch = {"conditions": self._conditions_of("fit", indices)}
        where = torch.tensor([self._cfg.data.flip and seed % 2 == 1 for seed in seeds])
        if self._on_device:
            return batch | {"indices": torch.from_numpy(indices), "flipped": where}
        return batch | {"images": flipped(self._pixels("fit", indices), where)}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Mean squared error of the training target, in expectation over uniform timesteps; noise, timesteps and the
        hidden conditions come from the global generator.
        """
        images, conditions = from_bytes(self._images_of(batch)), batch["conditions"]
        timesteps, weights = self._forward.draw_timesteps(len(images), images.device)
        noise = torch.randn_like(images)
        if self._cfg.noise.condition_dropout:
            hidden = torch.rand(len(images), device=images.device) < self._cfg.noise.condition_dropout
            hidden = hidden.view(-1, *[1] * (conditions.ndim - 1))
            conditions = torch.where(hidden, self._conditions.hidden(conditions), conditions)
        arguments = self._conditions.arguments(conditions)
        if self._cfg.data.low_resolution:
            arguments |= augmented(images, self._cfg.data.low_resolution, self._forward, self._cfg.noise.steps)
        prediction = predict(model, self._forward.noisy(images, noise, timesteps), timesteps, arguments)
        errors = (prediction - self._forward.target(images, noise, timesteps)).square().flatten(1).mean(1)
        return (weights * errors).mean()

    def _images_of(self, batch: dict[str, Tensor]) -> Tensor:
        return flipped(self._on_device[batch["indices"]], batch["flipped"]) if self._on_device else batch["images"]

    def _errors(self, split: str, model: nn.Module, process: int, num_processes: int) -> dict[str, Tensor]:
        """``errors``, the mean squared error of the noise per image (0 if another process has the image). Each image
        has its own noise and timestep, the same for all runs and steps.
        """
        device = next(model.parameters()).device
        mine = np.arange(process, self._sizes[split], num_processes)
        errors = torch.zeros(self._sizes[split], dtype=torch.float64, device=device)
        for first in range(0, len(mine), self._at_once):
            numbers = mine[first : first + self._at_once]
            errors[numbers] = self._noise_errors(model, split, numbers)
        return {"errors": errors}

    def _sample_sums(self, model: nn.Module, process: int, num_processes: int) -> dict[str, Tensor]:
        return self._generated(next(model.parameters()).device).sums(model, process, num_processes)

    def _sample_metrics(self, sums: dict[str, Any]) -> dict[str, float]:
        assert self._samples is not None, "the sums were made before"
        return self._samples.metrics(sums)

    def _write_samples(self, directory: Path, step: int) -> None:
        """Draw the first images generated at this step into ``samples.png``, which has a row for each evaluation of
        "samples", and below them real images with the same conditions.
        """
        assert self._samples is not None, "nothing was generated yet"
        every, shown = self._cfg.train.sample_every, self._samples.shown
        assert every is not None
        real = self._real(len(shown))
        row, rows = -(-step // every) - 1, -(-self._cfg.train.steps // every)
        write_row(directory / "samples.png", shown, row, rows, real)

    def _real(self, count: int) -> np.ndarray:
        """The target images of samples 0 to ``count - 1`` for super-resolution; otherwise the first test image with the
        same condition, or white if there is none. uint8 ``[count, H, W, 3]``.
        """
        tested = self._numbers["test"].reshape(len(self._numbers["test"]), -1)
        alike = (tested == self._numbers["samples"][:count].reshape(count, 1, -1)).all(2)
        if self._cfg.data.low_resolution:
            alike = np.eye(count, len(tested), dtype=bool)
        real = self._pixels("test", alike.argmax(1)).movedim(1, 3).numpy()
        return np.where(alike.any(1)[:, None, None, None], real, np.uint8(255))

    def denoised(self, model: nn.Module, numbers: range) -> Iterator[Tensor]:
        """Samples ``numbers`` after each step of the sampler, uint8 ``[N, 3, size, size]``; the last is the sample."""
        device = next(model.parameters()).device
        images = from_bytes(self._pixels("test", np.array(numbers))).to(device)
        conditions = self._conditions_of("samples", np.array(numbers)).to(device)
        guided = self._cfg.sampling.guidance != 1
        hidden = self._arguments(self._conditions.hidden(conditions), images) if guided else {}
        return denoising(model, self._arguments(conditions, images), hidden, numbers, self._cfg, device)

    def _pixels(self, split: str, numbers: np.ndarray) -> Tensor:
        return self._splits[split].pixels(numbers, self._cfg.data.image_size)

    def _conditions_of(self, split: str, numbers: np.ndarray) -> Tensor:
        return self._conditions.on_host(self._numbers[split][numbers])

    def _noise_errors(self, model: nn.Module, split: str, numbers: np.ndarray) -> Tensor:
        device = next(model.parameters()).device
        images = from_bytes(self._pixels(split, numbers)).to(device)
        streams = generators(f"{split} noise", numbers.tolist())
        noise = randn_tensor(images.shape, generator=streams, device=device)
        timesteps = torch.from_numpy(self._timesteps(split)[numbers]).to(device)
        conditions = self._conditions_of(split, numbers).to(device)
        noisy = self._forward.noisy(images, noise, timesteps)
        prediction = predict(model, noisy, timesteps, self._arguments(conditions, images))
        return (self._forward.epsilon(prediction, noisy, timesteps) - noise).square().flatten(1).mean(1).double()

    def _timesteps(self, split: str) -> np.ndarray:
        """A timestep for each image of the split, evenly spaced, int64 ``[images]``."""
        count = self._sizes[split]
        even = (2 * np.arange(count) + 1) * self._cfg.noise.steps // (2 * count)
        return np.random.default_rng(derive_seed(f"{split} timesteps")).permutation(even)

    def _arguments(self, conditions: Tensor, images: Tensor) -> dict[str, Tensor]:
        """The network's conditioning arguments in an evaluation; for super-resolution, ``images`` are the targets."""
        size = self._cfg.data.low_resolution
        return self._conditions.arguments(conditions) | (clean(images, size) if size else {})

    def _generate(self, model: nn.Module, numbers: range) -> Tensor:
        parts = [numbers[first : first + self._at_once] for first in range(0, len(numbers), self._at_once)]
        return torch.cat([deque(self.denoised(model, part), maxlen=1)[0] for part in parts])

    def _generated(self, device: torch.device) -> GeneratedImages:
        if self._samples is None:
            cfg, size = self._cfg, self._cfg.data.image_size
            order = " drawn" if cfg.text.encoder else ""  # those with captions used to be in another one
            sources = ImageSources(
                training=lambda numbers: self._reference.pixels(numbers, size),
                num_training=cfg.data.num_reference,
                test=lambda numbers: self._pixels("test", numbers),
                noise=lambda numbers: to_bytes(start_noise(numbers.tolist(), size, torch.device("cpu"))),
                num_compared=cfg.sampling.num_samples,
                identity=f"{self._sets.images.fingerprint} {cfg.data.images.get('val_size')} {size}{order}",
            )
            nets = feature_nets(self._sets.weights["features"], cfg.data.inception_sources, device)
            judges = [(net, reference(net, sources, self._sets.cache_dir, device, self.frozen_outputs)) for net in nets]
            settings = [asdict(cfg.sampling), asdict(cfg.noise), size]
            identity = json.dumps([settings, self._sets.fingerprint, [net.identity for net in nets]])
            self._samples = GeneratedImages(
                cfg.sampling, self._generate, judges, self._score_texts(device), identity, self._sets.cache_dir
            )
        return self._samples

    def _score_texts(self, device: torch.device) -> ScoreTexts | None:
        text = self._cfg.text
        if text.clip_model is None:
            return None
        scorer, captions = ClipScorer(text.clip_model, text.clip_weights, device), self._splits["test"].conditions
        return lambda images, numbers: scorer.scores(images, [str(captions[number]) for number in numbers])


def _metrics(sums: dict[str, Any]) -> dict[str, float]:
    """loss: mean squared error of the noise, whose variance is 1."""
    return {"loss": float(np.mean(sums["errors"]))}


def _example_losses(sums: dict[str, Any]) -> tuple[str, np.ndarray]:
    """The loss of each test image."""
    return "loss", np.array(sums["errors"])


def build(cfg: DiffusionConfig, data: DiffusionSets) -> Diffusion:
    """The task over its opened sets."""
    return Diffusion(cfg, data)
