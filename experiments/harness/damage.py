"""What has happened to the record of a finished run since it was written: files that are gone, cut or edited."""

import json
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.harness.config import name_of
from experiments.harness.errors import RunError
from experiments.harness.record import last_values, metrics_sha256


def find_damage(directory: Path, status: dict[str, Any]) -> str | None:
    """What is wrong with the record of a run that has ended with ``status``, or None where it is whole."""
    try:
        if last_values(directory) != status.get("metrics"):
            return "metrics.jsonl and status.json differ"
        if status.get("metrics_sha256", metrics_sha256(directory)) != metrics_sha256(directory):
            return "metrics.jsonl is not what the run has written"
        recorded = OmegaConf.to_container(OmegaConf.load(directory / "config.yaml"))
        if name_of(recorded) != directory.name:  # type: ignore[arg-type]  # what is no mapping raises a TypeError
            return "config.yaml is that of another run"
        for name in ("environment.json", "parameter_groups.json"):
            if not isinstance(json.loads((directory / name).read_bytes()), dict):
                return f"{name} is damaged"
    except RunError:
        return "metrics.jsonl is damaged"
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError, OmegaConfBaseException) as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return None
