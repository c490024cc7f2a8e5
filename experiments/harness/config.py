"""The typed shape of every run's config, and the name that a run gets from it.

YAML under conf/ holds the values; these dataclasses hold the types, so that an unknown or mistyped key is an error.
Nothing here imports torch: a study composes and names all its runs without it.
"""

import hashlib
import importlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import MISSING, DictConfig, OmegaConf

from experiments.harness.errors import ConfigError
from experiments.harness.metric import metrics_of
from experiments.harness.sources import ROOT, task_package

# What cannot change a run's result: where it runs and is written, what it is compared with, and under which name. Nor
# can optimizer.space, which a study searches.
NOT_IN_RUN_ID = ("run", "study", "settings", "scale", "experiment")


@dataclass
class ScheduleConfig:
    """Learning rate as a function of the step; see experiments/harness/schedule.py."""

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
    """samples a step, over all processes and micro-batches"""
    micro_batch_size: int = MISSING
    """samples that share one forward pass and one random stream; divides batch_size"""
    init_scale: float = 1.0
    """factor on the initial values of the matrices and kernels that weight decay applies to; pretrained ones stay"""
    clip_norm: float | None = None
    ema_decay: float | None = None
    """decay of the averaged weights that evaluation then uses; null: evaluate the weights themselves"""
    log_every: int = MISSING
    evaluate_every: int = MISSING
    sample_every: int | None = None
    """steps between evaluations of the split "samples", for what a model generates; they are part of the test, so that
    tuning trials do without. null: the task has no such split"""
    precision: str = "fp32"
    """fp32 or bf16 (autocast)"""
    tf32: bool = False
    deterministic: bool = True
    compile: bool = False
    threads: int = 1
    """CPU threads of one process: a number at every scale, since sums over another number of threads have other bits"""
    instruction_set: str | None = None
    """avx2 pins what a CPU computes with, so that rows do not depend on the machine; null: the processor's best. See
    experiments/harness/arithmetic.py"""


@dataclass
class FlatnessConfig:
    """Training loss around a run's final weights; see experiments/harness/flatness.py."""

    draws: int = 0
    """random directions; 0 measures nothing"""
    std: float = 0.0
    """standard deviation of the noise on a weight, as a share of the root mean square of its tensor"""
    samples: int = 0
    """training samples, without augmentation, that the loss is taken over: the same for every run"""


@dataclass
class StudyConfig:
    """What a study searches, draws and decides; see experiments/study/."""

    contestants: list[str] = field(default_factory=lambda: ["lion", "adamw"])
    """who competes where the command line sweeps no optimizer; others make a study of another name"""
    reference: str = "adamw"
    replicates: int = MISSING
    """how many give the verdict: those numbered from 0; a study of another number is exploratory"""
    numbers: str = "next"
    """which of them to run: ``3``, ``0-3``, or the first after those that give the verdict"""
    stages: list[int] = MISSING
    """trials of an optimizer in each stage of its search; none: the experiment's settings are not searched"""
    confirm: int = MISSING
    """fresh seeds that a winner is run on, in each replicate"""
    lengths: list[float] = field(default_factory=list)
    """multiples of the run's steps that the reference's winner is run for too, so that a difference is told in steps"""
    nuisance: dict[str, Any] = field(default_factory=dict)
    """what is drawn anew in each replicate, the same for all optimizers: by config key either ``{choices: [...]}``, or
    ``{low: ..., high: ...}`` with ``log: true`` (log-uniform) and ``integer: true`` where it is so"""
    primary_metric: str = MISSING
    primary_reason: str = MISSING
    """why this metric decides"""
    validation_metric: str = MISSING
    secondary_metrics: list[str] = MISSING
    """other metrics that get an interval and no verdict; the direction of each is declared by the task's metrics.py"""
    headline_metric: str | None = None
    """that of them by which the field compares: it gets winners of its own, chosen by the same metric of ``val``"""
    margin_percent: float = 10.0
    """a difference that so many per cent of steps would make up for, either way, is a tie"""
    margin: float | None = None
    """the same in units of the primary metric, for a study that runs no other lengths"""
    margin_reason: str = MISSING
    paper: str | None = None
    """the published cell that stands beside ours: a key of results/paper.yaml"""


