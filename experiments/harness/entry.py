"""``python -m experiments.<task>``: from the command line to a finished run.

torch is imported only if a run really has to train: for a completed run the command returns at once.
"""

import atexit
import gc
import importlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.harness.composition import check_experiments, configs_of
from experiments.harness.damage import find_damage
from experiments.harness.errors import Diverged, RunError, SuiteError
from experiments.harness.explained import explained, one_sentence
from experiments.harness.metric import worst
from experiments.harness.offline import without_network
from experiments.harness.processes import (
    check_nodes,
    is_launched,
    is_main,
    leave_at_once,
    needs_processes,
    run_processes,
)
from experiments.harness.record import FINISHED, RunRecord, last_values, read_status, set_aside, take_lock
from experiments.harness.run import Run, locate
from experiments.harness.signals import EXIT_CODE, leave_when_asked
from experiments.harness.source_code import ROOT, sources_digest
from experiments.harness.tracking import Tracker, description_of


def main(task: str) -> None:
    """Parse the command line with Hydra and execute it: a run, a sweep or a study of ``task``."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # makes Hydra raise errors, not print them; see one_sentence
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # otherwise every attempt to reach the hub is reported twice
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # equal lines from two runs are not duplicates
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # under `uv run`, workers would write to a copy of the checkout
    # Despite its name, 0 makes a Ray that is started here listen on 127.0.0.1 only.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))  # where Hydra finds hydra_plugins, whatever the current directory
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot print a character must not end the run
    # Hydra accepts overrides only on one side of the flags.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: bool(re.match(r"~|(?!-).*=", word)))
    leave_when_asked()
    try:
        with one_sentence(task):
            folder = configs_of(task)
            check_experiments(task, sys.argv[1:])
            hydra.main(config_path=str(folder), config_name=task.rpartition(".")[2], version_base="1.3")(run)()
    except SystemExit as request:
        if request.code == EXIT_CODE:
            fresh = any("run.fresh=true" in argument for argument in sys.argv)
            command = "the same command without FRESH=1 (run.fresh=true)" if fresh else "the same command"
            print(f"Stopped; {command} continues it.", file=sys.stderr)
        if is_launched():
            leave_at_once(request.code)
        raise
    if is_launched():
        leave_at_once(0)


def run(cfg: DictConfig) -> float | None:
    """Hydra's job: ``execute``, with a SuiteError as one sentence and exit code 2. A sweep gets the error itself."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return execute(cfg)
    with one_sentence():
        return execute(cfg)


def execute(cfg: DictConfig) -> float | None:
    """Run or resume one run to its end; returns its last validation metric, or the worst value if it diverged."""
    run = locate(cfg)
    check_nodes(run.cfg.run.nodes)
    status = usable_status(run.directory, run.plain)
    if status is None or status["status"] not in FINISHED:
        if needs_processes(run.plain["run"]):
            _train_in_processes(cfg, run)
        else:
            _train_and_record(run)
    if not is_main(run.plain["run"]):
        return None
    status = read_status(run.directory)
    assert status, f"{run.directory} has no status after its run"
    if not run.cfg.run.study:
        print(summary_line(run.directory.name, status), flush=True)
    metric = run.cfg.study.validation_metric
    value: float | None = status["metrics"].get(metric)
    return value if status["status"] == "complete" else worst(run.cfg.task, metric)


