"""The name that a run gets from its config."""

import hashlib
import json
from typing import Any

# Keys that cannot change a run's result: where it runs and is written, what it is compared with, and under which name.
# Neither can optimizer.space, which a study searches.
NOT_IN_RUN_ID = ("run", "study", "settings", "scale", "experiment")


def result_config(plain: dict[str, Any], fingerprint: str) -> dict[str, Any]:
    """The part of a resolved config that decides a run's result: what its name hashes, and what its record saves."""
    kept = {key: value for key, value in plain.items() if key not in NOT_IN_RUN_ID}
    data = _without_sources(plain["data"])
    optimizer = {key: value for key, value in plain["optimizer"].items() if key != "space"}
    return {**kept, "data": {**data, "fingerprint": fingerprint}, "optimizer": optimizer}


def _without_sources(data: dict[str, Any]) -> dict[str, Any]:
    """A data set's config, nested sets included, without download sources."""
    return {
        key: _without_sources(value) if isinstance(value, dict) else value
        for key, value in data.items()
        if key not in ("access", "download", "layout") and not key.endswith("sources")
    }


def same_numbers(value: Any) -> Any:
    """A copy in which 0.0 is written as 0, so that equal configs have one name."""
    if isinstance(value, dict):
        return {key: same_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [same_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def run_id(plain: dict[str, Any], fingerprint: str) -> str:
    """``<optimizer>-s<seed>-<10 hex>``: the same content gets the same name, wherever and whenever it runs."""
    return name_of(result_config(plain, fingerprint))


def name_of(recorded: dict[str, Any]) -> str:
    """The run id for a ``result_config``, as saved in the run's config.yaml."""
    content = json.dumps(same_numbers(recorded), sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:10]
    return f"{recorded['optimizer']['name']}-s{recorded['seed']}-{digest}"
