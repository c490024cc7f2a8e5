"""Compose the config of a command line from the YAML files under conf/, or from those of a user's task."""

import importlib
import re
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig

from experiments.harness.errors import ConfigError
from experiments.harness.source_code import ROOT, our_tasks, task_package

VALUE = re.compile(r"(?!hydra\.)(seed|test|[A-Za-z_]\w*(\.\w+)+)=(?!\s*\{)")
"""Overrides that do not choose a group, and that replace a value of a run's config instead of merging into one."""
GROUP = re.compile(r"[\w/]+=[\w/]+")
"""Overrides that choose from a group."""


class _Groups(SearchPathPlugin):
    """Makes Hydra also search our conf/ for config groups, for a task whose config is elsewhere."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append it to the task's own search path."""
        search_path.append(provider="lion-reproduction", path=f"file://{ROOT}/conf")


def configs_of(task: str) -> Path:
    """The folder of a task's config ``<name>.yaml``: conf/ for our tasks, the package's own folder conf for a user's.
    Registers the task's schema. Raises ConfigError if there is no such task.
    """
    package = task_package(task)
    try:
        importlib.import_module(f"{package}.config")
    except ModuleNotFoundError as error:
        if not f"{package}.config.".startswith(f"{error.name}."):
            raise  # an import inside the task failed
        ours = ", ".join(our_tasks())
        raise ConfigError(
            f"There is no task {task}: Python finds no {package}.config. Ours are {ours}; for your own, give the "
            "dotted name of its package, such as my_package.my_task, from the folder that contains my_package."
        ) from error
    if package != task:
        return ROOT / "conf"
    Plugins.instance().register(_Groups)
    return Path(str(importlib.import_module(package).__path__[0])) / "conf"


def check_experiments(task: str, arguments: Sequence[str]) -> None:
    """Raise ConfigError if ``arguments`` name an experiment of another of our tasks, whose keys ``task`` lacks."""
    named = [argument.partition("=")[2] for argument in arguments if argument.startswith("experiment=")]
    for experiment in (one.strip() for value in named for one in value.split(",")):
        owner = experiment.partition("/")[0]
        exists = (ROOT / "conf" / "experiment" / f"{experiment}.yaml").exists()
        if task in our_tasks() and owner != task and exists:
            raise ConfigError(
                f"experiment={experiment} is an experiment of {owner}, not of {task}: run it with python -m "
                f"experiments.{owner}."
            )


def composed(task: str, overrides: Sequence[str]) -> DictConfig:
    """The config that the command line of ``task`` would compose from ``overrides``. Hydra composes each choice of
    groups only once (0.1 s); the values are then set in a copy.
    """
    values = [override for override in overrides if VALUE.match(override)]
    groups = [override for override in overrides if not VALUE.match(override)]
    if not all(GROUP.fullmatch(group) for group in groups):  # others, such as +key={...}, must keep their place
        groups, values = list(overrides), []
    cfg = deepcopy(_of_groups(str(configs_of(task)), task.rpartition(".")[2], tuple(groups)))
    set_values(cfg, values)
    return cfg


@cache
def _of_groups(folder: str, name: str, groups: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(folder, version_base="1.3"):
        return compose(name, list(groups))


def set_values(cfg: DictConfig, values: Sequence[str]) -> None:
    """Apply overrides that match VALUE to a composed config, as Hydra would."""
    ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(list(values)), cfg)


@cache
def scales() -> frozenset[str]:
    """The names of the scales."""
    return frozenset(path.stem for path in (ROOT / "conf" / "scale").glob("*.yaml"))


def scale_of(experiment: str) -> str | None:
    """The scale that an experiment under conf/ is for: the word in its name (``lit/gpu``, ``diffusion/gpu_text``), and
    the paper's without one. None for a user's own experiment, which may be for any.
    """
    if not (ROOT / "conf" / "experiment" / f"{experiment}.yaml").exists():
        return None
    return next((word for word in experiment.rpartition("/")[2].split("_") if word in scales()), "paper")
