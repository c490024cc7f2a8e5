"""Find the run of a composed config: its data and the folder of its record."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import get_method
from omegaconf import DictConfig

from experiments.harness.arithmetic import pin_instruction_set
from experiments.harness.config import Config, check_keys, resolved, typed
from experiments.harness.errors import DataError
from experiments.harness.limits import check_conflicts, check_limits
from experiments.harness.offline import cache_of, without_network
from experiments.harness.run_name import result_config, run_id
from experiments.harness.source_code import ROOT, sources_digest


@dataclass(frozen=True)
class Run:
    """One run, as found from its composed config."""

    cfg: Config
    """what the task and the training loop read"""
    plain: dict[str, Any]
    """the same as plain data: what the run's name is computed from, and what its record saves"""
    data: Any
    """opened, and downloaded if necessary"""
    directory: Path
    """of its record"""

    @property
    def digest(self) -> str:
        """Of the source code, as the record saves it."""
        return sources_digest(self.plain)

    @property
    def recorded(self) -> dict[str, Any]:
        """The part of the config that decides the result, as the record saves it."""
        return result_config(self.plain, self.data.fingerprint)


def locate(cfg: DictConfig) -> Run:
    """Find the run of a composed config. Opens its data; raises ConfigError or DataError."""
    check_keys(cfg)
    plain = resolved(cfg)
    check_whole(plain)
    data = opened(plain)
    return Run(typed(cfg), plain, data, directory_of(plain, data.fingerprint))


def check_whole(plain: Mapping[str, Any]) -> None:
    """Raise ConfigError for a resolved config that no run can have."""
    check_limits(plain)
    check_conflicts(plain)


def opened(plain: Mapping[str, Any]) -> Any:
    """What ``data.access`` returns for a resolved config. Pins the instruction set first, since it may load PyTorch."""
    pin_instruction_set(plain["train"]["instruction_set"])
    access = get_method(plain["data"]["access"])
    try:
        with without_network(plain):
            return access(plain["data"], cache_of(plain))
    except DataError as error:
        raise DataError(f"{error}{_missing_layout(plain['data'])}") from error


def directory_of(plain: dict[str, Any], fingerprint: str) -> Path:
    """The directory of the run with this config."""
    return ROOT / plain["run"]["runs_dir"] / plain["task"] / run_id(plain, fingerprint)


def _missing_layout(data: Mapping[str, Any]) -> str:
    """The expected contents of a data set's local folders, if none of them exists."""
    sources = data.get("sources") or []
    folders = [Path(source["path"]).expanduser() for source in sources if source["kind"] == "local"]
    if not data.get("layout") or any(folder.exists() for folder in folders):
        return ""
    return f"\n{data['layout'].rstrip()}"
