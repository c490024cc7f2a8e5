"""The settings in which runs differ, as columns of their table and filters for their curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report.dashboard.records import ShownRun
from experiments.report.labels import significant

BESIDE = ("task", "data.fingerprint", "test", "optimizer.name", "optimizer._target_", "optimizer.space")
"""Not settings that anyone sweeps: shown elsewhere, or implied by others."""
ALWAYS = "optimizer.lr"
MOST_BOXES = 8
"""A numeric setting with more values than this is filtered by a range."""


def swept_settings(runs: Sequence[ShownRun], prefix: str = "") -> dict[str, dict[str, Any]]:
    """By run id, the values of the learning rate and of every other config key, beginning with ``prefix``, in which the
    runs differ; None where a run lacks the key. An optimizer's own keys come first, without ``optimizer.``, and only if
    runs of the same optimizer differ in them.
    """
    configs = {run.id: _flat(run.config) for run in runs}
    by_optimizer: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        by_optimizer.setdefault(run.optimizer, []).append(configs[run.id])
    keys = [key for key in dict.fromkeys(key for flat in configs.values() for key in flat) if not _is_beside(key)]
    own = [key for key in keys if key.startswith("optimizer.") and key != ALWAYS]
    swept = [
        ALWAYS,
        *(key for key in own if any(_differ(of_one, key) for of_one in by_optimizer.values())),
        *(key for key in keys if not key.startswith("optimizer.") and _differ(list(configs.values()), key)),
    ]
    named = {key.removeprefix("optimizer."): key for key in swept if key.startswith(prefix)}
    return {run_id: {name: flat.get(key) for name, key in named.items()} for run_id, flat in configs.items()}


def _differ(configs: Sequence[Mapping[str, Any]], key: str) -> bool:
    return len({repr(config.get(key)) for config in configs}) > 1


def _is_beside(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in BESIDE)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def shown_value(value: Any) -> str:
    """A value as shown in a table: ``0.003``, ``0.9, 0.99``; empty for None."""
    if isinstance(value, list | tuple):
        return ", ".join(map(shown_value, value))
    if isinstance(value, float):
        return significant(value, 4)
    return "" if value is None else str(value)


def filters(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """A filter for each setting with several ``values``: a checkbox per value, or a range if there are many numbers.
    Settings with many values that are not numbers get no filter.
    """
    found = []
    for name, all_values in values.items():
        known = [value for value in all_values if value is not None]
        boxes = list(dict.fromkeys(map(shown_value, _sorted(known))))
        if len(known) < len(all_values):
            boxes.append("")
        is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
        if 1 < len(boxes) <= MOST_BOXES or (len(boxes) > MOST_BOXES and is_number):
            found.append({"name": name, "boxes": boxes if len(boxes) <= MOST_BOXES else None})
    return found


def _sorted(values: Sequence[Any]) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:  # values of several types
        return sorted(values, key=str)