@dataclass
class RunConfig:
    """What cannot change a result: places, logging, workers, device."""

    runs_dir: str = MISSING
    results_dir: str = MISSING
    cache_dir: str = MISSING
    checkpoint_every: int = MISSING
    keep_checkpoints: int = 2
    num_workers: int = 0
    cpus: int = 1
    """CPU cores that a launcher gives to one run"""
    gpus: int | float = 0
    """GPUs that a launcher gives to one run; Ray takes shares"""
    shards: int = 1
    """processes that share the weights, gradients and state of one model out (FSDP); 1: each has all of them"""
    device: str = "auto"
    """auto (a GPU if there is one), cpu or cuda"""
    fresh: bool = False
    """start anew, setting aside what was run before (make's FRESH=1)"""
    minutes: int | None = None
    """that one replicate takes on two idle CPU cores, about; said before a study begins. null: not known"""
    wandb: str = "auto"
    """auto (online when a key is there, else offline), online, offline or disabled"""
    wandb_project: str = MISSING
    study: str = ""
    """the study that asks for the run, by the name of its folder of results; W&B groups by it"""
    phase: str = ""
    """what the study asks for it for (search, confirm or length), W&B's job type"""


@dataclass
class DataConfig:
    """Keys that every data set has; a task adds its own."""

    name: str = MISSING
    access: str = "experiments.harness.prepared_data.prepare"
    """the function that opens the set: called with these keys and run.cache_dir, it returns what the task's ``build``
    takes, with its ``fingerprint``"""
    fingerprint: str | None = None
    """sha256 over the decoded arrays; null: whatever the first place gave, which then enters the run's name"""
    places: list[dict[str, Any]] = MISSING
    download: str | None = None
    """how much is fetched, such as "139 MB": said before that begins"""
    layout: str | None = None
    """what the folder of a local place has to hold: said where it is missing"""


@dataclass
class Config:
    """One run."""

    task: str = MISSING
    scale: str = MISSING
    experiment: str = MISSING
    seed: int = 0
    test: bool = True
    """evaluate the test split once, after the last step; tuning trials never do"""
    model: dict[str, Any] = MISSING
    data: DataConfig = MISSING
    optimizer: dict[str, Any] = MISSING
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    flatness: FlatnessConfig = field(default_factory=FlatnessConfig)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    study: StudyConfig = field(default_factory=StudyConfig)
    run: RunConfig = field(default_factory=RunConfig)


OmegaConf.register_new_resolver("from_root", lambda folder: str(ROOT / folder), replace=True)
OmegaConf.register_new_resolver("rounded_up", math.ceil, replace=True)  # for the launchers that know no shares


def register(name: str, config_class: type) -> None:
    """Make a schema known to Hydra as ``base_<name>``, for the defaults list of conf/<name>.yaml."""
    ConfigStore.instance().store(name=f"base_{name}", node=config_class)


class _Groups(SearchPathPlugin):
    """Has Hydra look for the groups in our conf/ too, where the config of a task lies elsewhere."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Put it behind the task's own."""
        search_path.append(provider="lion-reproduction", path=f"file://{ROOT}/conf")


def configs_of(task: str) -> Path:
    """The folder of a task's config ``<name>.yaml``: ours is in conf/, a user's own in the folder conf of its package.
    Registers its schema.

    Raises ConfigError where there is no such task.
    """
    package = task_package(task)
    try:
        importlib.import_module(f"{package}.config")
    except ModuleNotFoundError as error:
        if not f"{package}.config.".startswith(f"{error.name}."):
            raise  # the task's own imports
        ours = ", ".join(sorted(path.parent.name for path in (ROOT / "experiments").glob("*/metrics.py")))
        raise ConfigError(
            f"There is no task {task}: Python finds no {package}.config. Ours are {ours}; your own is the dotted name "
            "of its package, such as my_package.my_task, from the folder that my_package lies in."
        ) from error
    if package != task:
        return ROOT / "conf"
    Plugins.instance().register(_Groups)
    return Path(str(importlib.import_module(package).__path__[0])) / "conf"


def composed(task: str, overrides: Sequence[str]) -> DictConfig:
    """What the command line of ``task`` composes from ``overrides``, for those that start no run."""
    with initialize_config_dir(str(configs_of(task)), version_base="1.3"):
        return compose(task.rpartition(".")[2], list(overrides))


