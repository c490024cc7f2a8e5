"""Between which values a setting must lie: what the types let through and would fail late, silently, or elsewhere."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.harness.errors import ConfigError

AT_LEAST = {
    "seed": 0,
    **dict.fromkeys(("train.steps", "train.batch_size", "train.micro_batch_size", "train.threads"), 1),
    **dict.fromkeys(("train.log_every", "train.evaluate_every", "train.sample_every"), 1),
    **dict.fromkeys(("schedule.warmup_steps", "schedule.init_factor", "schedule.end_factor"), 0),
    **dict.fromkeys(("optimizer.lr", "optimizer.weight_decay", "flatness.draws", "study.extensions"), 0),
    **dict.fromkeys(("run.checkpoint_every", "run.keep_checkpoints", "run.cpus"), 1),
    **dict.fromkeys(("run.num_workers", "run.gpus"), 0),
}
"""By key; null and keys that a task does not have are left alone."""
CHOICES = {
    "train.precision": ("fp32", "bf16"),
    "schedule.shape": ("cosine", "linear", "constant", "rsqrt"),
    "run.device": ("auto", "cpu", "cuda"),
    "run.wandb": ("auto", "online", "offline", "disabled"),
}
NAMES = {
    "optimizer.name": (r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "up to 64 letters, digits, '.', '_' and '-'"),
    "data.name": (r"[^/.\0][^/\0]{0,199}", "up to 200 characters without '/'"),
    "scale": (r"[A-Za-z0-9_-]{1,64}", "up to 64 letters, digits, '_' and '-'"),
    "run.wandb_project": (r"[^/\\#?%:]{1,128}", "a name that W&B takes, without / \\ # ? % :"),
}
"""Parts of folders' names or of W&B's, which takes 64 characters of a tag."""
SEEDS = ("study.tune_seeds", "study.confirm_seeds", "study.looks")
GRIDS = ("study.lr_multipliers", "study.decay_multipliers")


def check_limits(plain: Mapping[str, Any]) -> None:
    """Raise ConfigError, naming the key, for the first value of a resolved config that is out of its limits."""
    for key, least in AT_LEAST.items():
        value = _at(plain, key)
        if value is not None and not (isinstance(value, int | float) and least <= value < math.inf):
            raise ConfigError(f"{key} must be at least {least}, but it is {value!r}.")
    for key, choices in CHOICES.items():
        if (value := _at(plain, key)) not in choices:
            raise ConfigError(f"{key} must be one of {', '.join(choices)}, but it is {value!r}.")
    for key, (pattern, rule) in NAMES.items():
        if not re.fullmatch(pattern, str(_at(plain, key))):
            raise ConfigError(f"{key} must be {rule}, but it is {_at(plain, key)!r}.")
    if (clip := plain["train"]["clip_norm"]) is not None and not 0 < clip < math.inf:
        raise ConfigError(f"train.clip_norm must be above 0, or null for no clipping, but it is {clip}.")
    if (decay := plain["train"]["ema_decay"]) is not None and not 0 <= decay < 1:
        raise ConfigError(f"train.ema_decay must be from 0 to below 1, or null, but it is {decay}.")
    for key in SEEDS:
        _check_list(key, _at(plain, key), least=1 if key == "study.looks" else 0)
    for key in GRIDS:
        values = _at(plain, key)
        _check_list(key, values, least=0)
        if not values or 0 in values:
            raise ConfigError(f"{key} must be one or more numbers above 0, but it is {values}.")
    study = plain["study"]
    if not study["tune_seeds"] and len(study["lr_multipliers"]) * len(study["decay_multipliers"]) > 1:
        raise ConfigError("study.tune_seeds is empty, but there are settings to choose from: name a seed.")
    for key in ("runs_dir", "results_dir", "cache_dir"):
        if not plain["run"][key].strip():
            raise ConfigError(f"run.{key} is empty{' (LION_CACHE)' if key == 'cache_dir' else ''}: name a folder.")


def _at(plain: Mapping[str, Any], key: str) -> Any:
    value: Any = plain
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _check_list(key: str, values: Sequence[float], least: int) -> None:
    if len({*values}) < len(values):
        raise ConfigError(f"{key}={values} names a value twice: each counts once.")
    if not all(least <= value < math.inf for value in values):
        raise ConfigError(f"{key} must be numbers from {least} up, but it is {values}.")
