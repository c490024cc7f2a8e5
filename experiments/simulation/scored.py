"""Score protocols on a study: its trials, emulators of its optimizers, and the protocols to run on them."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.harness.seeds import derive_seed
from experiments.harness.source_code import ROOT
from experiments.simulation.emulator import Emulator, all_trials, levels_of
from experiments.simulation.protocols import (
    ALGOPERF,
    CONFIRM_SEEDS,
    RANDOM_POINTS,
    RATES,
    EmulatedSearches,
    Side,
    algoperf,
    best_of_many,
    default_settings,
    rate_grid,
    search,
)
from experiments.study.comparison import reference_slope, replicate_value
from experiments.study.in_steps import margin_in_units
from experiments.study.replicates import read_replicates
from experiments.study.statistics import sign_of
from experiments.study.summary import read_study, summarize
from experiments.study.trials import trials_of, value_at

FEWEST = 2
"""replicates needed to score a study"""
SEARCHES = 48
"""emulated searches by the suite's method, per optimizer"""
Protocol = Callable[[Side, Side], str | None]


class Scored:
    """One study with its emulated optimizers, on which protocols can be run."""

    def __init__(self, directory: Path) -> None:
        self.described = read_study(directory)
        self.study = self.described["study"]
        self.where = "/".join(self.described[key] for key in ("task", "scale", "experiment"))
        declared = self.study["replicates"] or math.inf
        self.replicates = [each for each in read_replicates(directory) if each.number < declared]
        self.names = [name for name in self.described["identity"]["contestants"] if name in self.described["spaces"]]
        self.reference = self.study["reference"]
        self.other = next((name for name in self.names if name != self.reference), None)

    def why_not(self) -> str | None:
        """Why the study cannot be scored; None if it can."""
        if not self.study["stages"] or self.other is None or self.reference not in self.names:
            return "nothing was searched"
        if len(self.replicates) < FEWEST:
            return f"it has {len(self.replicates)} of at least {FEWEST} replicates"
        return None

    def learn(self) -> None:
        """Fit the emulators."""
        rng = np.random.default_rng(derive_seed("protocols", self.where))
        assert self.other is not None
        self.pair = {"a": self.other, "b": self.reference}
        self.trials = {key: all_trials(self.study, self.replicates, name) for key, name in self.pair.items()}
        levels = levels_of(list(self.trials.values()), len(self.replicates))
        self.sides = {key: self._side(key, Emulator(self.trials[key], levels, rng)) for key in self.pair}
        better, metric = self.study["validation_better"], self.study["validation_metric"]
        slopes = [reference_slope(each, self.reference, metric) for each in self.replicates]
        known = [slope for slope in slopes if slope is not None]
        same_metric = metric.rpartition("/")[2] == self.study["primary_metric"].rpartition("/")[2]
        declared = self.study["margin"] if same_metric else None
        self.margin = declared or margin_in_units(self.study["margin_percent"], known, better) or 0.0
        sign = -sign_of(better)  # lower losses of the emulators are better
        ends = [[replicate_value(self.study, each, self.pair[key], metric) for each in self.replicates] for key in "ab"]
        self.differences = [sign * (x - y) for x, y in zip(*ends, strict=True) if x is not None and y is not None]
        summary = summarize(self.described, self.replicates)
        (named,) = [row["verdict"] for row in summary["comparisons"] if row["primary"] and row["a"] == self.other]
        self.verdict = {self.other: "a", self.reference: "b"}.get(named, named)

    def _side(self, key: str, emulator: Emulator) -> Side:
        default = default_position(self.pair[key], self.space(key), self._factor_sum(key))
        if default is None:
            return Side(emulator, None, None)
        column = next(i for i, each in enumerate(self.space(key)) if each["kind"] == "rate")
        decades = math.log(self.space(key)[column]["high"] / self.space(key)[column]["low"])
        rates = np.repeat(default[None], len(RATES), axis=0)
        rates[:, column] = np.clip(default[column] + np.log(RATES) / decades, 0, 1)
        return Side(emulator, default, rates)

    def space(self, key: str) -> list[dict[str, Any]]:
        """The entries of study.json, one per dimension."""
        space: list[dict[str, Any]] = self.described["spaces"][self.pair[key]]
        return space

    def _factor_sum(self, key: str) -> float | None:
        """The sum of the schedule's factors over the run, derived from the decay of a trial."""
        columns = [i for i, each in enumerate(self.space(key)) if each["kind"] == "decay"]
        for run in (run for each in self.replicates for run in trials_of(each, self.pair[key])):
            settings = run.plain["optimizer"]
            for i in columns:
                product = settings["lr"] * settings[self.space(key)[i]["argument"]]
                if product > 0:
                    return value_at(self.space(key)[i], run.unit[i]) / product
        return None


def default_position(name: str, space: Sequence[Mapping[str, Any]], factor_sum: float | None) -> np.ndarray | None:
    """The position of the default hyperparameters in conf/optimizer within the space ``[dimensions]``, clipped to its
    edge; None if there is no such file, or if an argument is missing.
    """
    if not (ROOT / "conf" / "optimizer" / f"{name}.yaml").is_file():
        return None
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        settings: Any = OmegaConf.to_container(compose(f"optimizer/{name}").optimizer, resolve=True)
    position, seen = [], Counter[str]()
    for each in space:
        value = settings.get(each["argument"])
        if isinstance(value, list):
            value = value[seen[each["argument"]]]
            seen[each["argument"]] += each.get("copies", 1)
        if each["kind"] == "decay" and value is not None:
            value = None if factor_sum is None else value * settings["lr"] * factor_sum
        if value is None:
            return None
        if each["kind"] == "memory":
            value = 1 / (1 - value)
        share = math.log(max(value, each["low"]) / each["low"]) / math.log(each["high"] / each["low"])
        position.append(0.0 if value == 0 else each["zero"] + (1 - each["zero"]) * min(share, 1.0))
    return np.array(position)


def protocols_of(scored: Scored, rng: np.random.Generator) -> dict[str, Protocol]:
    """All protocols but the suite's own, by their names in the table."""
    count, margin = len(scored.replicates), scored.margin

    def in_one(protocol: Callable[..., str | None], a: Side, b: Side) -> str | None:
        return protocol(a, b, int(rng.integers(count)), margin, rng)

    def in_some(a: Side, b: Side) -> str:
        return algoperf(a, b, rng.integers(count, size=ALGOPERF[0]).tolist(), margin, rng)

    return {
        "default settings, one seed": partial(in_one, default_settings),
        f"{len(RATES)} rates on one seed, then {CONFIRM_SEEDS} seeds": partial(in_one, rate_grid),
        f"mean of {ALGOPERF[0]} bests of {ALGOPERF[1]} random points": in_some,
        f"best of {RANDOM_POINTS} on one seed": partial(in_one, best_of_many),
    }


def searches_of(scored: Scored, rng: np.random.Generator) -> dict[str, EmulatedSearches]:
    """The suite's searches of a, of b, and of b again; searches with the same index are in the same replicate."""
    places = rng.integers(len(scored.replicates), size=SEARCHES).tolist()
    stages, confirm = scored.study["stages"], scored.study["confirm"]
    emulators = {key: scored.sides[key].emulator for key in ("a", "b")}
    emulators["again"] = emulators["b"]
    return {key: search(each, places, stages, confirm, rng) for key, each in emulators.items()}
