"""The configs and directories of a study's runs, hundreds of them, without composing and opening the same again."""

import json
import re
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from experiments.harness.config import resolved
from experiments.harness.entry import check_whole, directory_of, opened

Compose = Callable[[list[str]], DictConfig]
"""Overrides to a run's config, as the launcher's jobs will see it."""

VALUE = re.compile(r"(seed|test|[A-Za-z_]\w*(\.\w+)+)=(?!\s*\{)")
"""Overrides that choose no group, and put one value in the place of another instead of merging two"""


class Naming:
    """What ``locate`` of experiments/harness/entry.py would give for each run, in a twentieth of its time.

    Runs whose overrides differ only in the values that stand last have one config composed by Hydra, which takes 0.1 s.
    In that each run sets what the one before had otherwise.
    """

    def __init__(self, compose: Compose) -> None:
        self._compose, self._parser = compose, OverridesParser.create()
        self._composed: dict[tuple[str, ...], tuple[DictConfig, Sequence[str]]] = {}
        self._fingerprints: dict[str, str] = {}

    def resolved(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The config as plain data."""
        count = len(list(takewhile(VALUE.match, reversed(overrides))))
        groups, values = overrides[: len(overrides) - count], overrides[len(overrides) - count :]
        key = *groups, "then", *(value.partition("=")[0] for value in values)
        if key not in self._composed:
            self._composed[key] = self._compose(list(overrides)), values
        cfg, before = self._composed[key]
        changed = [value for value, other in zip(values, before, strict=True) if value != other]
        ConfigLoaderImpl._apply_overrides_to_config(self._parser.parse_overrides(changed), cfg)
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