def check(cfg: DictConfig) -> None:
    """Raise ConfigError, naming the key, for values that do not go together; limits.py has those of a single key."""
    train, flatness = cfg.train, cfg.flatness
    if train.sample_every and not any("samples" in metric.splits for metric in metrics_of(cfg.task).values()):
        raise ConfigError(
            f"train.sample_every={train.sample_every}, but {cfg.task} generates no samples: set it to null."
        )
    if train.batch_size % train.micro_batch_size:
        raise ConfigError(
            f"train.batch_size={train.batch_size} is not a multiple of train.micro_batch_size="
            f"{train.micro_batch_size}: choose a micro-batch that divides the batch."
        )
    if cfg.schedule.warmup_steps >= train.steps:
        raise ConfigError(
            f"schedule.warmup_steps={cfg.schedule.warmup_steps} leaves no step of train.steps={train.steps} "
            "at the peak learning rate: shorten the warm-up."
        )
    needs_all_weights = {
        "train.ema_decay": train.ema_decay is not None,
        "train.compile": train.compile,
        "flatness.draws": flatness.draws > 0,
    }
    for key, asked in needs_all_weights.items():
        if asked and cfg.run.shards > 1:
            raise ConfigError(
                f"run.shards={cfg.run.shards} shares the weights of a model out, but {key}="
                f"{OmegaConf.select(cfg, key)} needs all of them in one place: turn it off, or set run.shards to 1."
            )
    if missing := {"name", "_target_", "lr"} - {key for key, value in cfg.optimizer.items() if value is not None}:
        raise ConfigError(f"optimizer lacks {', '.join(sorted(missing))}; conf/optimizer/lion.yaml shows how.")
    if flatness.draws and not (flatness.std > 0 and flatness.samples > 0):
        raise ConfigError(
            f"flatness.draws={flatness.draws} needs flatness.std and flatness.samples above 0, but they are "
            f"{flatness.std} and {flatness.samples}."
        )


def runs_a_replicate(study: Mapping[str, Any], contestants: int) -> int:
    """All runs of one replicate: searches, confirmations, and the reference's winner at other lengths. Fewer where one
    trial is the best by the headline's metric too.
    """
    winners = contestants * (2 if study["headline_metric"] and study["stages"] else 1)
    confirmed = study["confirm"] * (winners + len(study["lengths"]))
    return int(sum(study["stages"]) * contestants + confirmed)


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain data, interpolations filled in. An optimizer without settings is a ConfigError."""
    try:
        own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
        plain = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    except Exception as error:
        first_line = str(error).splitlines()[0]
        raise ConfigError(
            f"The config cannot be resolved: {first_line}. (experiment={cfg.get('experiment')})"
        ) from error
    assert isinstance(plain, dict)
    if gone := set(Config.__dataclass_fields__) - set(plain):
        name = min(gone)
        raise ConfigError(f"{name} was taken out of the config (~{name}), but every run has it: leave it as it is.")
    return {str(key): value for key, value in plain.items()}


def result_config(plain: dict[str, Any], fingerprint: str) -> dict[str, Any]:
    """The part of a resolved config that decides a run's result: what its name is a hash of, and what is saved."""
    kept = {key: value for key, value in plain.items() if key not in NOT_IN_RUN_ID}
    data = _without_places(plain["data"])
    optimizer = {key: value for key, value in plain["optimizer"].items() if key != "space"}
    return {**kept, "data": {**data, "fingerprint": fingerprint}, "optimizer": optimizer}


def _without_places(data: dict[str, Any]) -> dict[str, Any]:
    """A data set, and the sets within it, without how and where they are to be had."""
    return {
        key: _without_places(value) if isinstance(value, dict) else value
        for key, value in data.items()
        if key not in ("access", "download", "layout") and not key.endswith("places")
    }


def same_numbers(value: Any) -> Any:
    """A copy in which 0.0 is written like 0: what is equal has one name."""
    if isinstance(value, dict):
        return {key: same_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [same_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def run_id(plain: dict[str, Any], fingerprint: str) -> str:
    """``<optimizer>-s<seed>-<10 hex>``: the same content has the same name, wherever and whenever it runs."""
    return name_of(result_config(plain, fingerprint))


def name_of(recorded: dict[str, Any]) -> str:
    """The same for what ``result_config`` gave, as config.yaml of the run holds it."""
    content = json.dumps(same_numbers(recorded), sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:10]
    return f"{recorded['optimizer']['name']}-s{recorded['seed']}-{digest}"