def _train_and_record(run: Run) -> None:
    """Train, and record the outcome, whatever it is, in status.json and in W&B."""
    _import_training()
    from experiments.harness.train import train

    plain, directory, record = run.plain, run.directory, None
    with ExitStack() as stack:
        stack.enter_context(without_network(plain))
        if is_main(plain["run"]):
            record = stack.enter_context(RunRecord(directory, run.digest, run.recorded))
        if record and record.finished:
            if is_launched():
                sys.exit(EXIT_CODE)  # ends the other processes too, which wait for this one
            return
        if plain["run"]["study"]:
            stack.enter_context(words_of_its_own(directory))
        tracker = Tracker(directory, plain["run"]["wandb"] if record else "disabled", description_of(plain))

        def finish(status: str, **details: Any) -> None:
            if record:
                metrics = last_values(directory)
                record.set_status(status, metrics=metrics, **details)
                tracker.finish(status, metrics)

        try:
            train(run, record, tracker)
        except Diverged as divergence:
            finish("diverged", step=divergence.step, reason=str(divergence))
        except (SystemExit, KeyboardInterrupt):  # asked to stop
            finish("running")
            raise
        except BaseException as error:
            said = explained(error) if isinstance(error, HydraException) else f"{type(error).__name__}: {error}"
            finish("failed", reason=said)
            raise
        else:
            finish("complete")


def _locate_and_train(cfg: DictConfig) -> None:
    """What each process of several does."""
    _train_and_record(locate(cfg))


def _train_in_processes(cfg: DictConfig, run: Run) -> None:
    """``_train_and_record`` in several processes; if any of them fails, that is recorded too."""
    try:
        stopped = run_processes(_locate_and_train, cfg)
    except SuiteError as error:
        if is_main(run.plain["run"]):
            with RunRecord(run.directory, run.digest, run.recorded) as record:
                if not record.finished:
                    record.set_status("failed", metrics=last_values(run.directory), reason=str(error))
        raise
    status = read_status(run.directory)
    if stopped and is_main(run.plain["run"]) and not (status and status["status"] in FINISHED):
        sys.exit(EXIT_CODE)


_BEGUN_ANEW: set[Path] = set()
"""Runs that ``run.fresh`` has already set aside in this process; what took their place is kept."""


def usable_status(directory: Path, plain: dict[str, Any]) -> dict[str, Any] | None:
    """The run's status, or None if it has not started.

    A run made by different source code than this checkout's is a RunError; with ``run.fresh`` any run is set aside,
    once per process. A finished run whose record was damaged later is no longer finished: it continues from the last
    checkpoint that matches.
    """
    status, digest = read_status(directory), sources_digest(plain)
    if plain["run"]["fresh"] and directory not in _BEGUN_ANEW:
        if is_main(plain["run"]):
            set_aside(directory)
        _BEGUN_ANEW.add(directory)
        return None
    if status is None:
        return None
    if status.get("sources_digest") != digest:
        if status["status"] == "failed" and not last_values(directory):  # it never took a step, so nothing is mixed
            if is_main(plain["run"]):
                set_aside(directory)
            return None
        raise RunError(
            f"The run {directory} was made by different source code (digest {status.get('sources_digest')}, here "
            f"{digest}). FRESH=1 (run.fresh=true) sets it aside and starts over."
        )
    if status["status"] in FINISHED and (damage := find_damage(directory, status)):
        if is_main(plain["run"]):
            print(f"The record of the finished run {directory} is damaged ({damage}): its last part is run again.")
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
    """Send the output of a study's run, tracebacks included, to log.txt in its folder; parallel runs are not mixed."""
    directory.mkdir(parents=True, exist_ok=True)  # this may not be the process that writes the record
    with (directory / "log.txt").open("a", encoding="utf-8", buffering=1) as file, ExitStack() as stack:
        stack.enter_context(redirect_stdout(file))
        stack.enter_context(redirect_stderr(file))
        for handler in logging.root.handlers:
            if isinstance(handler, logging.StreamHandler) and (before := handler.setStream(file)):
                stack.callback(handler.setStream, before)
        try:
            yield
        except Exception:  # whatever a run raises goes to its log too
            traceback.print_exc()
            raise


@cache
def _import_training() -> None:
    """Import what training needs. It stays, so it is exempt from garbage collection, which took 10 to 20 % of a run's
    start. Later, that would include the model of a finished run, whose references form a cycle.
    """
    gc.disable()
    try:
        importlib.import_module("experiments.harness.train")
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # Triton reports what is never collected as leaks
        gc.enable()
