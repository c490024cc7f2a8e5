"""Run studies: search in all replicates at once, stage by stage, then run the winners on fresh seeds.

The sweeper decides *what* runs; any Hydra launcher decides *where*. Results are read from the runs' records, never from
the launcher, so a study that is restarted after a failure finds everything that is already finished.
"""

import itertools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf
from rich.console import Console

from experiments.harness.config import runs_a_replicate
from experiments.harness.errors import ConfigError, SuiteError
from experiments.harness.record import SUPERSEDED, read_status
from experiments.harness.source_code import ROOT
from experiments.study.course import Course, PlannedRun
from experiments.study.directions import with_directions
from experiments.study.identity import check_folder, check_source_code, study_identity, study_name
from experiments.study.naming import Compose, Naming
from experiments.study.progress import Progress
from experiments.study.replicates import numbers_of, read_replicate, replicate_path
from experiments.study.search import space_of

LAUNCHES = 3
"""A failed launch (a lost worker or node) is repeated for the unfinished runs, at most twice."""


class Study:
    """Optimizers compared under one protocol, with everything else equal."""

    def __init__(self, compose: Compose, overrides: list[str], optimizers: list[str]) -> None:
        """``overrides`` are shared by all runs of the study; empty ``optimizers`` mean the experiment's own
        contestants.

        Raises ConfigError, before anything is computed, if the study is invalid or its folder holds another study.
        """
        cfg, naming = compose(overrides), Naming(compose)
        optimizers = optimizers or list(cfg.study.contestants)
        if len({*optimizers}) < len(optimizers):
            raise ConfigError(f"optimizer={','.join(optimizers)} lists a contestant twice: list each once.")
        of_each = {name: [*overrides, f"optimizer={name}"] for name in optimizers}
        self.config = naming.resolved(of_each[optimizers[0]])
        self.settings = with_directions(self.config)
        if self.settings["reference"] not in optimizers or len(optimizers) < 2:
            raise ConfigError(
                f"A study compares optimizers with study.reference={self.settings['reference']}, but optimizer="
                f"{','.join(optimizers)}: name it and at least one other, as in optimizer=lion,adamw."
            )
        is_tuned = bool(self.settings["stages"])
        for name in optimizers if not is_tuned else []:
            unresolved = str(OmegaConf.to_container(compose(of_each[name]).optimizer))
            used = {*re.findall(r"settings\.(\w+)\.", unresolved)} or {name}  # those of lion, for lion_8bit
            for missing in sorted(used - self.config["settings"].keys()):
                raise ConfigError(
                    f"{self.config['experiment']} has no settings for {name}, and study.stages=[] does not search for "
                    f"them: add settings.{missing} with lr, weight_decay and so on, or search with study=staged."
                )
        located = {name: naming.locate(given) for name, given in of_each.items()}  # opens the data
        configs = {name: plain for name, (plain, _, _) in located.items()}
        _, fingerprint, _ = located[optimizers[0]]
        self.spaces = {name: space_of(config["optimizer"]) if is_tuned else None for name, config in configs.items()}
        spaces = [space for space in self.spaces.values() if space]
        searched = {f"optimizer.{dimension.argument}" for space in spaces for dimension in space.dimensions}
        given = {override.partition("=")[0].lstrip("+") for override in overrides}
        if ignored := sorted(searched & given):
            raise ConfigError(
                f"{ignored[0]} is searched by this study, so a value for it would be ignored: leave it out, or choose "
                "the space in the optimizer's file."
            )
        chosen = [override for override in overrides if override.startswith(("scale=", "experiment="))]
        self.name = study_name(cfg, compose(chosen), overrides, optimizers)
        self.identity = study_identity(configs, fingerprint)
        check_folder(self.results, self.identity)
        # Not part of a run's identity: W&B's group, and the folder, which a worker on another machine must not derive.
        told = [f"run.study='{self.name}'", f"run.runs_dir={quoted(ROOT / self.config['run']['runs_dir'])}"]
        self.courses = [
            Course(number, naming, [*overrides, *told], self.spaces, self.settings) for number in self._numbers(configs)
        ]

    def _numbers(self, configs: Mapping[str, Mapping[str, Any]]) -> list[int]:
        """The replicates to run: those requested and not yet published, or with ``run.fresh`` all those requested."""
        asked, declared = self.settings["numbers"], self.settings["replicates"]
        published = [number for number in range(declared) if replicate_path(self.results, number).exists()]
        try:
            numbers = [self._following(published)] if asked == "next" else list(numbers_of(asked))
        except ValueError as error:
            raise ConfigError(f"study.numbers={asked} (make's REPLICATES): {error}") from error
        if self.config["run"]["fresh"]:
            return numbers
        check_source_code(self.results, published, configs)
        return [number for number in numbers if not replicate_path(self.results, number).exists()]

    def _following(self, published: Sequence[int]) -> int:
        """The first replicate after the declared ones, a reproduction, that nobody else has published; with nothing to
        reproduce, from 0. One made here counts, so that a command repeated after its end has nothing to do, and so does
        one whose runs were since set aside by ``run.fresh``.
        """
        first = self.settings["replicates"] if len(published) > 1 else 0
        runs = ROOT / self.config["run"]["runs_dir"] / self.config["task"]

        def is_made_elsewhere(path: Path) -> bool:
            if not path.exists():
                return False
            run = read_replicate(path).runs[0]
            here = [runs / run.run_id, *(runs / SUPERSEDED).glob(f"{run.run_id}-*")]
            return json.loads(run.status) not in map(read_status, here)  # a status contains times

        return next(n for n in itertools.count(first) if not is_made_elsewhere(replicate_path(self.results, n)))

    @property
    def results(self) -> Path:
        """The folder in which the study is published."""
        return ROOT / self.config["run"]["results_dir"] / self.config["task"] / self.config["scale"] / self.name


