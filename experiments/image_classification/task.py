"""The image classification task: images in, class logits out."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.utils.data import Dataset

from experiments.data.copies import warn_of_copies
from experiments.data.images import arrays_of_size
from experiments.data.labels import check_classes, warn_of_small_splits
from experiments.data.on_device import kept_on_device
from experiments.harness.batches import ShieldedLoader
from experiments.harness.errors import ConfigError, refused_as
from experiments.harness.flatness import flatness
from experiments.harness.prepared_data import PreparedData
from experiments.harness.seeds import derive_seed
from experiments.harness.task import Evaluator, in_parts
from experiments.image_classification.augmentation import (
    cropped_and_flipped,
    draw_crops_and_flips,
    evaluation_transform,
    mixed,
    mixed_labels,
    mixup_weights,
    normalization,
    training_transform,
)
from experiments.image_classification.config import ImageClassificationConfig
from experiments.image_classification.data import LabelledImages, StoredImageSet, array_splits, stored_splits
from experiments.image_classification.models import (
    EVALUATION_BATCH_SIZE,
    IMAGES_IN_CACHE,
    load_initial_weights,
    meta_model,
    meta_output,
)
from experiments.image_classification.real_labels import real_sums
from experiments.metrics.classification import (
    add_calibration,
    calibrated_example_losses,
    calibration_metrics,
    classification_metrics,
    classification_sums,
    no_calibration_sums,
)


class ImageClassification:
    """A labelled image set and the model that the config names.

    ``splits`` are those of data.py. Reassessed labels of the test images, ``real_labels`` (int64 [images, most],
    padded with -1), and a split ``v2`` each add a test metric. ``initial_run`` is the folder of the run whose final
    weights training starts from.
    """

    def __init__(
        self,
        cfg: ImageClassificationConfig,
        splits: dict[str, LabelledImages],
        real_labels: np.ndarray | None = None,
        initial_run: Path | None = None,
    ) -> None:
        self.frozen_outputs: dict[str, str] = {}
        self._cfg, self.splits, self._real_labels, self._initial_run = cfg, splits, real_labels, initial_run
        self.num_train = len(splits["fit"].labels)
        self._check()
        self._augment = training_transform(cfg)
        plain = cfg.augmentation.crop_area is None and not cfg.augmentation.randaugment_ops
        self._arrays = arrays_of_size(splits["fit"].images, cfg.data.image_size) if plain else None
        self._on_device = kept_on_device(cfg.run, self._arrays.stacked if self._arrays else None, self.num_train)
        self._normalize = normalization(cfg)
        self.evaluators = {
            "val": Evaluator("evaluate", partial(self._sums, "val"), _metrics),
            "test": Evaluator("end", self._test_sums, _metrics, calibrated_example_losses),
            **flatness(cfg, self.num_train, partial(self._sums, "train"), _metrics),
        }

    def _check(self) -> None:
        cfg = self._cfg
        labels = {name: split.labels for name, split in self.splits.items() if name != "train"}
        labels["train"] = np.concatenate([labels.pop("fit"), labels["val"]])
        check_classes(labels, cfg.data.num_classes, cfg.data.name)
        warn_of_small_splits({name: labels[name] for name in ("val", "test")}, cfg.data.num_classes, cfg.data.name)
        size = f"{cfg.data.channels} channels (data.channels) and {cfg.data.image_size} pixels (data.image_size)"
        with refused_as(f"The model cannot take images of {size}"):
            meta_output(meta_model(cfg), cfg, 2)  # two, because batch norm has no variance over one
        if {len(cfg.data.mean), len(cfg.data.std)} != {cfg.data.channels} or not min(cfg.data.std) > 0:
            raise ConfigError(
                f"data.mean={cfg.data.mean} and data.std={cfg.data.std} must be {cfg.data.channels} numbers each "
                "(data.channels), and those of data.std above 0."
            )
        if cfg.loss not in ("softmax", "sigmoid"):
            raise ConfigError(f"loss must be softmax or sigmoid, but it is {cfg.loss!r}.")
        if cfg.loss == "sigmoid" and cfg.label_smoothing:
            raise ConfigError(f"label_smoothing={cfg.label_smoothing} is for loss=softmax: set one or the other.")
        for name, there in (("real", self._real_labels is not None), ("v2", "v2" in self.splits)):
            if f"test/{name}_top1" in {cfg.study.primary_metric, *cfg.study.secondary_metrics} and not there:
                raise ConfigError(
                    f"study names test/{name}_top1, but data.{name}_sources is empty: fill it, or "
                    "use data=imagenet_alone, which has neither."
                )

    def model(self) -> nn.Module:
        """The model of ``cfg.model``, initialized from PyTorch's global generator or with an earlier run's weights."""
        model: Any = instantiate(self._cfg.model, _convert_="all")
        if self._cfg.head_bias:
            nn.init.constant_(model.get_classifier().bias, self._cfg.head_bias)
        if self._initial_run:
            load_initial_weights(model, self._initial_run)
        return model

    def batch(self, indices: np.ndarray, seeds: list[int]) -> dict[str, Tensor]:
        """``images``, augmented, uint8 ``[N, C, H, W]``, and ``labels``: int64 ``[N]``, or with mixup class weights,
        float32 ``[N, num_classes]``, and ``mixup``, float32 ``[2]``, the weights by which ``loss`` mixes the images.
        With ``run.images_on_device``, ``indices`` and what was drawn for them replace ``images``.
        """
        made = self._pixels(indices, seeds)
        labels = torch.from_numpy(self.splits["fit"].labels[indices])
        if not self._cfg.augmentation.mixup_alpha:
            return {**made, "labels": labels}
        torch.default_generator.manual_seed(derive_seed(seeds[0], "mixup"))
        weights = mixup_weights(self._cfg.augmentation.mixup_alpha)
        return {**made, "labels": mixed_labels(labels, weights, self._cfg.data.num_classes), "mixup": weights}

    def _pixels(self, indices: np.ndarray, seeds: list[int]) -> dict[str, Tensor]:
        if not self._arrays:
            augmented = []
            for index, seed in zip(indices, seeds, strict=True):
                # torchvision draws from the CPU's global generator; torch.manual_seed (every device's) is much slower.
                torch.default_generator.manual_seed(seed)
                augmented.append(self._augment(self.splits["fit"].images[index]))
            return {"images": torch.stack(augmented)}
        padding = self._cfg.data.crop_padding
        drawn = draw_crops_and_flips(padding, self._cfg.data.flip, seeds)
        if self._on_device:
            return {"indices": torch.from_numpy(indices), **drawn}
        return {"images": cropped_and_flipped(self._arrays.stacked(indices), padding, drawn)}

    def _images_of(self, batch: dict[str, Tensor]) -> Tensor:
        if self._on_device is None:
            return batch["images"]
        return cropped_and_flipped(self._on_device[batch["indices"]], self._cfg.data.crop_padding, batch)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Mean over the images, normalized and mixed here, of the softmax cross-entropy with label smoothing, or of the
        sigmoid cross-entropy summed over the classes.
        """
        images, labels = self._normalize(self._images_of(batch)), batch["labels"]
        logits = model(mixed(images, batch["mixup"]) if "mixup" in batch else images)
        if self._cfg.loss == "softmax":
            return F.cross_entropy(logits, labels, label_smoothing=self._cfg.label_smoothing)
        shares = labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[1]).to(logits)
        return F.binary_cross_entropy_with_logits(logits, shares, reduction="none").sum(1).mean()

    def _test_sums(self, model: nn.Module, process: int, num_processes: int) -> dict[str, Tensor]:
        """Those of ``_sums``, the calibration of val, and v2_top1 and v2_count if there is such a split."""
        sums = self._sums("test", model, process, num_processes)
        sums["val_nats"] = self._sums("val", model, process, num_processes)["nats"]
        if "v2" in self.splits:
            v2 = self._sums("v2", model, process, num_processes)
            sums |= {"v2_top1": v2["top1"], "v2_count": v2["count"]}
            sums["damaged"] += v2["damaged"]
        return sums

    def _sums(self, split: str, model: nn.Module, process: int, num_processes: int) -> dict[str, Tensor]:
        """Loss (softmax), top-1, top-5, count and damaged images; for val and test also the sums for calibration, for
        test also per image, and real_top1 and real_count if there are reassessed labels.
        """
        device = next(model.parameters()).device
        names = ["loss", "top1", "top5", "count", "damaged"]
        real_labels = self._real_labels if split == "test" else None
        names += ["real_top1", "real_count"] if real_labels is not None else []
        sums = {name: torch.zeros((), dtype=torch.float64, device=device) for name in names}
        calibrates = split in ("val", "test")
        if calibrates:
            sums |= no_calibration_sums(device, len(self.splits[split].labels) if split == "test" else None)
        with evaluation_batches(self.splits[split], self._cfg, process, num_processes).reading() as batches:
            for batch in batches:
                images, labels = self._normalize(batch["images"].to(device)), batch["labels"].to(device)
                logits = in_parts(model, IMAGES_IN_CACHE, images)
                parts = classification_sums(logits, labels)
                if calibrates:
                    add_calibration(sums, logits, labels, batch["numbers"])
                if real_labels is not None:
                    parts |= real_sums(logits, torch.from_numpy(real_labels[batch["numbers"]]).to(device))
                for name, value in parts.items():
                    sums[name] += value
                sums["damaged"] += batch["damaged"]
        return sums


