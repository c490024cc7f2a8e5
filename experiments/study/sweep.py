"""The course of a study: tune every optimizer on the same budget, confirm the winners on fresh paired seeds, report.

The sweeper owns *what* runs; any Hydra launcher decides *where*. What a run gave is read from its record and never from
the launcher, so a study that is started again after any accident finds everything that is finished.
"""

import itertools
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from experiments.harness.entry import locate, usable_status
from experiments.harness.errors import ConfigError, SuiteError
from experiments.harness.record import FINISHED, read_status
from experiments.harness.sources import ROOT, sources_digest
from experiments.study.directions import with_directions
from experiments.study.identity import check_folder, study_identity, study_name
from experiments.study.plan import Settings, at_edge, best, extended, grid

LAUNCHES = 3
"""A launch that broke (a lost worker, a lost node) is repeated for what is not finished, at most twice."""

Compose = Callable[[list[str]], DictConfig]
"""Overrides to a run's config, as the launcher's jobs will see it."""


@dataclass(frozen=True)
class Run:
    """One run of a study: what the launcher gets, and where the record lies."""

    overrides: list[str]
    directory: Path

    def status(self) -> dict[str, Any]:
        """Its status.json; ``{"status": "missing"}`` before it has started."""
        return read_status(self.directory) or {"status": "missing"}

    def is_finished(self) -> bool:
        """Complete or diverged: a result."""
        return self.status()["status"] in FINISHED


@dataclass
class Contestant:
    """One optimizer of a study."""

    name: str
    centre: Settings
    lr_multipliers: list[float]
    tuning: dict[Settings, list[Run]] = field(default_factory=dict)
    """one run a tuning seed for each grid point; empty where there is nothing to choose"""
    winner: Settings | None = None
    confirmation: list[Run] = field(default_factory=list)


class Study:
    """Optimizers under one protocol, all else equal."""

    def __init__(self, compose: Compose, overrides: list[str], optimizers: list[str]) -> None:
        """``overrides`` are those that all runs of the study share; no ``optimizers`` stand for the experiment's own.

        Raises ConfigError, before anything is computed, if the study is none or its folder holds another one.
        """
        self._compose, self._overrides = compose, overrides
        cfg = compose(overrides)
        optimizers = optimizers or list(cfg.study.contestants)
        if len({*optimizers}) < len(optimizers):
            raise ConfigError(f"optimizer={','.join(optimizers)} names a contestant twice: name each once.")
        located = {name: locate(compose([*overrides, f"optimizer={name}"])) for name in optimizers}
        configs = {name: plain for name, (plain, _, _) in located.items()}
        self.config, data, _ = located[optimizers[0]]
        self.settings = with_directions(self.config)
        if self.settings["reference"] not in optimizers or len(optimizers) < 2:
            raise ConfigError(
                f"A study compares optimizers with study.reference={self.settings['reference']}, but optimizer="
                f"{','.join(optimizers)}: name it and at least one other, as in optimizer=lion,adamw."
            )
        chosen = [override for override in overrides if override.startswith(("scale=", "experiment="))]
        self.name = study_name(cfg, compose(chosen), overrides, optimizers)
        self.identity = study_identity(configs, data.fingerprint)
        check_folder(self.results, self.identity)
        self.contestants = []
        for name, config in configs.items():
            centre = Settings(config["optimizer"]["lr"], config["optimizer"].get("weight_decay"))
            self.contestants.append(Contestant(name, centre, list(self.settings["lr_multipliers"])))

    @property
    def results(self) -> Path:
        """The folder that the study is published in."""
        return ROOT / self.config["run"]["results_dir"] / self.config["task"] / self.config["scale"] / self.name

    @property
    def suite_digest(self) -> str:
        """The part of the sources' digest that all runs of the study share."""
        return sources_digest(self.config).partition("-")[0]

    def tune(self) -> list[Run]:
        """The runs of every contestant's grid; a grid of one point needs none."""
        for contestant in self.contestants:
            points = grid(contestant.centre, contestant.lr_multipliers, self.settings["decay_multipliers"])
            if len(points) == 1:
                contestant.winner = points[0]
            for point in points if len(points) > 1 else []:
                if point not in contestant.tuning:
                    contestant.tuning[point] = self._runs(contestant.name, point, "tune_seeds", test=False)
        return [run for contestant in self.contestants for runs in contestant.tuning.values() for run in runs]

    def choose(self) -> bool:
        """Find the winners; True if one sits at the edge of its grid."""
        for contestant in self.contestants:
            if contestant.tuning:
                values = {point: self._value(runs) for point, runs in contestant.tuning.items()}
                contestant.winner = best(values, self.settings["validation_better"])
            if contestant.winner is None:
                name = contestant.name
                raise SuiteError(f"Every tuning run of {name} in {self.name} diverged: lower settings.{name}.lr.")
        return any(
            at_edge(contestant.winner, list(contestant.tuning)) for contestant in self.contestants if contestant.winner
        )

    def extend(self) -> None:
        """One more learning rate for every contestant, so that all have had the same number of trials."""
        for contestant in self.contestants:
            rates = sorted({point.lr for point in contestant.tuning})
            assert contestant.winner is not None
            contestant.lr_multipliers = extended(contestant.lr_multipliers, rates.index(contestant.winner.lr))

    def confirm(self) -> list[Run]:
        """The winners on the paired seeds, each evaluated on the test split once."""
        for contestant in self.contestants:
            assert contestant.winner is not None
            contestant.confirmation = self._runs(contestant.name, contestant.winner, "confirm_seeds", test=True)
        # Seed by seed, so that a study that is stopped early has whole pairs.
        return [
            run
            for pair in zip(*(contestant.confirmation for contestant in self.contestants), strict=True)
            for run in pair
        ]

    def _runs(self, name: str, point: Settings, seeds: str, test: bool) -> list[Run]:
        # No part of what the run is: W&B's group, and the folder, which a worker elsewhere must not derive anew.
        told = [f"run.study='{self.name}'", f"run.runs_dir={quoted(ROOT / self.config['run']['runs_dir'])}"]
        common = [*self._overrides, f"optimizer={name}", *point.overrides(), f"test={str(test).lower()}", *told]
        runs = []
        for seed in self.settings[seeds]:
            plain, _, directory = locate(self._compose([*common, f"seed={seed}"]))
            usable_status(directory, plain)  # refuses, or with FRESH=1 sets aside, what other sources made
            runs.append(Run([*common, f"seed={seed}"], directory))
        return runs

    def _value(self, runs: list[Run]) -> float | None:
        """Mean validation metric over a point's seeds; None if one of them diverged."""
        statuses = [run.status() for run in runs]
        if any(status["status"] == "diverged" for status in statuses):
            return None
        return fmean(status["metrics"][self.settings["validation_metric"]] for status in statuses)


