"""Values that the types accept but that would fail late, silently or elsewhere: out of range, or in conflict."""

import math
import re
from collections.abc import Mapping
from typing import Any

from experiments.harness.composition import scale_of
from experiments.harness.config import processes_on_node
from experiments.harness.errors import ConfigError
from experiments.harness.low_bit import check_low_bit
from experiments.harness.metric import metrics_of

AT_LEAST = {
    "seed": 0,
    **dict.fromkeys(("train.steps", "train.batch_size", "train.micro_batch_size", "train.threads"), 1),
    **dict.fromkeys(("train.log_every", "train.evaluate_every", "train.sample_every"), 1),
    **dict.fromkeys(("schedule.warmup_steps", "schedule.init_factor", "schedule.end_factor"), 0),
    **dict.fromkeys(("optimizer.lr", "optimizer.weight_decay", "flatness.draws", "study.replicates"), 0),
    **dict.fromkeys(("run.checkpoint_every", "run.keep_checkpoints", "run.cpus", "run.nodes", "run.shards"), 1),
    **dict.fromkeys(("run.num_workers", "run.gpus", "run.checkpoint_minutes"), 0),
}
"""By key; null values, and keys that a task does not have, are not checked."""
AREAS = ("augmentation.crop_area", "data.crop_area")
"""Ranges of a random crop's share of the image."""
CHOICES = {
    "train.precision": ("fp32", "bf16"),
    "schedule.shape": ("cosine", "linear", "constant", "rsqrt"),
    "run.device": ("auto", "cpu", "cuda"),
    "run.wandb": ("auto", "online", "offline", "disabled"),
}
SEEDS_A_REPLICATE, MOST_CONFIRM_SEEDS = 1000, 100
"""Seeds reserved for a replicate: the first ones are for confirm runs, each of the others for one search trial."""
NAMES = {
    "optimizer.name": (r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "up to 64 letters, digits, '.', '_' and '-'"),
    "data.name": (r"[^/.\0][^/\0]{0,199}", "up to 200 characters without '/'"),
    "scale": (r"[A-Za-z0-9_-]{1,64}", "up to 64 letters, digits, '_' and '-'"),
    "run.wandb_project": (r"[^/\\#?%:]{1,128}", "a name that W&B accepts, without / \\ # ? % :"),
}
"""Values that become parts of folder names or W&B names; W&B allows 64 characters in a tag."""


def check_limits(plain: Mapping[str, Any]) -> None:
    """Raise ConfigError, naming the key, for the first value of a resolved config that is out of range."""
    for key, least in AT_LEAST.items():
        value = _at(plain, key)
        if value is not None and not is_finite(value):
            raise ConfigError(f"{key} must be a finite number, but it is {value!r}.")
        if value is not None and value < least:
            raise ConfigError(f"{key} must be at least {least}, but it is {value!r}.")
    for key in AREAS:
        area = _at(plain, key)
        if area is not None and not (len(area) == 2 and 0 < area[0] <= area[1] <= 1):
            raise ConfigError(
                f"{key} must be the smallest and the largest share of an image's area, such as [0.05,1.0], or null, "
                f"but it is {area}."
            )
    if (betas := _at(plain, "optimizer.betas")) is not None and not (
        isinstance(betas, list) and all(map(is_finite, betas))
    ):
        raise ConfigError(f"optimizer.betas must be a list of finite numbers, such as [0.9,0.99], but it is {betas!r}.")
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
    if (gpus := plain["run"]["gpus"]) > 1 and gpus != int(gpus):
        raise ConfigError(f"run.gpus must be a whole number above 1, but it is {gpus}: only one GPU can be shared.")
    _check_study(plain["study"])
    check_low_bit(plain)
    for key in ("runs_dir", "results_dir", "cache_dir"):
        if not plain["run"][key].strip():
            raise ConfigError(f"run.{key} is empty{' (LION_CACHE)' if key == 'cache_dir' else ''}: name a folder.")


def is_finite(value: Any) -> bool:
    """Whether a config's value is a number, and neither infinite nor NaN."""
    return isinstance(value, int | float) and math.isfinite(value)