def _metrics(sums: dict[str, Any]) -> dict[str, float]:
    """Loss in nats, top-1 and top-5 in percent; for val and test calibrated_loss (nats) and calibration_error
    (percent), for test also real_top1 and v2_top1. If any images could not be decoded completely, damaged_images is
    their number.
    """
    metrics = classification_metrics(sums)
    if "nats" in sums:
        metrics |= calibration_metrics(sums)
    further = [name for name in ("real", "v2") if f"{name}_count" in sums]
    metrics |= {f"{name}_top1": 100 * sums[f"{name}_top1"] / sums[f"{name}_count"] for name in further}
    return metrics | ({"damaged_images": sums["damaged"]} if sums["damaged"] else {})


class _EvaluationBatches(Dataset[dict[str, Any]]):
    """Batches of transformed images, by the index ``start`` of their first one."""

    def __init__(self, split: LabelledImages, cfg: ImageClassificationConfig) -> None:
        self._split, self._transform = split, evaluation_transform(cfg)
        unchanged = cfg.augmentation.crop_area is None  # by the transform, if they have the right size
        self._arrays = arrays_of_size(split.images, cfg.data.image_size) if unchanged else None

    def __getitem__(self, start: int) -> dict[str, Any]:
        numbers = np.arange(start, min(start + EVALUATION_BATCH_SIZE, len(self._split.labels)))
        before = self._split.damaged
        if self._arrays:
            images = self._arrays.stacked(numbers).contiguous()
        else:
            images = torch.stack([self._transform(self._split.images[int(number)]) for number in numbers])
        return {
            "images": images,
            "labels": torch.tensor(self._split.labels[start : start + EVALUATION_BATCH_SIZE]),
            "numbers": torch.from_numpy(numbers),
            "damaged": self._split.damaged - before,
        }


