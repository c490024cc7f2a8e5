"""One metric of an optimizer against the reference, over the replicates of a study."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from statistics import fmean
from typing import Any

from experiments.harness.metric import Better, is_percent
from experiments.study.by_example import interval_by_example
from experiments.study.in_steps import fewer_steps, log_slope, margin_in_units, typical_slope
from experiments.study.paper import claim_of, paper_cell
from experiments.study.replicates import Replicate, ReplicateRun
from experiments.study.statistics import (
    Difference,
    paired_difference,
    prediction_interval,
    smallest_effect,
    speedup,
    verdict,
)
from experiments.study.trials import last_gains, winner_of

FLATNESS_INCREASE = "flatness/increase"
"""The increase of the training loss under weight noise, derived from the two metrics that runs record. By the loss
under noise alone, an optimizer that fits better would look flatter."""


def compare(
    described: Mapping[str, Any],
    replicates: Sequence[Replicate],
    reproductions: Sequence[Replicate],
    a: str,
    metric: str,
    better: Better,
) -> dict[str, Any]:
    """An entry of ``comparisons`` in summary.json. ``replicates`` decide; ``reproductions`` are compared with them."""
    study = described["study"]
    b, primary = study["reference"], metric == study["primary_metric"]
    values = {name: [replicate_value(study, each, name, metric) for each in replicates] for name in (a, b)}
    slopes = [reference_slope(each, b, metric) for each in replicates]
    pairs = [(x, y, s) for x, y, s in zip(values[a], values[b], slopes, strict=True) if x is not None and y is not None]
    difference = paired_difference([x for x, _, _ in pairs], [y for _, y, _ in pairs]) if len(pairs) > 1 else None
    known_slopes = [slope for slope in slopes if slope is not None]
    in_steps = [(x - y, s) for x, y, s in pairs if s is not None]
    steps = fewer_steps([d for d, _ in in_steps], [s for _, s in in_steps], better) if in_steps else None
    prediction = prediction_interval(difference) if difference else None
    by_example = interval_by_example(replicates, a, b, metric) if primary else None
    row: dict[str, Any] = {
        "a": a,
        "b": b,
        "metric": metric,
        "primary": primary,
        "better": better,
        "mean": {a: fmean(x for x, _, _ in pairs), b: fmean(y for _, y, _ in pairs)} if pairs else None,
        "per_replicate": values,
        "difference": asdict(difference) if difference else None,
        "prediction95": prediction,
        "by_example": asdict(by_example) if by_example else None,
        "reproductions": [_reproduction(study, each, a, b, metric, prediction) for each in reproductions],
        "slope": typical_slope(known_slopes),
        "steps_percent": asdict(steps) if steps else None,
        "smallest_effect": smallest_effect(difference) if difference else None,
        "speedup": _speedup(study, replicates, a, b, metric, better),
        "margin": None,
        "unsettled": None,
        "verdict": None,
        "paper": None,
    }
    if primary:
        in_units = margin_in_units(study["margin_percent"], known_slopes, better)
        row["margin"] = study["margin"] if study["margin"] is not None else in_units
        row["unsettled"] = _unsettled(study, replicates, a, row["slope"])
        row["diverged"] = {name: sum(value is None for value in of) for name, of in values.items()}
        row["verdict_without_diverged"] = None
        if study["replicates"]:
            judged = partial(
                verdict, difference, a=a, b=b, better=better, margin=row["margin"], unsettled=row["unsettled"]
            )
            row["verdict"] = judged(diverged=row["diverged"], replicates=len(replicates))
            if any(row["diverged"].values()):  # a selection, so this decides nothing
                row["verdict_without_diverged"] = judged()
    if study["paper"] and not study["stages"]:  # a study with a search does not use the paper's hyperparameters
        whole = len(pairs) == len(replicates)  # otherwise a selection, which confirms and contradicts nothing
        row["paper"] = _paper(described, a, b, metric, difference if whole else None, row["margin"])
    return row


def replicate_value(study: Mapping[str, Any], replicate: Replicate, optimizer: str, metric: str) -> float | None:
    """Mean of the winner's confirm runs; None if one diverged or lacks the metric, or if there are none."""
    values = [_last(run, metric) for run in confirmed(study, replicate, optimizer, metric)]
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def confirmed(study: Mapping[str, Any], replicate: Replicate, optimizer: str, metric: str) -> list[ReplicateRun]:
    """The runs on fresh seeds to read a metric from: the winner's or, for the headline metric, its own winner's."""
    if metric == study.get("headline_metric") and study["stages"]:
        own = winner_of(study, replicate, optimizer, "headline")
        if own != winner_of(study, replicate, optimizer):
            return replicate.of(optimizer, "headline")
    return replicate.of(optimizer, "confirm")


