"""Open the sets that one config consists of, and name them by one fingerprint."""

import hashlib
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from experiments.harness.prepared_data import prepare


def open_set(data: Mapping[str, Any], cache_dir: Path) -> Any:
    """What the function ``access`` of a config of the group ``data`` gives: by default,
    experiments.harness.prepared_data.prepare.
    """
    if "access" not in data:
        return prepare(data, cache_dir)
    module, _, function = data["access"].rpartition(".")
    return getattr(import_module(module), function)(data, cache_dir)


def joint_fingerprint(parts: Mapping[str, str | None]) -> str:
    """SHA-256 over the fingerprints of named parts, None for a part that is absent; their order does not matter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
