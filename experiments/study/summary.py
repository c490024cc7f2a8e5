"""summary.json: a study's numbers, computed from its published run records and nothing else."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from experiments.harness.errors import DataError, RunError, SuiteError
from experiments.harness.metric import FLATNESS
from experiments.harness.provenance import ROOT
from experiments.harness.record import read_metrics, write_aside
from experiments.study.looks import judged
from experiments.study.paper import PaperCell, paper_cell
from experiments.study.statistics import Better, agrees, paired_difference, speedup, verdict

PAPER = ROOT / "results" / "paper.yaml"


class RunFiles:
    """One published run."""

    def __init__(self, directory: Path) -> None:
        self.id = directory.name
        try:
            self.config: dict[str, Any] = dict(OmegaConf.to_container(OmegaConf.load(directory / "config.yaml")))  # type: ignore[arg-type]
            self.rows = read_metrics(directory)
            self.status: dict[str, Any] = json.loads((directory / "status.json").read_bytes())
            self.environment: dict[str, Any] = json.loads((directory / "environment.json").read_bytes())
            whole = {"status", "sources_digest"} <= self.status.keys() and "task" in self.config
        except (
            OSError,
            ValueError,
            LookupError,
            AttributeError,
            TypeError,
            RunError,
            YAMLError,
            OmegaConfBaseException,
        ) as error:
            raise DataError(f"The record {directory} cannot be read: {error}") from error
        if not whole:
            raise DataError(f"The record {directory} is damaged: status.json or config.yaml lacks what every run has.")

    @property
    def diverged(self) -> bool:
        """Whether it ended so; published runs are complete or diverged."""
        return bool(self.status["status"] == "diverged")

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) of every evaluation."""
        return [(row["step"], row[metric]) for row in self.rows if metric in row]

    def last(self, metric: str) -> float:
        """The last value of a metric that every complete run has."""
        return self.curve(metric)[-1][1]


def study_folders(results: Path, name: str = "summary.json") -> list[Path]:
    """The folders of studies under ``results`` that hold a file; one that is being published starts with a dot."""
    return sorted(path.parent for path in results.glob(f"*/*/[!.]*/{name}"))


def write_summary(directory: Path) -> None:
    """Compute summary.json anew from the published records beside it."""
    write_aside(directory / "summary.json", json.dumps(summarize(directory), indent=1, allow_nan=False) + "\n")


def summarize(directory: Path) -> dict[str, Any]:
    """The summary of the study published in ``directory``.

    Raises SuiteError if its runs were made by more than one digest of the sources, or on different data.
    """
    described = json.loads((directory / "study.json").read_text())
    study, contestants = described["study"], described["contestants"]
    runs = {path.name: RunFiles(path) for path in sorted((directory / "runs").iterdir())}
    first = next(iter(runs.values()))
    for run in runs.values():
        for what, ours, theirs in (
            ("sources", _suite(first), _suite(run)),
            ("data", first.config["data"]["fingerprint"], run.config["data"]["fingerprint"]),
        ):
            if ours != theirs:
                raise SuiteError(
                    f"{directory} mixes {what} {ours} ({first.id}) and {theirs} ({run.id}): run it with FRESH=1."
                )

    confirmed = {name: [runs[id] for id in contestant["confirmation"]] for name, contestant in contestants.items()}
    reference = study["reference"]
    complete = [run for of_one in confirmed.values() for run in of_one if not run.diverged]
    recorded = {name for run in complete for row in run.rows for name in row}
    if complete and study["primary_metric"] not in recorded:
        raise SuiteError(
            f"{directory} has no verdict: its runs do not measure study.primary_metric={study['primary_metric']}. They "
            "stay as they are; choose another metric."
        )
    # A data set may not offer a metric: words where spaces do not part them.
    secondary = {
        name: better for name, better in study["secondary_metrics"].items() if name in recorded or not complete
    }
    flatness = {f"flatness/{name}": declared.better for name, declared in FLATNESS.items()}
    secondary |= {name: better for name, better in flatness.items() if name in recorded}
    metrics = {study["primary_metric"]: study["better"], **secondary}
    once = [len(study["confirm_seeds"])]
    looks = judged(described.get("looks", {"declared": once, "taken": once}))  # records of before this key have none
    comparisons = [
        _comparison(name, confirmed[name], reference, confirmed[reference], metric, better, study, looks["alpha"])
        for name in contestants
        if name != reference
        for metric, better in metrics.items()
    ]
    environments = {json.dumps(run.environment["hardware"], sort_keys=True) for run in runs.values()}
    return {
        "schema": 1,
        "task": described["task"],
        "scale": described["scale"],
        "experiment": described["experiment"],
        "generated": described["command"],
        "seeds": study["confirm_seeds"],
        "looks": looks,
        "steps": first.config["train"]["steps"],
        "batch_size": first.config["train"]["batch_size"],
        "primary_metric": study["primary_metric"],
        "validation_metric": study["validation_metric"],
        "margin_reason": study["margin_reason"],
        "settings_from": study.get("settings_from"),  # records of before this key have none
        "environment": {**first.environment, "kinds_of_hardware": len(environments)},
        "data": {"name": first.config["data"]["name"], "fingerprint": first.config["data"]["fingerprint"]},
        "optimizers": {
            name: _optimizer(contestant, runs, study["validation_metric"]) for name, contestant in contestants.items()
        },
        "comparisons": comparisons if study["confirm_seeds"] else [],
    }


