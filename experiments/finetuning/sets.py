"""What a classifier's run needs to download: labelled texts and weights. ``open_texts`` is its data.access."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.harness.prepared_data import PreparedData, prepare


@dataclass(frozen=True)
class TextSet:
    """The opened data of the config group ``data`` for labelled texts."""

    texts: PreparedData
    weights: PreparedData | None
    cache_dir: Path
    fingerprint: str
    """SHA-256 over the fingerprints of both"""


def open_texts(data: Mapping[str, Any], cache_dir: Path) -> TextSet:
    """Open, and if necessary download, the texts and the weights."""
    texts = prepare(data, cache_dir)
    weights = prepare(data["weights"], cache_dir) if data["weights"] else None
    content = {"texts": texts.fingerprint, "weights": weights and weights.fingerprint}
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return TextSet(texts, weights, cache_dir, fingerprint)