def quoted(value: object) -> str:
    """A value quoted for Hydra's command line, whatever characters it contains."""
    # A backslash is doubled if a quotation mark follows, including the closing one.
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + (r"\'" if found[2] else ""), str(value))
    return f"'{escaped}'"


def split_sweep(overrides: Sequence[Override]) -> tuple[list[str], list[list[str]]]:
    """The contestants, and the override lists of all studies: a swept ``optimizer`` lists the contestants, and every
    combination of the other swept values is a separate study.
    """
    optimizers: list[str] = []
    choices: list[list[str]] = []
    given: set[str] = set()
    for override in overrides:
        key = override.get_key_element()
        if key.lstrip("+~") in given and not key.startswith("run."):
            raise ConfigError(f"{key} is given twice, but only one value would count: give it once.")
        given.add(key.lstrip("+~"))
        if override.is_interval_sweep():
            raise ConfigError(f"{override.input_line} has infinitely many values: list them, as in {key}=1,2.")
        values = (
            list(override.sweep_string_iterator())
            if override.is_sweep_override()
            else [override.get_value_element_as_str()]
        )
        if key == "optimizer":
            optimizers = values
        elif key == "seed":
            raise ConfigError("A study chooses seed itself: leave it out, or set study.numbers and study.confirm.")
        elif key == "test":
            raise ConfigError(
                "A study chooses test itself, false in its search and true for its winners: leave it out."
            )
        else:
            choices.append([f"{key}={value}" for value in values])
    return optimizers, [list(combination) for combination in itertools.product(*choices)]


def run_studies(studies: list[Study], launcher: Launcher) -> None:
    """Run all replicates of all studies to completion, in joint launches, and report the progress."""
    names = [study.name for study in studies]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"Several of the swept values give the same study, {twice[0]}: list each value once.")
    courses = [course for study in studies for course in study.courses]
    total = sum(runs_a_replicate(study.settings, len(study.spaces)) * len(study.courses) for study in studies)
    rounds = max((course.rounds() for course in courses), default=0)
    for study in studies:
        print(announcement(study), flush=True)
    # A run in this process redirects sys.stdout to its own log; progress stays on the study's.
    with Progress(total, Console(file=sys.stdout)) as progress:
        for number in range(rounds):
            runs = [run for course in courses if number < course.rounds() for run in course.search()]
            progress.begin(f"search, round {number + 1} of {rounds}", runs)
            launch(launcher, runs)
        runs = [run for course in courses for run in course.confirm()]
        progress.begin("confirmation", runs, last=True)
        launch(launcher, runs)


def announcement(study: Study) -> str:
    """What a study will do, printed before it begins."""
    settings, courses = study.settings, study.courses
    is_plain = study.config["experiment"].endswith(f"/{study.name}")  # times are only known for unmodified experiments
    minutes = study.config["run"]["minutes"] * len(courses) if is_plain and study.config["run"]["minutes"] else None
    task = study.config["task"]
    name = f"{task if '.' in task else task.replace('_', ' ')}, {study.config['scale']}, {study.name}"
    if not courses:
        return f"{name}: everything requested is already published."
    numbers = f"replicate {courses[0].number}"
    if len(courses) > 1:
        numbers = f"{len(courses)} replicates, {courses[0].number} to {courses[-1].number}"
    names = " and ".join(study.spaces)
    trials = (
        f"{sum(settings['stages'])} trials to tune each of {names}, then the winners on fresh seeds"
        if settings["stages"]
        else f"{names} with the experiment's settings, on fresh seeds"
    )
    return (
        f"{name}: {numbers}. {trials}: {len(courses) * runs_a_replicate(settings, len(study.spaces))} runs"
        + (f", at most about {minutes} minute{'s' * (minutes != 1)} on two CPU cores" if minutes else "")
        + ". Ctrl-C saves and stops; the same command continues."
    )


def launch(launcher: Launcher, runs: list[PlannedRun]) -> None:
    """Let the launcher complete all unfinished runs. Raises SuiteError, naming the runs, if it cannot."""
    faults: dict[Path, Any] = {}
    for _ in range(LAUNCHES):
        waiting = [run for run in runs if not run.is_finished()]
        if not waiting:
            return
        try:
            # Course has already set aside what run.fresh asks for; newer records are kept.
            results = launcher.launch([[*run.overrides, "run.fresh=false"] for run in waiting], initial_job_idx=0)
            # For a run without even a record, for example because its node cannot read the data.
            faults = {
                run.directory: result._return_value
                for run, result in zip(waiting, results, strict=False)
                if result.status == JobStatus.FAILED
            }
            break
        except ConfigError:
            raise
        except Exception as error:  # anything that a launcher raises when it loses a worker
            print(
                f"The launcher failed ({type(error).__name__}: {error}); relaunching the unfinished runs.",
                flush=True,
            )
            if ray := sys.modules.get("ray"):
                ray.shutdown()  # otherwise jobs queued earlier would hold the runs that are queued now
    failed = [run for run in runs if not run.is_finished()]
    if failed:
        reasons = "\n".join(
            f"  {run.directory}: {run.status().get('reason', faults.get(run.directory, run.status()['status']))}"
            for run in failed
        )
        raise SuiteError(
            f"{len(failed)} of {len(runs)} runs did not finish:\n{reasons}\nThe same command continues the study."
        )
