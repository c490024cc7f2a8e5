"""The schema of every run's config.

YAML files under conf/ hold the values; these dataclasses hold the types, so an unknown or mistyped key is an error.
Nothing here imports torch: a study composes and names all its runs without it.
"""

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf, flag_override

from experiments.harness.errors import ConfigError
from experiments.harness.source_code import ROOT


@dataclass
class ScheduleConfig:
    """The learning rate as a function of the step; see experiments/harness/schedule.py."""

    shape: str = MISSING
    """cosine, linear, constant or rsqrt"""
    warmup_steps: int = 0
    init_factor: float = 0.0
    """learning rate at step 0 of the warm-up, as a share of the peak"""
    end_factor: float = 0.0
    """learning rate after the last step, as a share of the peak (cosine and linear)"""


@dataclass
class TrainConfig:
    """Everything about the training loop that can change a result, down to the last bit."""

    steps: int = MISSING
    batch_size: int = MISSING
    """samples per step, over all processes and micro-batches"""
    micro_batch_size: int = MISSING
    """samples that share one forward pass and one random stream; divides batch_size"""
    init_scale: float = 1.0
    """factor on the initial values of the matrices and kernels that weight decay applies to, except pretrained ones"""
    clip_norm: float | None = None
    ema_decay: float | None = None
    """decay of the averaged weights that evaluation then uses; null: evaluate the weights themselves"""
    log_every: int = MISSING
    evaluate_every: int = MISSING
    sample_every: int | None = None
    """steps between evaluations of the split "samples", for what a model generates; they are part of the test, so
    tuning trials skip them. null: the task has no such split"""
    precision: str = "fp32"
    """fp32 or bf16 (autocast)"""
    tf32: bool = False
    deterministic: bool = True
    compile: bool = False
    threads: int = 1
    """CPU threads of one process: fixed at every scale, since sums over another number of threads round differently"""
    instruction_set: str | None = None
    """avx2 pins the CPU's instruction set, so that rows do not depend on it (arithmetic.py); null: the best there is"""


@dataclass
class FlatnessConfig:
    """Training loss around a run's final weights; see experiments/harness/flatness.py."""

    draws: int = 0
    """random directions; 0 turns the measurement off"""
    std: float = 0.0
    """standard deviation of the noise on a weight, relative to the root mean square of its tensor"""
    samples: int = 0
    """training samples for the loss, without augmentation, the same for every run"""


@dataclass
class StudyConfig:
    """What a study searches and draws, and how it decides; see experiments/study/."""

    contestants: list[str] = field(default_factory=lambda: ["lion", "adamw"])
    """the optimizers compared if the command line sweeps none; others give the study another name"""
    reference: str = "adamw"
    replicates: int = MISSING
    """how many replicates, numbered from 0, give the verdict; one from any other set is exploratory"""
    numbers: str = "next"
    """which of them to run: ``3``, ``0-3``, or ``next``, the first after those that give the verdict"""
    stages: list[int] = MISSING
    """trials per optimizer in each stage of its search; empty: no search, but the experiment's own hyperparameters"""
    confirm: int = MISSING
    """fresh seeds on which a winner is run in each replicate"""
    lengths: list[float] = field(default_factory=list)
    """relative lengths at which the reference's winner is also run, so that a difference can be expressed in steps"""
    nuisance: dict[str, Any] = field(default_factory=dict)
    """what is redrawn in each replicate, the same for all optimizers: by config key either ``{choices: [...]}``, or
    ``{low: ..., high: ...}`` with optional ``log: true`` (log-uniform) and ``integer: true``"""
    primary_metric: str = MISSING
    primary_reason: str = MISSING
    """why this metric decides"""
    validation_metric: str = MISSING
    secondary_metrics: list[str] = MISSING
    """other metrics that get an interval and no verdict; the direction of each is declared in the task's METRICS"""
    headline_metric: str | None = None
    """the secondary metric that the field reports: it gets its own winners, chosen by the same metric on ``val``"""
    margin_percent: float = 10.0
    """a difference is a tie if this percentage of steps, more or fewer, would make up for it"""
    margin: float | None = None
    """the margin in units of the primary metric, for a study that runs no other lengths"""
    margin_reason: str = MISSING
    paper: str | None = None
    """the published cell to compare with: a key of results/paper.yaml"""


@dataclass
class RunConfig:
    """Settings that cannot change a result: folders, logging, workers, device."""

    runs_dir: str = MISSING
    results_dir: str = MISSING
    cache_dir: str = MISSING
    checkpoint_every: int = MISSING
    """steps from one checkpoint to the next"""
    checkpoint_minutes: float | None = None
    """also save after the first step that ends this many minutes after the last checkpoint; null: do not"""
    keep_checkpoints: int = 2
    num_workers: int = 0
    cpus: int = 1
    """CPU cores that a launcher gives to each process of a run"""
    gpus: int | float = 0
    """GPUs of a run on each of its nodes, one process per GPU. Below 1: the share of a GPU that Ray reserves for it"""
    nodes: int = 1
    """machines of a run, for SLURM"""
    shards: int = 1
    """processes over which the weights, gradients and state of one model are sharded (FSDP2); with 1, none are"""
    device: str = "auto"
    """auto (a GPU if there is one), cpu or cuda"""
    fresh: bool = False
    """start over, setting aside earlier runs (make's FRESH=1)"""
    minutes: int | None = None
    """about how long one replicate takes on two idle CPU cores; printed before a study begins. null: unknown"""
    wandb: str = "auto"
    """auto (online if there is a key, else offline), online, offline or disabled"""
    wandb_project: str = MISSING
    study: str = ""
    """the study that requested the run, by the name of its results folder; W&B groups by it"""
    phase: str = ""
    """the phase of the study (search, confirm or length); W&B's job type"""


