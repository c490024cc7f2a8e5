"""Open the sets that one config consists of, and name them by one fingerprint."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import get_method

from experiments.harness.errors import DataError
from experiments.harness.prepared_data import prepare


def open_set(data: Mapping[str, Any], cache_dir: Path) -> Any:
    """Open the set of a ``data`` config with the function that its key ``access`` names, by default
    experiments.harness.prepared_data.prepare.
    """
    access = get_method(data["access"]) if "access" in data else prepare
    return access(data, cache_dir)


def joint_fingerprint(parts: Mapping[str, str | None]) -> str:
    """SHA-256 over the fingerprints of named parts, None for a part that is absent; their order does not matter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check_fingerprint(data: Mapping[str, Any], found: str) -> None:
    """Raise DataError if the config group ``data`` declares a different fingerprint."""
    if data.get("fingerprint") not in (None, found):
        raise DataError(
            f"data={data['name']} has the fingerprint {found} here, but its config declares {data['fingerprint']}; "
            "a different version, or a different order of rows, needs its own config."
        )
