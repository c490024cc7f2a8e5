"""One replicate of a study: what is drawn for it, which runs come next, and their results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.harness.config import ScheduleConfig
from experiments.harness.entry import usable_status
from experiments.harness.limits import MOST_CONFIRM_SEEDS, SEEDS_A_REPLICATE
from experiments.harness.record import FINISHED, read_status
from experiments.harness.schedule import lr_factor
from experiments.study.naming import Naming
from experiments.study.replicates import Phase
from experiments.study.search import Space, first_points
from experiments.study.statistics import sign_of
from experiments.study.surrogate import next_trial
from experiments.study.trials import ChosenBy, best, chosen_by


@dataclass(frozen=True)
class PlannedRun:
    """One run of a replicate: its overrides for the launcher, its record's folder, and its purpose (see
    ReplicateRun).
    """

    overrides: list[str]
    directory: Path
    optimizer: str
    phase: Phase
    seed: int
    stage: int = 0
    trial: int = 0
    length: float = 1.0
    unit: tuple[float, ...] = ()

    def status(self) -> dict[str, Any]:
        """The content of status.json; ``{"status": "missing"}`` before it has started."""
        return read_status(self.directory) or {"status": "missing"}

    def is_finished(self) -> bool:
        """Whether it is complete or diverged."""
        return self.status()["status"] in FINISHED


class Course:
    """Replicate ``number`` of a study. All its optimizers share the seeds, the draws, and the first points."""

    def __init__(
        self,
        number: int,
        naming: Naming,
        overrides: Sequence[str],
        spaces: Mapping[str, Space | None],
        settings: Mapping[str, Any],
    ) -> None:
        """``overrides`` are shared by all runs of the study; ``settings`` are the study's own. An optimizer without a
        space keeps the experiment's own hyperparameters.
        """
        self.number, self._naming, self._spaces, self._settings = number, naming, spaces, settings
        self.nuisance = draw(settings["nuisance"], overrides, number)
        self._overrides = overrides
        self._drawn = [f"{key}={override_value(value)}" for key, value in self.nuisance.items()]
        self.trials: dict[str, list[PlannedRun]] = {name: [] for name in spaces}
        self.confirmation: list[PlannedRun] = []
        self._first_seed = SEEDS_A_REPLICATE * number
        plain = naming.resolved([*overrides, *self._drawn])
        schedule = ScheduleConfig(**plain["schedule"])
        self._steps, self._warmup_steps = plain["train"]["steps"], schedule.warmup_steps
        self._factor_sum = sum(lr_factor(step, self._steps, schedule) for step in range(self._steps))

    @property
    def runs(self) -> list[PlannedRun]:
        """All runs so far."""
        return [run for trials in self.trials.values() for run in trials] + self.confirmation

    def rounds(self) -> int:
        """How often ``search`` can be called: once for the first stage, then once for every further trial."""
        return 1 + sum(self._settings["stages"][1:]) if self._settings["stages"] else 0

    def search(self) -> list[PlannedRun]:
        """The next runs: all of the first stage, then one per optimizer, chosen from the results so far."""
        return [run for name, space in self._spaces.items() if space for run in self._next_trials(name, space)]

    def _next_trials(self, name: str, space: Space) -> list[PlannedRun]:
        trials = self.trials[name]
        done, ends = len(trials), np.cumsum(self._settings["stages"])
        if not done:
            points = first_points(len(space.dimensions), int(ends[0]), self.number).tolist()
        else:
            sign = sign_of(self._settings["validation_better"])
            values = [self._value(trial) for trial in trials]
            worst = max((-sign * value for value in values if value is not None), default=0.0)
            losses = [worst if value is None else -sign * value for value in values]
            units = [trial.unit for trial in trials]
            points = [next_trial(units, losses, first=int(ends[0]), total=int(ends[-1]), seed=self.number).tolist()]
        for point in points:
            of_point = space.arguments(point, steps=self._steps, factor_sum=self._factor_sum)
            arguments = [f"optimizer.{key}={override_value(value)}" for key, value in of_point.items()]
            stage = int(np.searchsorted(ends, len(trials), side="right")) + 1
            # A new seed for each trial, the same for all optimizers: on a single seed, a search overfits to that seed.
            seed = self._first_seed + MOST_CONFIRM_SEEDS + len(trials)
            trials.append(self._run(name, "search", seed, arguments, stage=stage, unit=tuple(point)))
        return trials[done:]

    def _value(self, trial: PlannedRun, by: ChosenBy = "validation") -> float | None:
        """The final value of the metric that chooses winners; None if the trial diverged, or if the value was too large
        to be written.
        """
        status = trial.status()
        value: float | None = status["metrics"].get(chosen_by(self._settings, by))
        return value if status["status"] == "complete" else None

    def winner(self, name: str, by: ChosenBy = "validation") -> PlannedRun | None:
        """An optimizer's best trial so far; None before the first."""
        return best(self.trials[name], lambda trial: self._value(trial, by), self._settings[f"{by}_better"])

    def confirm(self) -> list[PlannedRun]:
        """The winners on fresh seeds, each evaluated on the test split once, and the reference's also at other
        lengths.
        """
        for seed in range(self._first_seed, self._first_seed + self._settings["confirm"]):
            for name in self._spaces:
                self.confirmation.append(self._run(name, "confirm", seed, self._chosen(name)))
                if self._settings["headline_metric"] and self._chosen(name, "headline") != self._chosen(name):
                    self.confirmation.append(self._run(name, "headline", seed, self._chosen(name, "headline")))
            for length in self._settings["lengths"]:
                name = self._settings["reference"]
                steps = [
                    f"train.steps={round(self._steps * length)}",
                    f"schedule.warmup_steps={round(self._warmup_steps * length)}",
                ]
                run = self._run(name, "length", seed, [*self._chosen(name), *steps], length=length)
                self.confirmation.append(run)
        return self.confirmation

    def _chosen(self, name: str, by: ChosenBy = "validation") -> list[str]:
        winner = self.winner(name, by)
        return [o for o in winner.overrides if o.startswith("optimizer.")] if winner else []

    def _run(
        self,
        name: str,
        phase: Phase,
        seed: int,
        arguments: Sequence[str],
        *,
        stage: int = 0,
        length: float = 1.0,
        unit: tuple[float, ...] = (),
    ) -> PlannedRun:
        test = str(phase != "search").lower()
        overridden = {argument.partition("=")[0] for argument in arguments}  # Hydra refuses a key given twice
        shared, drawn = (
            [override for override in given if override.partition("=")[0] not in overridden]
            for given in (self._overrides, self._drawn)
        )
        own = [*drawn, *arguments, f"test={test}", f"seed={seed}", f"run.phase={phase}"]
        overrides = [*shared, f"optimizer={name}", *own]  # what differs between runs comes last; see Naming
        plain, _, directory = self._naming.locate(overrides)
        usable_status(directory, plain)  # refuses a run made by different source code, or sets it aside with FRESH=1
        trial = len(self.trials[name]) + 1 if phase == "search" else 0
        return PlannedRun(overrides, directory, name, phase, seed, stage, trial, length, unit)


def draw(ranges: Mapping[str, Any], overrides: Sequence[str], number: int) -> dict[str, Any]:
    """What replicate ``number`` draws from the ranges of a study, by config key. Keys that the command line sets,
    itself or through a group above them, are not drawn.
    """
    rng = np.random.default_rng([number, 1])
    given = [override.lstrip("+~").partition("=")[0] for override in overrides]
    drawn: dict[str, Any] = {}
    for key, described in sorted(ranges.items()):
        if "choices" in described:
            value = described["choices"][rng.integers(len(described["choices"]))]
        else:
            low, high = described["low"], described["high"]
            share = rng.random()
            value = low * (high / low) ** share if described.get("log") else low + (high - low) * share
            value = round(value) if described.get("integer") else float(f"{value:.3g}")
        if not any(key == other or key.startswith(f"{other}.") for other in given):
            drawn[key] = value
    return drawn


def override_value(value: Any) -> str:
    """A number, a list of numbers, a word or None in the syntax of Hydra's command line."""
    if isinstance(value, list):
        return f"[{','.join(map(repr, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