def _last(run: ReplicateRun, metric: str) -> float | None:
    if metric != FLATNESS_INCREASE:
        return run.last(metric)
    noisy, plain = run.last("flatness/perturbed_loss"), run.last("flatness/train_loss")
    return None if noisy is None or plain is None else noisy - plain


def reference_slope(replicate: Replicate, reference: str, metric: str) -> float | None:
    """Slope of the reference's metric against ln(steps), from its winner's runs of all lengths; None without any."""
    runs = [*replicate.of(reference, "confirm"), *replicate.of(reference, "length")]
    ends = [(run.plain["train"]["steps"], _last(run, metric)) for run in runs]
    return log_slope([(steps, value) for steps, value in ends if value is not None])


def _reproduction(
    study: Mapping[str, Any],
    replicate: Replicate,
    a: str,
    b: str,
    metric: str,
    prediction: tuple[float, float] | None,
) -> dict[str, Any]:
    """A reproduction's difference, and whether it lies within the prediction interval."""
    x, y = (replicate_value(study, replicate, name, metric) for name in (a, b))
    difference = None if x is None or y is None else x - y
    inside = None if difference is None or prediction is None else prediction[0] <= difference <= prediction[1]
    return {"replicate": replicate.number, a: x, b: y, "difference": difference, "inside": inside}


def _unsettled(study: Mapping[str, Any], replicates: Sequence[Replicate], a: str, slope: float | None) -> float | None:
    """The difference between the last-stage gains of a and the reference, in units of the primary metric; None with
    fewer than two stages, or if the validation metric cannot be converted to the primary one.
    """
    b, validation, primary = study["reference"], study["validation_metric"], study["primary_metric"]
    gains = {name: last_gains(study, replicates, name) for name in (a, b)}
    if not all(gains.values()):
        return None
    apart = abs(fmean(gains[a]) - fmean(gains[b]))
    if validation.rpartition("/")[2] == primary.rpartition("/")[2]:
        return apart
    # Convert through steps: the same number of steps in both metrics.
    slopes = [found for each in replicates if (found := reference_slope(each, b, validation)) is not None]
    theirs = typical_slope(slopes)
    return apart * abs(slope / theirs) if slope is not None and theirs else None


def _speedup(
    study: Mapping[str, Any], replicates: Sequence[Replicate], a: str, b: str, metric: str, better: Better
) -> dict[str, Any] | None:
    """The speed-up, from the curves of a metric during training; None if there are none."""
    split, _, name = metric.partition("/")
    if split not in ("test", "samples"):
        return None
    curve = metric if split == "samples" else f"val/{name}"
    pairs, groups = [], []
    for replicate in replicates:
        runs = (confirmed(study, replicate, name, metric) for name in (a, b))
        for x, y in zip(*runs, strict=False):
            drawn = [run.curve(curve) for run in (x, y)]
            if not (x.diverged or y.diverged) and all(len(points) > 1 for points in drawn):
                pairs.append(drawn)
                # If anything is redrawn, replicates differ in more than their seeds.
                groups.append(replicate.number if study["nuisance"] else 0)
    if not pairs:
        return None
    curves_a, curves_b = zip(*pairs, strict=True)
    return {"curve": curve, **asdict(speedup(curves_a, curves_b, better=better, groups=groups))}


def _paper(
    described: Mapping[str, Any], a: str, b: str, metric: str, difference: Difference | None, margin: float | None
) -> dict[str, Any] | None:
    """The paper's numbers for two optimizers, its claim, and this study's outcome for it."""
    key = described["study"]["paper"]
    cell = paper_cell(key, metric)
    if cell is None or a not in cell.values or b not in cell.values:
        return None
    percent = is_percent(described["task"], metric)
    return {
        a: cell.values[a],
        b: cell.values[b],
        "cell": key,
        "source": cell.source,
        "trust": cell.trust,
        "uncertainty": cell.uncertainty,
        **asdict(claim_of(cell, a, b, difference, percent=percent, margin=margin)),
    }