def evaluation_batches(
    split: LabelledImages, cfg: ImageClassificationConfig, process: int, num_processes: int
) -> ShieldedLoader:
    """This process's share of the images: images uint8 ``[N, C, H, W]``, labels and indices (numbers) int64 ``[N]``,
    and how many were damaged.
    """
    starts = range(process * EVALUATION_BATCH_SIZE, len(split.labels), num_processes * EVALUATION_BATCH_SIZE)
    dataset = _EvaluationBatches(split, cfg)
    return ShieldedLoader(dataset, starts, cfg.run.num_workers, pin=False)


def build(cfg: ImageClassificationConfig, data: PreparedData | StoredImageSet) -> ImageClassification:
    """The task over decoded arrays, or over encoded files."""
    splits_of: Callable[[int | None], dict[str, LabelledImages]]
    if isinstance(data, StoredImageSet):
        splits_of, further = partial(stored_splits, cfg, data), (data.real_labels, data.initial_run)
    else:
        splits_of, further = partial(array_splits, cfg, data.load()), (None, None)
    task = ImageClassification(cfg, splits_of(cfg.data.split_seed), *further)
    # The set's own split is searched for copies: a redrawn one has the same images, and would be searched every time.
    own = {name: split.images for name, split in splits_of(None).items() if name != "train"}
    identity, cache_dir = f"{data.fingerprint} {cfg.data.val_size}", Path(cfg.run.cache_dir)
    warn_of_copies(cfg.data.name, own.pop("fit"), own, identity, cache_dir, cfg.run.num_workers)
    return task