@dataclass
class DataConfig:
    """Keys that every data set has; a task adds its own."""

    name: str = MISSING
    access: str = "experiments.harness.prepared_data.prepare"
    """the function that opens the set: called with these keys and run.cache_dir, it returns the argument of the task's
    ``build``, which has a ``fingerprint``"""
    fingerprint: str | None = None
    """SHA-256 over the decoded arrays; null: accept what the first source delivers, and use that in the run's name"""
    sources: list[dict[str, Any]] = MISSING
    """alternative sources, tried in order; see experiments/harness/sources.py"""
    download: str | None = None
    """size of the download, such as "139 MB"; printed before it begins"""
    layout: str | None = None
    """the expected contents of a local source's folder; printed if the folder is missing"""


@dataclass
class Config:
    """One run."""

    task: str = MISSING
    scale: str = MISSING
    experiment: str = MISSING
    seed: int = 0
    test: bool = True
    """evaluate the test split once, after the last step; tuning trials never do so"""
    model: dict[str, Any] = MISSING
    data: DataConfig = MISSING
    optimizer: dict[str, Any] = MISSING
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    flatness: FlatnessConfig = field(default_factory=FlatnessConfig)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    study: StudyConfig = field(default_factory=StudyConfig)
    run: RunConfig = field(default_factory=RunConfig)


def processes_on_node(gpus: float) -> int:
    """The processes that a run with ``run.gpus=gpus`` has on each of its nodes."""
    return max(1, int(gpus))


OmegaConf.register_new_resolver("from_root", lambda folder: str(ROOT / folder), replace=True)
# What a run requests from its launcher on each node.
OmegaConf.register_new_resolver("cores", lambda cpus, gpus: cpus * processes_on_node(gpus), replace=True)
OmegaConf.register_new_resolver("devices", lambda gpus, device: 0 if device == "cpu" else gpus, replace=True)
OmegaConf.register_new_resolver("rounded_up", math.ceil, replace=True)  # for launchers without fractional GPUs


def register(name: str, config_class: type) -> None:
    """Register a schema with Hydra as ``base_<name>``, for the defaults list of conf/<name>.yaml."""
    ConfigStore.instance().store(name=f"base_{name}", node=config_class)


def runs_a_replicate(study: Mapping[str, Any], contestants: int) -> int:
    """The number of runs in one replicate: search trials, confirm runs, and the reference's winner at other lengths. An
    upper bound: there are fewer if one trial is also the best by the headline metric.
    """
    winners = contestants * (2 if study["headline_metric"] and study["stages"] else 1)
    confirmed = study["confirm"] * (winners + len(study["lengths"]))
    return int(sum(study["stages"]) * contestants + confirmed)


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain data with interpolations resolved; a missing value is a ConfigError."""
    plain: dict[str, Any] = {}
    try:
        for key in cfg:
            if key != "hydra":
                value = cfg[key]
                if OmegaConf.is_config(value):
                    value = OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
                plain[str(key)] = value
    except Exception as error:
        first_line = str(error).splitlines()[0]
        raise ConfigError(
            f"The config cannot be resolved: {first_line}. (experiment={cfg.get('experiment')})"
        ) from error
    if gone := set(Config.__dataclass_fields__) - set(plain):
        name = min(gone)
        raise ConfigError(f"{name} was removed from the config (~{name}), but every run needs it: leave it in.")
    return plain


def check_keys(cfg: DictConfig) -> None:
    """Raise ConfigError for a key that the schema does not declare, and that Hydra has added because of a ``+``."""
    if unknown := next(_unknown_keys(cfg), None):
        raise ConfigError(f"There is no setting {unknown}, so +{unknown} would change nothing: leave it out.")


def _unknown_keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    schema = OmegaConf.get_type(node)
    for key in map(str, node):
        if key == "hydra" or OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        if is_dataclass(schema) and key not in schema.__dataclass_fields__:
            yield f"{prefix}{key}"
        elif isinstance(child := node[key], DictConfig):
            yield from _unknown_keys(child, f"{prefix}{key}.")


def typed(cfg: DictConfig) -> Any:
    """The config as objects of its task's dataclasses, for a config that ``resolved`` accepts. What no dataclass
    describes, such as ``model`` in most tasks, becomes plain dicts and lists.
    """
    if "hydra" in cfg:
        cfg = deepcopy(cfg)
        with flag_override(cfg, "struct", False):
            cfg.pop("hydra")
    return OmegaConf.to_object(cfg)
