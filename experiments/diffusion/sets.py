"""Everything that a run of diffusion has to fetch: images, weights of networks. ``open_sets`` is its data.access."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from experiments.harness.errors import DataError
from experiments.harness.prepared_data import PreparedData, prepare
from experiments.harness.stored_images import StoredSplit, open_splits


@dataclass(frozen=True)
class StoredImages:
    """A labelled set of encoded files: its splits train and test."""

    splits: Mapping[str, StoredSplit]
    fingerprint: str


@dataclass(frozen=True)
class Sets:
    """What the config group ``data`` of diffusion declares, opened."""

    images: Any
    """PreparedData, StoredImages, or what another ``access`` of data.images has given: see pictures.py"""
    weights: Mapping[str, PreparedData]
    cache_dir: Path
    fingerprint: str
    """SHA-256 over the fingerprints of all of these"""


def open_sets(data: Mapping[str, Any], cache_dir: Path) -> Sets:
    """Open, and if need be fetch, the images and the weights, each by its own ``access``."""
    images = _open(data["images"], cache_dir)
    weights = {name: prepare(one, cache_dir) for name, one in data["weights"].items()}
    content = {"images": images.fingerprint, **{name: one.fingerprint for name, one in weights.items()}}
    return Sets(images, weights, cache_dir, hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest())


def open_stored(data: Mapping[str, Any], cache_dir: Path) -> StoredImages:
    """Labelled files, by experiments/harness/stored_images.py. ``cache_dir`` stays unused: ``datasets`` has a cache."""
    splits = open_splits(data["name"], data["places"], data["num_classes"])
    content = json.dumps({name: split.fingerprint() for name, split in splits.items()}, sort_keys=True)
    fingerprint = hashlib.sha256(content.encode()).hexdigest()
    if data["fingerprint"] not in (None, fingerprint):
        raise DataError(
            f"data.images={data['name']} has the fingerprint {fingerprint} here, but its config declares "
            f"{data['fingerprint']}; another version, or another order of rows, is another config."
        )
    return StoredImages(splits, fingerprint)


def _open(data: Mapping[str, Any], cache_dir: Path) -> Any:
    if "access" not in data:
        return prepare(data, cache_dir)
    module, _, function = data["access"].rpartition(".")
    return getattr(import_module(module), function)(data, cache_dir)
