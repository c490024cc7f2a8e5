"""``python -m experiments.<task>``: from the command line to one finished run.

torch is imported only once a run really has to train: a run that is complete already answers at once.
"""

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from io import TextIOWrapper
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.harness.arithmetic import pin_instruction_set
from experiments.harness.config import Config, check, configs_of, resolved, result_config, run_id
from experiments.harness.damage import find_damage
from experiments.harness.errors import DISK_FULL, DataError, RunError, SuiteError
from experiments.harness.explained import explained
from experiments.harness.interrupt import EXIT_CODE, leave_when_asked
from experiments.harness.limits import check_limits
from experiments.harness.metric import worst
from experiments.harness.offline import without_network
from experiments.harness.record import FINISHED, RunRecord, last_values, read_status, set_aside, take_lock
from experiments.harness.sources import ROOT, sources_digest
from experiments.harness.tracking import Tracker, description_of

IS_MAIN_PROCESS = os.environ.get("RANK", "0") == "0"
"""The process of a distributed run (accelerate launch, torchrun) that holds the record."""


def main(task: str) -> None:
    """Read the command line with Hydra and execute what it says: a run, a sweep or a study of ``task``."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises what it would else print; see one_sentence
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # else every attempt to reach the hub is told twice
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # two runs that say the same are not one
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # under `uv run`, workers would write to a copy of the checkout
    # Ray's own name for it: a Ray that is started here listens on 127.0.0.1 alone.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))  # where Hydra looks for hydra_plugins, whatever folder one types in
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character is no reason to end with a fault
    sys.argv[1:] = sorted(sys.argv[1:], key=_is_override)  # Hydra takes them on one side of a flag only
    leave_when_asked()
    try:
        with one_sentence():
            folder = configs_of(task)
            hydra.main(config_path=str(folder), config_name=task.rpartition(".")[2], version_base="1.3")(run)()
    except SystemExit as request:
        if request.code == EXIT_CODE:
            anew = any("run.fresh=true" in argument for argument in sys.argv)
            command = "the same command without FRESH=1 (run.fresh=true)" if anew else "the same command"
            print(f"Stopped; {command} continues it.", file=sys.stderr)
        raise


def _is_override(argument: str) -> bool:
    return argument.startswith("~") or ("=" in argument and not argument.startswith("-"))


def run(cfg: DictConfig) -> float | None:
    """Hydra's job: ``execute``, with a SuiteError as one sentence and exit code 2. Inside a sweep it is raised, for the
    sweep to report.
    """
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return execute(cfg)
    with one_sentence():
        return execute(cfg)


@contextmanager
def one_sentence(after: str = "") -> Iterator[None]:
    """A SuiteError, or a full disk, as a sentence on stderr and exit code 2, also where Ray hands it on."""
    try:
        yield
    except (SuiteError, HydraException, OSError) as error:
        fault = getattr(error, "cause", error)
        if isinstance(fault, HydraException):
            fault = explained(fault)
        elif isinstance(error, OSError) and error.errno not in DISK_FULL:
            raise
        print(f"error: {fault}{after}", file=sys.stderr)
        sys.exit(2)


def execute(cfg: DictConfig) -> float | None:
    """Bring one run to its end, from wherever it is; returns its last validation metric, the worst if it diverged."""
    plain, data, directory = locate(cfg)
    status = usable_status(directory, plain)
    if status is None or status["status"] not in FINISHED:
        with without_network(plain, cache_of(plain)):
            _train_and_record(cast(Config, cfg), plain, data, directory)
    if not IS_MAIN_PROCESS:
        return None
    status = read_status(directory)
    assert status, f"{directory} has no status after its run"
    if not plain["run"]["study"]:
        print(summary_line(directory.name, status), flush=True)
    metric = plain["study"]["validation_metric"]
    value: float | None = status["metrics"].get(metric)
    return value if status["status"] == "complete" else worst(plain["task"], metric)


def locate(cfg: DictConfig) -> tuple[dict[str, Any], Any, Path]:
    """The resolved config, its data (fetched if they are not there yet), and the run's directory."""
    plain = resolved(cfg)
    check_limits(plain)
    check(cfg)
    pin_instruction_set(plain["train"]["instruction_set"])  # before anything loads PyTorch
    module, _, function = plain["data"]["access"].rpartition(".")
    access = getattr(importlib.import_module(module), function)
    try:
        with without_network(plain, cache_of(plain)):
            data = access(plain["data"], cache_of(plain))
    except DataError as error:
        raise DataError(f"{error}{_missing_layout(plain['data'])}") from error
    return plain, data, ROOT / plain["run"]["runs_dir"] / plain["task"] / run_id(plain, data.fingerprint)