def _suite(run: RunFiles) -> str:
    """The part of the sources' digest that the runs of all optimizers share."""
    return str(run.status["sources_digest"]).partition("-")[0]


def _optimizer(contestant: Mapping[str, Any], runs: Mapping[str, RunFiles], metric: str) -> dict[str, Any]:
    """What one optimizer got, chose and cost."""
    confirmed = [runs[id] for id in contestant["confirmation"]]
    complete = [run for run in confirmed if not run.diverged]
    chosen = confirmed[0].config["optimizer"] if confirmed else contestant["winner"]
    costs = {}
    if complete:
        step_ms = [ms for run in complete for _, ms in run.curve("time/optimizer_step_ms")]
        costs = {
            "state_bytes": complete[0].last("cost/state_bytes"),
            "peak_bytes": max(run.last("cost/peak_bytes") for run in complete),
            "optimizer_step_ms": median(step_ms) if step_ms else None,  # steps that are logged are not timed
            "train_s": fmean(run.last("time/train_s") for run in complete),
        }
    return {
        "trials": len(contestant["tuning"]),
        "settings": {key: value for key, value in chosen.items() if key not in ("name", "_target_")},
        "at_grid_edge": contestant["at_grid_edge"],
        "diverged": len(confirmed) - len(complete),
        **costs,
        "runs": {
            "tune": [id for point in contestant["tuning"] for id in point["runs"]],
            "confirm": contestant["confirmation"],
        },
        "trials_table": [_trial(point, [runs[id] for id in point["runs"]], metric) for point in contestant["tuning"]],
    }


def _trial(point: Mapping[str, Any], runs: Sequence[RunFiles], metric: str) -> dict[str, Any]:
    diverged = any(run.diverged for run in runs)
    return {
        "lr": point["lr"],
        "weight_decay": point["weight_decay"],
        "value": None if diverged else fmean(run.last(metric) for run in runs),
        "status": "diverged" if diverged else "complete",
        "run_ids": point["runs"],
    }


def _comparison(
    a: str,
    runs_a: Sequence[RunFiles],
    b: str,
    runs_b: Sequence[RunFiles],
    metric: str,
    better: Better,
    study: Mapping[str, Any],
    alpha: float,
) -> dict[str, Any]:
    """One metric of optimizer a against the reference b, paired by seed; pairs in which a run diverged are left out of
    the numbers and counted in the verdict. So are, of a secondary metric, those in which it was too large to be shown.
    """
    primary = metric == study["primary_metric"]
    per_seed = {a: _per_seed(runs_a, metric), b: _per_seed(runs_b, metric)}
    pairs = [(x, y) for x, y in zip(per_seed[a], per_seed[b], strict=True) if x is not None and y is not None]
    values_a, values_b = [x for x, _ in pairs], [y for _, y in pairs]
    difference = paired_difference(values_a, values_b, alpha) if len(pairs) > 1 else None
    row: dict[str, Any] = {
        "a": a,
        "b": b,
        "metric": metric,
        "primary": primary,
        "better": better,
        "mean": {a: fmean(values_a), b: fmean(values_b)} if pairs else None,
        "per_seed": per_seed,
        "difference": asdict(difference) if difference else None,
        "margin": None,
        "verdict": None,
        "speedup": None,
        "paper": None,
    }
    if primary:
        diverged = {a: sum(run.diverged for run in runs_a), b: sum(run.diverged for run in runs_b)}
        row["margin"] = study["margin"]
        row["verdict"] = verdict(
            difference, a=a, b=b, better=better, margin=study["margin"], diverged=diverged, seeds=len(runs_a)
        )
        if pairs:
            validation = study["validation_metric"]
            both = [(x, y) for x, y in zip(runs_a, runs_b, strict=True) if not (x.diverged or y.diverged)]
            curves_a, curves_b = [x.curve(validation) for x, _ in both], [y.curve(validation) for _, y in both]
            # Records of before this key have one direction for both.
            row["speedup"] = asdict(speedup(curves_a, curves_b, better=study.get("validation_better", better)))
    if study["paper"] and (cell := paper_cell(PAPER, study["paper"], metric)):
        row["paper"] = _paper(study["paper"], cell, a, b, row["verdict"], study["margin"])
    return row


def _per_seed(runs: Sequence[RunFiles], metric: str) -> list[float | None]:
    """One value a seed; None where the run diverged, or the value was too large to be shown."""
    return [None if run.diverged or not run.curve(metric) else run.last(metric) for run in runs]


def _paper(key: str, cell: PaperCell, a: str, b: str, outcome: str | None, margin: float) -> dict[str, Any] | None:
    """The paper's numbers for two optimizers, and whether they point where our verdict does."""
    if a not in cell.values or b not in cell.values:
        return None
    paper_a, paper_b = cell.values[a], cell.values[b]
    return {
        a: paper_a,
        b: paper_b,
        "cell": key,
        "source": cell.source,
        "trust": cell.trust,
        "uncertainty": cell.uncertainty,
        "agrees": agrees(outcome, a=a, b=b, paper_a=paper_a, paper_b=paper_b, better=cell.better, margin=margin),
    }
