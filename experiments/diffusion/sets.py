"""Everything that a diffusion run needs to download: images and weights. ``open_sets`` is its data.access."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from experiments.data.stored import StoredSet
from experiments.harness.prepared_data import PreparedData, prepare


@dataclass(frozen=True)
class Sets:
    """The opened data of diffusion's config group ``data``."""

    images: PreparedData | StoredSet
    weights: Mapping[str, PreparedData]
    cache_dir: Path
    fingerprint: str
    """SHA-256 over the fingerprints of all of these"""


def open_sets(data: Mapping[str, Any], cache_dir: Path) -> Sets:
    """Open, and if necessary download, the images and the weights, each with its own ``access``."""
    images = _open(data["images"], cache_dir)
    weights = {name: prepare(one, cache_dir) for name, one in data["weights"].items()}
    content = {"images": images.fingerprint, **{name: one.fingerprint for name, one in weights.items()}}
    return Sets(images, weights, cache_dir, hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest())


def _open(data: Mapping[str, Any], cache_dir: Path) -> Any:
    if "access" not in data:
        return prepare(data, cache_dir)
    module, _, function = data["access"].rpartition(".")
    return getattr(import_module(module), function)(data, cache_dir)