def quoted(value: object) -> str:
    """A value as Hydra's command line takes it, whatever characters it has."""
    # A backslash is doubled where a quotation mark follows, that at the end included.
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + (r"\'" if found[2] else ""), str(value))
    return f"'{escaped}'"


def split_sweep(overrides: Sequence[Override]) -> tuple[list[str], list[list[str]]]:
    """The contestants, and the override lists of all studies: a swept ``optimizer`` names contestants, and every
    combination of the other swept values is a study of its own.
    """
    optimizers: list[str] = []
    choices: list[list[str]] = []
    given: set[str] = set()
    for override in overrides:
        key = override.get_key_element()
        if key.lstrip("+~") in given and not key.startswith("run."):
            raise ConfigError(f"{key} is given twice: only one of its values would count. Give it once.")
        given.add(key.lstrip("+~"))
        if override.is_interval_sweep():
            raise ConfigError(f"{override.input_line} has no end of values: name them, as in {key}=1,2.")
        values = (
            list(override.sweep_string_iterator())
            if override.is_sweep_override()
            else [override.get_value_element_as_str()]
        )
        if key == "optimizer":
            optimizers = values
        elif key in ("seed", "test"):
            raise ConfigError(
                f"A study chooses {key} itself: leave it out, or set study.tune_seeds and study.confirm_seeds."
            )
        else:
            choices.append([f"{key}={value}" for value in values])
    return optimizers, [list(combination) for combination in itertools.product(*choices)]


def run_studies(studies: list[Study], launcher: Launcher) -> None:
    """Bring all studies to the end of their confirmation, sharing each launch between them."""
    names = [study.name for study in studies]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"Several of the swept values make one and the same study, {twice[0]}: name each value once.")
    launch(launcher, "tuning", [run for study in studies for run in study.tune()])
    at_edge = [study for study in studies if study.choose()]
    for _ in range(max(study.settings["extensions"] for study in studies)):
        for study in at_edge:
            study.extend()
        launch(launcher, "tuning, extended", [run for study in at_edge for run in study.tune()])
        at_edge = [study for study in at_edge if study.choose()]
    launch(launcher, "confirmation", [run for study in studies for run in study.confirm()])


def launch(launcher: Launcher, phase: str, runs: list[Run]) -> None:
    """Have the launcher finish what is not finished yet; SuiteError, naming the runs, if it cannot."""
    faults: dict[Path, Any] = {}
    for _ in range(LAUNCHES):
        states = [run.status()["status"] for run in runs]
        waiting = [run for run in runs if not run.is_finished()]
        if not waiting:
            return
        print(
            f"{phase}: {len(runs)} runs, {len(runs) - len(waiting)} finished, "
            f"{len(waiting) - states.count('missing')} to continue, {states.count('missing')} to start",
            flush=True,
        )
        try:
            results = launcher.launch([run.overrides for run in waiting], initial_job_idx=0)
            # Of a run that had not even a record, such as where its node cannot read the data.
            faults = {
                run.directory: result._return_value
                for run, result in zip(waiting, results, strict=False)
                if result.status == JobStatus.FAILED
            }
            break
        except ConfigError:
            raise
        except Exception as error:  # whatever a launcher raises when it loses a worker
            print(
                f"The launcher broke ({type(error).__name__}: {error}); launching again what is not finished.",
                flush=True,
            )
            if ray := sys.modules.get("ray"):
                ray.shutdown()  # else what was queued before would hold the runs that are queued now
    failed = [run for run in runs if not run.is_finished()]
    if failed:
        reasons = "\n".join(
            f"  {run.directory}: {run.status().get('reason', faults.get(run.directory, run.status()['status']))}"
            for run in failed
        )
        raise SuiteError(
            f"{len(failed)} of {len(runs)} runs did not finish:\n{reasons}\nThe same command continues the study."
        )
