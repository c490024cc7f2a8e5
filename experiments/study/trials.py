"""Results of a study's searches: best value so far, gains of the last stage, position of the winners."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, TypeVar

from experiments.study.replicates import Replicate, ReplicateRun
from experiments.study.search import Dimension
from experiments.study.statistics import is_at_edge, paired_difference, sign_of

Trial = TypeVar("Trial")
ChosenBy = Literal["validation", "headline"]
"""which of a study's metrics chooses a winner"""


def trials_of(replicate: Replicate, optimizer: str) -> list[ReplicateRun]:
    """The trials of one search, in order."""
    return sorted(replicate.of(optimizer, "search"), key=lambda run: run.trial)


def best(trials: Iterable[Trial], value: Callable[[Trial], float | None], better: str) -> Trial | None:
    """The trial with the best value, the first of equal ones; one without a value has diverged and is worse than all
    others. None without trials.
    """

    def score(trial: Trial) -> float:
        found = value(trial)
        return -math.inf if found is None else sign_of(better) * found

    return max(trials, key=score, default=None)


def winner_of(
    study: Mapping[str, Any], replicate: Replicate, optimizer: str, by: ChosenBy = "validation"
) -> ReplicateRun | None:
    """The trial with the best final value of the metric by which it is ``chosen_by``; None without a search."""
    metric = chosen_by(study, by)
    return best(trials_of(replicate, optimizer), lambda run: run.last(metric), study[f"{by}_better"])


def chosen_by(study: Mapping[str, Any], by: ChosenBy) -> str:
    """The metric by which winners are chosen, on the validation split."""
    metric: str = study[f"{by}_metric"]
    return metric.replace("test/", "val/")


def best_so_far(study: Mapping[str, Any], replicate: Replicate, optimizer: str) -> list[float | None]:
    """The best validation value after each trial; None as long as all have diverged."""
    sign, best = sign_of(study["validation_better"]), None
    found: list[float | None] = []
    for run in trials_of(replicate, optimizer):
        value = run.last(study["validation_metric"])
        if value is not None and (best is None or sign * value > sign * best):
            best = value
        found.append(best)
    return found


def last_gains(study: Mapping[str, Any], replicates: Sequence[Replicate], optimizer: str) -> list[float]:
    """How much the last stage improved the best validation value, for each replicate with earlier trials."""
    gains = []
    for replicate in replicates:
        best = best_so_far(study, replicate, optimizer)
        before = sum(run.stage < len(study["stages"]) for run in trials_of(replicate, optimizer))
        if 0 < before < len(best) and (at := best[before - 1]) is not None and (end := best[-1]) is not None:
            gains.append(abs(end - at))
    return gains


def ease_of_tuning(study: Mapping[str, Any], replicates: Sequence[Replicate], a: str, b: str) -> list[dict[str, Any]]:
    """The difference a - b of the best validation values after each stage, over the replicates."""
    stages, rows = study["stages"], []
    for trials in (sum(stages[:count]) for count in range(1, len(stages) + 1)):
        both = [[best_so_far(study, each, name)[trials - 1 : trials] for name in (a, b)] for each in replicates]
        pairs = [(x[0], y[0]) for x, y in both if x and y and x[0] is not None and y[0] is not None]
        known = paired_difference([x for x, _ in pairs], [y for _, y in pairs]) if len(pairs) > 1 else None
        rows.append({"trials": trials, "difference": asdict(known) if known else None})
    return rows


def chosen(run: ReplicateRun) -> dict[str, Any]:
    """The optimizer's arguments in a run."""
    return {key: value for key, value in run.plain["optimizer"].items() if key not in ("name", "_target_", "space")}


def value_at(dimension: Mapping[str, Any], position: float) -> float:
    """``Dimension.value`` for a dimension as described in study.json."""
    fields = ("argument", "kind", "low", "high", "zero")
    return Dimension(*(dimension[field] for field in fields)).value(position)


def box_limited(space: Sequence[Mapping[str, Any]], winners: Sequence[Sequence[float]]) -> list[str]:
    """Names of the dimensions with too many ``winners``, given by their positions, at an edge."""
    by_dimension = zip(space, zip(*winners, strict=True), strict=False)
    return [each["name"] for each, positions in by_dimension if is_at_edge(positions, ends_below(each))]


def ends_below(dimension: Mapping[str, Any]) -> bool:
    """Whether nothing exists below the low end of a dimension: no decay, no memory."""
    return dimension["zero"] > 0 or dimension["kind"] == "memory"