def _at(plain: Mapping[str, Any], key: str) -> Any:
    value: Any = plain
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _check_study(study: Mapping[str, Any]) -> None:
    if not all(trials >= 1 for trials in study["stages"]):
        raise ConfigError(f"study.stages must be numbers of trials of at least 1, but it is {study['stages']}.")
    if (trials := sum(study["stages"])) > (most := SEEDS_A_REPLICATE - MOST_CONFIRM_SEEDS):
        raise ConfigError(f"study.stages may have at most {most} trials in total, but has {trials}.")
    if not 1 <= study["confirm"] <= MOST_CONFIRM_SEEDS:
        raise ConfigError(f"study.confirm must be from 1 to {MOST_CONFIRM_SEEDS}, but it is {study['confirm']}.")
    if not all(0 < length < math.inf and length != 1 for length in study["lengths"]):
        raise ConfigError(
            f"study.lengths must be above 0 and not 1, which runs anyway, but they are {study['lengths']}."
        )
    if not 0 < study["margin_percent"] < 100:
        raise ConfigError(f"study.margin_percent must be between 0 and 100, but it is {study['margin_percent']}.")
    if (margin := study["margin"]) is not None and not 0 <= margin < math.inf:
        raise ConfigError(f"study.margin must be at least 0, or null, but it is {margin}.")
    for key, drawn in study["nuisance"].items():
        if not isinstance(drawn, Mapping) or not (drawn.get("choices") or {"low", "high"} <= drawn.keys()):
            raise ConfigError(f"study.nuisance.{key} needs choices, or low and high, but it is {drawn}.")
        if drawn.get("log") and not 0 < drawn["low"] <= drawn["high"]:
            raise ConfigError(f"study.nuisance.{key} is log-uniform, so it needs 0 < low <= high.")


def check_conflicts(plain: Mapping[str, Any]) -> None:
    """Raise ConfigError, naming the key, for values that conflict."""
    train, flatness = plain["train"], plain["flatness"]
    if (scale := scale_of(plain["experiment"])) not in (None, plain["scale"]):
        raise ConfigError(
            f"experiment={plain['experiment']} is for scale={scale}, not for scale={plain['scale']}: pass "
            f"scale={scale} (with make, SCALE={scale})."
        )
    if train["sample_every"] and not any("samples" in metric.splits for metric in metrics_of(plain["task"]).values()):
        raise ConfigError(
            f"train.sample_every={train['sample_every']}, but {plain['task']} generates no samples: set it to null."
        )
    if train["batch_size"] % train["micro_batch_size"]:
        raise ConfigError(
            f"train.batch_size={train['batch_size']} is not a multiple of train.micro_batch_size="
            f"{train['micro_batch_size']}: choose a micro-batch that divides the batch."
        )
    if plain["schedule"]["warmup_steps"] >= train["steps"]:
        raise ConfigError(
            f"schedule.warmup_steps={plain['schedule']['warmup_steps']} leaves no step of train.steps={train['steps']} "
            "at the peak learning rate: shorten the warm-up."
        )
    run = plain["run"]
    processes = processes_on_node(run["gpus"]) * run["nodes"]
    if processes > 1 and processes % run["shards"]:
        raise ConfigError(
            f"run.shards={run['shards']} does not divide the {processes} processes of run.gpus={run['gpus']} and "
            f"run.nodes={run['nodes']}: change one of them."
        )
    needs_all_weights = {
        "train.ema_decay": train["ema_decay"],
        "train.compile": train["compile"],
        "flatness.draws": flatness["draws"],
    }
    for key, value in needs_all_weights.items():
        if value and run["shards"] > 1:
            raise ConfigError(
                f"run.shards={run['shards']} shards the weights of a model, but {key}={value} needs all of "
                "them in one place: turn it off, or set run.shards to 1."
            )
    if missing := {"name", "_target_", "lr"} - {key for key, value in plain["optimizer"].items() if value is not None}:
        raise ConfigError(f"optimizer lacks {', '.join(sorted(missing))}; see conf/optimizer/lion.yaml for an example.")
    if flatness["draws"] and not (flatness["std"] > 0 and flatness["samples"] > 0):
        raise ConfigError(
            f"flatness.draws={flatness['draws']} needs flatness.std and flatness.samples above 0, but they are "
            f"{flatness['std']} and {flatness['samples']}."
        )