def cache_of(plain: Mapping[str, Any]) -> Path:
    """The folder that a run of this config keeps its data in."""
    return ROOT / Path(plain["run"]["cache_dir"]).expanduser()


def _missing_layout(data: Mapping[str, Any]) -> str:
    """What would have to lie in the folders of a data set, where none of them is there."""
    places = data.get("places") or []
    folders = [Path(place["path"]).expanduser() for place in places if place["kind"] == "local"]
    if not data.get("layout") or any(folder.exists() for folder in folders):
        return ""
    return f"\n{data['layout'].rstrip()}"


_BEGUN_ANEW: set[Path] = set()
"""Runs that ``run.fresh`` has set aside in this process: what took their place is to be kept."""


def usable_status(directory: Path, plain: dict[str, Any]) -> dict[str, Any] | None:
    """The run's status, or None where none has started.

    A run that other sources than this checkout's have made is a RunError; with ``run.fresh`` any run is set aside, once
    by a process. One whose record was damaged after its end is not finished any more: it continues from the last
    checkpoint that fits.
    """
    status, digest = read_status(directory), sources_digest(plain)
    if plain["run"]["fresh"] and directory not in _BEGUN_ANEW:
        if IS_MAIN_PROCESS:
            set_aside(directory)
        _BEGUN_ANEW.add(directory)
        return None
    if status is None:
        return None
    if status.get("sources_digest") != digest:
        raise RunError(
            f"The run {directory} was made by other sources (digest {status.get('sources_digest')}, here {digest}). "
            "FRESH=1 (run.fresh=true) sets it aside and starts anew."
        )
    if status["status"] in FINISHED and (damage := find_damage(directory, status)):
        if IS_MAIN_PROCESS:
            print(f"The record of the finished run {directory} is damaged ({damage}): its end is computed again.")
            with take_lock(directory):
                (directory / "status.json").unlink(missing_ok=True)
        return None
    return status


def summary_line(name: str, status: dict[str, Any]) -> str:
    """How a run ended, in one line."""
    if status["status"] == "diverged":
        return f"{name}: diverged, {status['reason']}"
    values = {key: value for key, value in status["metrics"].items() if key.startswith(("val/", "test/"))}
    return f"{name}: {status['status']}, {', '.join(f'{key} {value:.4g}' for key, value in values.items())}"


@contextmanager
def words_of_its_own(directory: Path) -> Iterator[None]:
    """What a run of a study says, tracebacks too, goes to log.txt in its folder: side by side, nobody would hear it."""
    with (directory / "log.txt").open("a", encoding="utf-8", buffering=1) as file, ExitStack() as stack:
        stack.enter_context(redirect_stdout(file))
        stack.enter_context(redirect_stderr(file))
        for handler in logging.root.handlers:
            if isinstance(handler, logging.StreamHandler) and (before := handler.setStream(file)):
                stack.callback(handler.setStream, before)
        try:
            yield
        except Exception:  # whatever a run may raise is written down here, and raised
            traceback.print_exc()
            raise


def _train_and_record(cfg: Config, plain: dict[str, Any], data: Any, directory: Path) -> None:
    """Train, and leave the outcome in status.json and with W&B, whatever it is."""
    from experiments.harness.divergence import Diverged
    from experiments.harness.train import train

    digest, record = sources_digest(plain), None
    if IS_MAIN_PROCESS:
        record = RunRecord(directory, digest, result_config(plain, data.fingerprint))
    with record or nullcontext(), ExitStack() as own_words:
        if record and record.finished:
            return
        if record and plain["run"]["study"]:
            own_words.enter_context(words_of_its_own(directory))
        tracker = Tracker(directory, plain["run"]["wandb"] if record else "disabled", description_of(plain))

        def finish(status: str, **details: Any) -> None:
            if record:
                metrics = last_values(directory)
                record.set_status(status, metrics=metrics, **details)
                tracker.finish(status, metrics)

        try:
            train(cfg, data, directory, digest, record, tracker)
        except Diverged as divergence:
            finish("diverged", step=divergence.step, reason=str(divergence))
        except (SystemExit, KeyboardInterrupt):  # it was asked to leave
            finish("running")
            raise
        except BaseException as error:
            finish("failed", reason=f"{type(error).__name__}: {error}")
            raise
        else:
            finish("complete")
