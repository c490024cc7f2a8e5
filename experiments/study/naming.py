"""Configs and directories of a study's hundreds of runs, without composing a config or opening data repeatedly."""

import json
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.harness.composition import VALUE, set_values
from experiments.harness.config import check_keys, resolved
from experiments.harness.run import check_whole, directory_of, opened

Compose = Callable[[list[str]], DictConfig]
"""Maps overrides to a run's config, as the launcher's jobs will see it."""


class Naming:
    """Does the work of ``locate`` in experiments/harness/run.py for many runs, in a twentieth of the time.

    Hydra composes a config (0.1 s) only once for all runs whose overrides differ only in their trailing values. Each
    run then sets the values in it that differ from the previous run's.
    """

    def __init__(self, compose: Compose) -> None:
        self._compose = compose
        self._composed: dict[tuple[str, ...], tuple[DictConfig, Sequence[str]]] = {}
        self._fingerprints: dict[str, str] = {}

    def resolved(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The config as plain data."""
        count = len(list(takewhile(VALUE.match, reversed(overrides))))
        groups, values = overrides[: len(overrides) - count], overrides[len(overrides) - count :]
        key = *groups, "then", *(value.partition("=")[0] for value in values)
        if key not in self._composed:
            self._composed[key] = self._compose(list(overrides)), values
            check_keys(self._composed[key][0])
        cfg, before = self._composed[key]
        changed = [value for value, other in zip(values, before, strict=True) if value != other]
        set_values(cfg, changed)
        self._composed[key] = cfg, values
        return resolved(cfg)

    def locate(self, overrides: Sequence[str]) -> tuple[dict[str, Any], str, Path]:
        """The config as plain data, the fingerprint of its data, and the run's directory."""
        plain = self.resolved(overrides)
        check_whole(plain)
        data = json.dumps([plain["data"], plain["run"]["cache_dir"]], sort_keys=True)
        if data not in self._fingerprints:
            self._fingerprints[data] = opened(plain).fingerprint
        return plain, self._fingerprints[data], directory_of(plain, self._fingerprints[data])
