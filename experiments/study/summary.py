"""summary.json: a study's numbers, computed only from study.json and the replicates in the same folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from experiments.harness.errors import DataError, SuiteError
from experiments.harness.files import write_aside
from experiments.harness.metric import Better
from experiments.study.comparison import FLATNESS_INCREASE, compare
from experiments.study.regime import regime_facts
from experiments.study.replicates import Replicate
from experiments.study.trials import best_so_far, box_limited, chosen, chosen_by, ease_of_tuning, value_at, winner_of

SCHEMA = 2
"""of study.json"""

SUMMARY_SCHEMA = 3
"""of summary.json, which `make report` rebuilds"""


def study_folders(results: Path, name: str = "summary.json") -> list[Path]:
    """The folders of studies under ``results`` that contain the file ``name``; one being published starts with a
    dot.
    """
    return sorted(path.parent for path in results.glob(f"*/*/[!.]*/{name}"))


def read_study(directory: Path) -> dict[str, Any]:
    """study.json. Raises DataError if it is damaged or has another schema."""
    path = directory / "study.json"
    try:
        described: dict[str, Any] = json.loads(path.read_bytes())
        known = described["schema"] == SCHEMA
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not known:
        raise DataError(
            f"{path} has schema {described['schema']}, but this version reads {SCHEMA}: run the study again."
        )
    return described


def write_summary(directory: Path, replicates: Sequence[Replicate]) -> None:
    """Recompute summary.json of the study whose study.json and ``replicates`` are in ``directory``."""
    summary = summarize(read_study(directory), replicates)
    write_aside(directory / "summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")


def summarize(described: Mapping[str, Any], replicates: Sequence[Replicate]) -> dict[str, Any]:
    """The summary of a study, which study.json describes.

    Replicates numbered below the declared count decide; the others are reproductions. If none is numbered below it, as
    in a user's own study, all decide. Raises SuiteError without a replicate, if the data differ between runs, if a
    replicate mixes digests of the sources, or if no run measures the deciding metric.
    """
    study, where = described["study"], "/".join(described[key] for key in ("task", "scale", "experiment"))
    if not replicates:
        raise SuiteError(f"{where} has no replicate to summarize.")
    data = _checked_data(where, replicates)
    declared = study["replicates"]
    counting = [each for each in replicates if each.number < declared] or list(replicates)
    reproductions = [each for each in replicates if each not in counting]
    names = list(described["identity"]["contestants"])
    reference = study["reference"]

    metrics = _compared_metrics(where, study, counting)
    optimizers = {name: _optimizer(described, counting, name) for name in names}
    comparisons = [
        {
            **compare(described, counting, reproductions, name, metric, better),
            "box_limited": {side: optimizers[side]["box_limited"] for side in (name, reference)},
            "exploratory": [each.number for each in counting] != list(range(declared)),
        }
        for name in names
        if name != reference
        for metric, better in metrics.items()
    ]
    return {
        "schema": SUMMARY_SCHEMA,
        "task": described["task"],
        "scale": described["scale"],
        "experiment": described["experiment"],
        "generated": described["command"],
        "replicates": [each.number for each in counting],
        "reproductions": [each.number for each in reproductions],
        "declared": declared,
        "stages": study["stages"],
        "confirm": study["confirm"],
        "lengths": study["lengths"],
        "nuisance": study["nuisance"],
        "drawn": {each.number: dict(each.nuisance) for each in replicates},
        "data": data,
        "regime": regime_facts(described, optimizers, comparisons),
        "steps": described["regime"]["steps"],
        "batch_size": described["regime"]["batch_size"],
        "reference": reference,
        **{key: study[key] for key in ("primary_metric", "primary_reason", "validation_metric", "validation_better")},
        "headline_metric": study.get("headline_metric"),
        "margin_percent": study["margin_percent"] if study["margin"] is None else None,
        "margin_reason": study["margin_reason"],
        "environments": _environments(replicates),
        "train_min": fmean(_train_seconds(each) for each in replicates) / 60,
        "spaces": described["spaces"],
        "optimizers": optimizers,
        "ease": {name: ease_of_tuning(study, counting, name, reference) for name in names if name != reference},
        "comparisons": comparisons,
    }


def _checked_data(where: str, replicates: Sequence[Replicate]) -> dict[str, str]:
    first = replicates[0].runs[0]
    name, fingerprint = (first.plain["data"][key] for key in ("name", "fingerprint"))
    for replicate in replicates:
        digests = {str(json.loads(run.status).get("sources_digest")).partition("-")[0] for run in replicate.runs}
        if len(digests) > 1:
            raise SuiteError(
                f"{where}: the runs of replicate {replicate.number} were made by source code with different digests, "
                f"{', '.join(sorted(digests))}: run it again with FRESH=1."
            )
        for run in replicate.runs:
            if run.plain["data"]["fingerprint"] != fingerprint:
                raise SuiteError(
                    f"{where} mixes data {fingerprint} (replicate {replicates[0].number}) and "
                    f"{run.plain['data']['fingerprint']} (replicate {replicate.number}): its replicates cannot be "
                    "compared. Publish the second elsewhere (run.results_dir=<folder>)."
                )
    return {"name": name, "fingerprint": fingerprint}


def _compared_metrics(where: str, study: Mapping[str, Any], counting: Sequence[Replicate]) -> dict[str, Better]:
    """The metrics by which optimizers are compared, the deciding one first, and whether lower or higher is better."""
    complete = [run for each in counting for run in each.runs if run.phase == "confirm" and not run.diverged]
    recorded = {name for run in complete for row in run.rows for name in row}
    if complete and study["primary_metric"] not in recorded:
        raise SuiteError(
            f"{where} has no verdict: its runs do not measure study.primary_metric={study['primary_metric']}. The runs "
            "are kept; choose another metric."
        )
    metrics: dict[str, Better] = {study["primary_metric"]: study["better"]}
    # Some data sets lack a metric, such as one per word in a language that does not separate words by spaces.
    metrics |= {name: better for name, better in study["secondary_metrics"].items() if name in recorded}
    if "flatness/perturbed_loss" in recorded:
        metrics[FLATNESS_INCREASE] = "lower"
    return metrics


def _environments(replicates: Sequence[Replicate]) -> list[dict[str, Any]]:
    """The environments of the replicates: each distinct one once, with the numbers of its replicates."""
    found: dict[str, dict[str, Any]] = {}
    for replicate in replicates:
        keys = ("git_sha", "git_dirty", "sources_digest", "packages", "hardware")
        content = {key: replicate.environment.get(key) for key in keys}
        entry = found.setdefault(json.dumps(content, sort_keys=True), {"replicates": [], **content})
        entry["replicates"].append(replicate.number)
    return list(found.values())


def _train_seconds(replicate: Replicate) -> float:
    curves = [run.curve("time/train_s") for run in replicate.runs]
    return sum(curve[-1][1] for curve in curves if curve)


def _optimizer(described: Mapping[str, Any], replicates: Sequence[Replicate], name: str) -> dict[str, Any]:
    """One optimizer's trials, winners and cost. A search whose trials all diverged has None for a winner."""
    study, space = described["study"], described["spaces"].get(name, [])
    confirmed = [run for each in replicates for run in each.of(name, "confirm")]
    found = [winner for each in replicates if (winner := winner_of(study, each, name))]
    metric = chosen_by(study, "validation")
    winners = [None if run.last(metric) is None else run for run in found] or confirmed[:1]
    known = [run for run in winners if run]
    complete = [run for run in confirmed if not run.diverged]
    costs: dict[str, Any] = {}
    if complete:
        step_ms = [ms for run in complete for _, ms in run.curve("time/optimizer_step_ms")]
        costs = {
            "state_bytes": complete[0].last("cost/state_bytes"),
            # Of a process that has made other runs, the peak includes theirs.
            "peak_bytes": min((peak for run in complete if (peak := run.last("cost/peak_bytes"))), default=None),
            "optimizer_step_ms": median(step_ms) if step_ms else None,  # logged steps are not timed
            "train_s": fmean(run.last("time/train_s") or 0.0 for run in complete),
        }
    trials = [run for each in replicates for run in each.of(name, "search")]
    return {
        "trials": sum(study["stages"]),
        "diverged_trials": sum(run.diverged for run in trials),
        "confirmed": len(confirmed),
        "diverged": len(confirmed) - len(complete),
        "winners": [chosen(run) if run else None for run in winners],
        "positions": [list(run.unit) if run else None for run in winners],
        "values": [
            {each["name"]: value_at(each, at) for each, at in zip(space, run.unit, strict=True)} if run else None
            for run in winners
        ],
        "box_limited": box_limited(space, [run.unit for run in known if run.unit]),
        **costs,
        "best_so_far": [best_so_far(study, each, name) for each in replicates],
    }
