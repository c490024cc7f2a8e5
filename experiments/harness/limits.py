"""Values that the types accept but that would fail late, silently or elsewhere: out of range, or in conflict."""

import math
import re
from collections.abc import Callable, Mapping
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
SEEDS_A_REPLICATE, MOST_CONFIRM_SEEDS = 1000, 100
"""Seeds reserved for a replicate: the first ones are for confirm runs, each of the others for one search trial."""


def is_finite(value: Any) -> bool:
    """Whether a config's value is a number, and neither infinite nor NaN."""
    return isinstance(value, int | float) and math.isfinite(value)


def one_of(*choices: str) -> tuple[Callable[[Any], object], str]:
    """The rule that a value is one of the choices."""
    return choices.__contains__, f"one of {', '.join(choices)}"


def like(pattern: str, what: str) -> tuple[Callable[[Any], object], str]:
    """The rule that a text matches the pattern."""
    return lambda text: re.fullmatch(pattern, str(text)), what


RULES: dict[str, tuple[Callable[[Any], object], str]] = {
    **dict.fromkeys(
        ("augmentation.crop_area", "data.crop_area"),
        (
            lambda area: len(area) == 2 and 0 < area[0] <= area[1] <= 1,
            "the smallest and the largest share of an image's area, such as [0.05,1.0], or null",
        ),
    ),
    "optimizer.betas": (
        lambda betas: isinstance(betas, list) and all(map(is_finite, betas)),
        "a list of finite numbers, such as [0.9,0.99]",
    ),
    "train.clip_norm": (lambda norm: 0 < norm < math.inf, "above 0, or null for no clipping"),
    "train.ema_decay": (lambda decay: 0 <= decay < 1, "from 0 to below 1, or null"),
    "run.gpus": (lambda gpus: gpus <= 1 or gpus == int(gpus), "a whole number above 1, or a share of one GPU"),
    "study.stages": (lambda stages: all(trials >= 1 for trials in stages), "numbers of trials of at least 1"),
    "study.confirm": (lambda seeds: 1 <= seeds <= MOST_CONFIRM_SEEDS, f"from 1 to {MOST_CONFIRM_SEEDS}"),
    "study.lengths": (
        lambda lengths: all(0 < length < math.inf and length != 1 for length in lengths),
        "above 0 and not 1, which runs anyway",
    ),
    "study.margin_percent": (lambda percent: 0 < percent < 100, "between 0 and 100"),
    "study.margin": (lambda margin: 0 <= margin < math.inf, "at least 0, or null"),
    "train.precision": one_of("fp32", "bf16"),
    "schedule.shape": one_of("cosine", "linear", "constant", "rsqrt"),
    "run.device": one_of("auto", "cpu", "cuda"),
    "run.wandb": one_of("auto", "online", "offline", "disabled"),
    # Parts of folder names or W&B names; W&B allows 64 characters in a tag.
    "optimizer.name": like(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "up to 64 letters, digits, '.', '_' and '-'"),
    "data.name": like(r"[^/.\0][^/\0]{0,199}", "up to 200 characters without '/'"),
    "scale": like(r"[A-Za-z0-9_-]{1,64}", "up to 64 letters, digits, '_' and '-'"),
    "run.wandb_project": like(r"[^/\\#?%:]{1,128}", "a name that W&B accepts, without / \\ # ? % :"),
}
"""By key, what must be true of a value that is not null, and how a message says so."""


def check_limits(plain: Mapping[str, Any]) -> None:
    """Raise ConfigError, naming the key, for the first value of a resolved config that is out of range."""
    for key, least in AT_LEAST.items():
        value = _at(plain, key)
        if value is not None and not is_finite(value):
            raise ConfigError(f"{key} must be a finite number, but it is {value!r}.")
        if value is not None and value < least:
            raise ConfigError(f"{key} must be at least {least}, but it is {value!r}.")
    for key, (is_met, rule) in RULES.items():
        value = _at(plain, key)
        if value is not None and not is_met(value):
            raise ConfigError(f"{key} must be {rule}, but it is {value!r}.")
    if (trials := sum(plain["study"]["stages"])) > (most := SEEDS_A_REPLICATE - MOST_CONFIRM_SEEDS):
        raise ConfigError(f"study.stages may have at most {most} trials in total, but has {trials}.")
    for key, drawn in plain["study"]["nuisance"].items():
        if not isinstance(drawn, Mapping) or not (drawn.get("choices") or {"low", "high"} <= drawn.keys()):
            raise ConfigError(f"study.nuisance.{key} needs choices, or low and high, but it is {drawn}.")
        if drawn.get("log") and not 0 < drawn["low"] <= drawn["high"]:
            raise ConfigError(f"study.nuisance.{key} is log-uniform, so it needs 0 < low <= high.")
    check_low_bit(plain)
    for key in ("runs_dir", "results_dir", "cache_dir"):
        if not plain["run"][key].strip():
            raise ConfigError(f"run.{key} is empty{' (LION_CACHE)' if key == 'cache_dir' else ''}: name a folder.")


def _at(plain: Mapping[str, Any], key: str) -> Any:
    value: Any = plain
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def check_shared_evenly(micro_batches: int, processes: int, words: str) -> None:
    """Raise ConfigError if a step's micro-batches cannot be shared evenly by these processes, which ``words`` names."""
    if micro_batches % processes:
        raise ConfigError(
            f"{micro_batches} micro-batches a step (train.batch_size / train.micro_batch_size) cannot be shared evenly "
            f"by {words}: choose a smaller train.micro_batch_size, or fewer processes."
        )


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
    words = f"the {processes} processes of run.gpus={run['gpus']} and run.nodes={run['nodes']}"
    check_shared_evenly(train["batch_size"] // train["micro_batch_size"], processes, words)
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
