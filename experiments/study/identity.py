"""The identity of a study, and the name of its folder.

Studies that differ in more than rounding have different identities. A published study can only be replaced by one with
its identity.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.harness.errors import ConfigError
from experiments.harness.run_name import result_config, same_numbers
from experiments.harness.source_code import has_own_code, own_digest
from experiments.study.replicates import read_replicate, replicate_path

NOT_IN_NAME = ("scale", "experiment", "data.sources", "study.numbers")
"""Overrides left out of the name because they are already in the folder's path or only say where data come from; those
of the groups run and hydra are left out too."""
LONGEST_NAME = 100
"""Maximum length of a readable folder name, in characters; beyond that, a hash replaces the overrides."""

ROUNDING = ("threads", "instruction_set")
"""``train`` settings that affect rounding, and so the last bits of a run, but not what a study compares."""
DECISIONS = (
    "reference",
    "replicates",
    "stages",
    "confirm",
    "lengths",
    "nuisance",
    "primary_metric",
    "validation_metric",
    "margin_percent",
    "margin",
)
"""Keys of the ``study`` group that affect the search, the draws or the verdict."""


def study_name(cfg: DictConfig, plain: DictConfig, overrides: Sequence[str], contestants: Sequence[str]) -> str:
    """The experiment's name, followed by every override that changes the config, with its resolved value.

    ``cfg`` is the study's config, ``plain`` that of its experiment without overrides. The result contains only letters,
    digits and ``=.,_-``.
    """
    leaf = str(cfg.experiment).rsplit("/", 1)[-1]
    parts = [leaf]
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key in NOT_IN_NAME or key.split(".")[0] in ("run", "hydra"):
            continue
        value, before = _selected(cfg, key), _selected(plain, key)
        if value != before or override.startswith("~"):
            parts.append(override.lstrip("+") if isinstance(value, dict) else f"{key}={_in_name(value)}")
    if sorted(contestants) != sorted(cfg.study.contestants):
        parts.append(f"optimizer={','.join(contestants)}")
    name = re.sub("[^A-Za-z0-9=.,_-]+", "_", "-".join(parts))
    return name if len(name) <= LONGEST_NAME else f"{leaf}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def _selected(cfg: DictConfig, key: str) -> Any:
    value = OmegaConf.select(cfg, key)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _in_name(value: Any) -> str:
    numbers = same_numbers(value)
    return ",".join(map(str, numbers)) if isinstance(numbers, list) else str(numbers)


def study_identity(configs: Mapping[str, Mapping[str, Any]], fingerprint: str) -> dict[str, Any]:
    """What the study compares, and how, as plain data. ``configs`` are the contestants' resolved configs."""
    first = next(iter(configs.values()))
    decides = result_config(dict(first), fingerprint)
    shared = {key: value for key, value in decides.items() if key not in ("optimizer", "seed", "test")}
    shared["train"] = {key: value for key, value in shared["train"].items() if key not in ROUNDING}
    return {
        "contestants": {name: config["optimizer"] for name, config in configs.items()},  # with their search spaces
        "study": {key: first["study"][key] for key in DECISIONS},
        "config": shared,
    }


def check_folder(directory: Path, identity: Mapping[str, Any]) -> None:
    """Raise ConfigError if ``directory`` holds a published study with a different identity."""
    existing = next(folder for folder in (directory, *directory.parents) if folder.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()  # os.access gets /proc and full disks wrong
    except OSError as error:
        raise ConfigError(
            f"{existing} cannot be written ({error.strerror}), so no study could be published: set run.results_dir."
        ) from error
    path = directory / "study.json"
    if not path.exists():
        if directory.exists() and any(directory.iterdir()):
            raise ConfigError(f"{directory} holds something other than a study: move it, or set run.results_dir.")
        return
    try:
        theirs = dict(json.loads(path.read_bytes())["identity"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is damaged, so it is unclear which study is published there: delete the folder, or publish "
            "this one elsewhere (run.results_dir=<folder>)."
        ) from error
    differences = list(_differences(theirs, identity))
    if differences:
        raise ConfigError(
            f"{directory} holds another study, which differs in {'; '.join(differences[:3])}. It is not overwritten: "
            "delete it, or publish this one elsewhere (run.results_dir=<folder>)."
        )


def check_source_code(directory: Path, published: Sequence[int], configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ConfigError if a contestant's own code, outside the suite and its packages, has changed since a replicate
    was published in ``directory``. The suite itself may change: `make verify` shows whether its results do.
    """
    own = {name: own_digest(config) for name, config in configs.items() if has_own_code(config)}
    for number in published if own else ():
        for run in read_replicate(replicate_path(directory, number)).runs:
            then = str(json.loads(run.status).get("sources_digest")).partition("-")[2]
            if run.optimizer in own and then != own[run.optimizer]:
                raise ConfigError(
                    f"Replicate {number} in {directory} was made by different code of {run.optimizer} (digest {then}, "
                    f"here {own[run.optimizer]}). FRESH=1 (run.fresh=true) reruns the requested replicates; to keep "
                    "the published ones, rename the changed optimizer."
                )


def _differences(theirs: Any, ours: Any, where: str = "") -> Any:
    """``key: published value, here value`` for each shared key whose values differ; contestants may not differ."""
    if not (isinstance(theirs, Mapping) and isinstance(ours, Mapping)):
        if theirs is not None and json.dumps(theirs) != json.dumps(ours):
            yield f"{where}: published {json.dumps(theirs)}, here {json.dumps(ours)}"
        return
    if where == "contestants" and theirs.keys() != ours.keys():
        yield f"contestants: published {','.join(theirs)}, here {','.join(ours)}"
        return
    for key in theirs.keys() & ours.keys():
        yield from _differences(theirs[key], ours[key], f"{where}.{key}".strip("."))
