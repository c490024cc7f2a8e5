"""Everything that a LiT run needs to download: pairs, evaluation sets, weights. ``open_sets`` is its data.access."""

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
    """The opened data of LiT's config group ``data``."""

    pairs: PreparedData | StoredSet
    zero_shot: Mapping[str, PreparedData | StoredSet]
    retrieval: Mapping[str, PreparedData | StoredSet]
    weights: Mapping[str, PreparedData]
    cache_dir: Path
    fingerprint: str
    """SHA-256 over the fingerprints of all of these"""


def open_sets(data: Mapping[str, Any], cache_dir: Path) -> Sets:
    """Open, and if necessary download, the pairs and all sets within ``data``, each with its own ``access`` (by default
    experiments.harness.prepared_data.prepare), the pairs with their ``pair_access``.
    """
    pairs = _open({**data, "access": data["pair_access"]}, cache_dir)
    groups = {
        group: {name: _open(one, cache_dir) for name, one in data[group].items()}
        for group in ("zero_shot", "retrieval", "weights")
    }
    content = {
        "pairs": pairs.fingerprint,
        **{f"{group}/{name}": one.fingerprint for group, sets in groups.items() for name, one in sets.items()},
    }
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Sets(pairs, **groups, cache_dir=cache_dir, fingerprint=fingerprint)


def _open(data: Mapping[str, Any], cache_dir: Path) -> Any:
    if "access" not in data:
        return prepare(data, cache_dir)
    module, _, function = data["access"].rpartition(".")
    return getattr(import_module(module), function)(data, cache_dir)
