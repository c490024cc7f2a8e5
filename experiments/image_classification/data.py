"""What an image classification run reads: decoded arrays (data.access is experiments.harness.prepared_data.prepare), or
encoded files of any size (``open_image_set``), such as ImageNet's, with extras: ImageNetV2, reassessed labels, the run
to start from.

fit     the images that training batches are drawn from
train   the first ``flatness.samples`` of these, for evaluation
val     ``data.val_size`` images of the training split that are not trained on: a random choice, the same everywhere
        unless ``data.split_seed`` redraws it
test, and optionally v2
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from experiments.data.images import ArrayImages, Images, StoredImages
from experiments.data.labels import check_order
from experiments.data.splits import num_kept, shuffled
from experiments.data.stored import check_splits, open_splits
from experiments.data.stored_split import StoredSplit
from experiments.harness.errors import ConfigError, DataError
from experiments.harness.files import first_file
from experiments.harness.prepared_data import check_fingerprint, joint_fingerprint
from experiments.harness.record import read_status
from experiments.harness.source_code import ROOT
from experiments.image_classification.config import ImageClassificationConfig
from experiments.image_classification.real_labels import read_real_labels

MODES = {1: "L", 3: "RGB"}
"""Pillow's modes by ``data.channels``, to which stored images are converted."""


@dataclass(frozen=True)
class StoredImageSet:
    """A labelled image set of encoded files, and the extras in its config."""

    train: StoredSplit
    test: StoredSplit
    v2: StoredSplit | None
    real_labels: np.ndarray | None
    """int64 [test rows, most labels of one image]; see real_labels.py"""
    initial_run: Path | None
    """folder of the run whose final weights training starts from"""
    fingerprint: str
    """SHA-256 over all of the above: labels, encoded lengths, the run's name"""


def open_image_set(data: Mapping[str, Any], cache_dir: Path) -> StoredImageSet:
    """The set that the config group ``data`` declares, from the first of its sources that has it.

    The fingerprint depends on the order of the rows, so runs on a hub's copy and on a folder have different names.
    ``cache_dir`` is unused: the ``datasets`` library has its own cache. Raises DataError if the set is not what the
    config says.
    """
    splits = open_splits(data)
    check_splits(splits, ("train", "test"), data["name"])
    train, test = splits["train"], splits["test"]
    if data["train_images"] not in (None, len(train)):
        raise DataError(
            f"data={data['name']} has {len(train)} training images here, but data.train_images={data['train_images']}: "
            f"complete it, or set data.train_images={len(train)} to train on these and count epochs accordingly."
        )
    v2 = None
    if data["v2_sources"]:
        named = {**data, "name": f"{data['name']}/v2", "sources": data["v2_sources"]}
        of_v2 = open_splits(named, train.class_names)
        check_splits(of_v2, ("test",), named["name"])
        v2 = of_v2["test"]
    real_file = _real_file(data["name"], data["real_sources"]) if data["real_sources"] else None
    initial_run = _find_run(data["initial_run"], data["initial_sources"]) if data["initial_run"] else None
    parts = {
        **{split.name: split.fingerprint() for split in (train, test, v2) if split},
        "real": hashlib.sha256(real_file.read_bytes()).hexdigest() if real_file else None,
        "initial_run": initial_run.name if initial_run else None,
    }
    fingerprint = joint_fingerprint(parts)
    check_fingerprint(data, fingerprint)
    real_labels = read_real_labels(real_file, test.file_names()) if real_file else None
    return StoredImageSet(train, test, v2, real_labels, initial_run, fingerprint)


def _real_file(name: str, paths: list[str]) -> Path:
    file = first_file(paths)
    if not file:
        raise DataError(
            f"data={name} has no reassessed labels (ReaL): put real.json of github.com/google-research/"
            f"reassessed-imagenet at {' or '.join(paths)}, or use data=imagenet_alone, which needs neither these nor "
            "ImageNetV2."
        )
    return file


def _find_run(name: str, sources: list[dict[str, Any]]) -> Path:
    """The folder of the one complete run on the data set ``name`` that matches a source's path pattern (relative to the
    repository, or absolute) and model.
    """
    found = []
    for source in sources:
        for run in (ROOT / source["path"]).parent.glob(Path(source["path"]).name):
            if (read_status(run) or {}).get("status") == "complete":
                config = OmegaConf.load(run / "config.yaml")
                if (config.data.name, config.model.get("model_name")) == (name, source["model_name"]):
                    found.append(run)
    if len(found) != 1:
        looked = " or ".join(f"{source['path']} with model {source['model_name']}" for source in sources)
        raise DataError(
            f"Training starts from the complete run on {name}, of which there must be exactly one, but {looked} has "
            f"{len(found)}: finish the study that makes it (named in the header of the experiment's file), or put the "
            "run's folder into data.initial_sources."
        )
    return found[0]


@dataclass(frozen=True)
class LabelledImages:
    """Some rows of a labelled set, in a fixed order."""

    images: Images
    labels: np.ndarray
    """int64 [images]"""

    @property
    def damaged(self) -> int:
        """How many images of the set this process has so far been unable to decode completely."""
        return self.images.split.damaged if isinstance(self.images, StoredImages) else 0


def array_splits(
    cfg: ImageClassificationConfig, arrays: dict[str, np.ndarray], seed: int | None
) -> dict[str, LabelledImages]:
    """The splits of a decoded set. Without a ``seed``, ``val`` is the last training images, which are a random sample
    because the arrays are sorted by a hash of their content.
    """
    images, labels = arrays["train_images"], arrays["train_labels"]
    check_order(labels, cfg.data.name)
    for name in ("train", "test"):
        channels = arrays[f"{name}_images"].shape[3]
        if channels != cfg.data.channels:
            raise ConfigError(
                f"data.channels={cfg.data.channels}, but the {name} images of data={cfg.data.name} have {channels}."
            )
    count = num_kept(len(images), cfg.data.val_size, "data.val_size")
    rows = np.arange(len(images)) if seed is None else shuffled(len(images), seed)
    parts = {"fit": rows[:count], "train": rows[: cfg.flatness.samples], "val": rows[count:]}
    splits = {name: LabelledImages(ArrayImages(images, part), labels[part]) for name, part in parts.items()}
    test_labels = arrays["test_labels"]
    test = ArrayImages(arrays["test_images"], np.arange(len(test_labels)))
    return {**splits, "test": LabelledImages(test, test_labels)}


def stored_splits(cfg: ImageClassificationConfig, data: StoredImageSet, seed: int | None) -> dict[str, LabelledImages]:
    """The splits of a stored set. Its rows may be sorted by class, so ``val`` is a random choice even without a
    ``seed``.
    """
    if cfg.data.channels not in MODES:
        raise ConfigError(f"data.channels={cfg.data.channels}, but images are read in RGB (3) or greyscale (1).")
    mode = MODES[cfg.data.channels]
    count = num_kept(len(data.train), cfg.data.val_size, "data.val_size")
    rows = shuffled(len(data.train), seed)

    def labelled(split: StoredSplit, own: np.ndarray) -> LabelledImages:
        return LabelledImages(StoredImages(split, own, mode), split.labels[own])

    splits = {
        "fit": labelled(data.train, rows[:count]),
        "train": labelled(data.train, rows[: cfg.flatness.samples]),
        "val": labelled(data.train, rows[count:]),
        "test": labelled(data.test, np.arange(len(data.test))),
    }
    if data.v2:
        splits["v2"] = labelled(data.v2, np.arange(len(data.v2)))
    return splits
