"""Check the record of a finished run for later damage: files that were deleted, truncated or edited."""

import json
import math
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.harness.checkpoint_files import checkpoints, is_whole, step_of
from experiments.harness.errors import RunError
from experiments.harness.record import last_values, metrics_sha256, read_example_losses
from experiments.harness.run_name import name_of


def find_damage(directory: Path, status: dict[str, Any]) -> str | None:
    """What is wrong with the record of a run that ended with ``status``, or None if it is intact."""
    try:
        if last_values(directory) != status.get("metrics"):
            return "metrics.jsonl and status.json differ"
        if status.get("metrics_sha256", metrics_sha256(directory)) != metrics_sha256(directory):
            return "metrics.jsonl is not what the run has written"
        recorded: Any = OmegaConf.to_container(OmegaConf.load(directory / "config.yaml"))
        if name_of(recorded) != directory.name:  # raises TypeError if it is not a mapping
            return "config.yaml is that of another run"
        for name in ("environment.json", "parameter_groups.json"):
            if not isinstance(json.loads((directory / name).read_bytes()), dict):
                return f"{name} is damaged"
        last = recorded["train"]["steps"] if status["status"] == "complete" else None
        if last and recorded["test"]:
            try:
                metric, losses = read_example_losses(directory)
            except RunError:
                return "example_losses.npz is damaged"
            if not math.isclose(losses.mean(dtype=float), status["metrics"].get(metric, math.nan), rel_tol=1e-5):
                return f"the mean of example_losses.npz is not {metric}"
        return _damage_of_checkpoint(directory, last)
    except RunError:
        return "metrics.jsonl is damaged"
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError, OmegaConfBaseException) as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0]


def _damage_of_checkpoint(directory: Path, last: int | None) -> str | None:
    """What is wrong with the newest checkpoint, which must be that of step ``last`` if given. All may be deleted, to
    save space or to publish the record.
    """
    found = checkpoints(directory)
    if not found:
        return None
    newest = found[-1]
    if last not in (None, step_of(newest)):
        return f"the checkpoint of step {last} is gone"
    return None if is_whole(newest) else f"{newest.name} is corrupt"
