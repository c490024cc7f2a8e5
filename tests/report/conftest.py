"""A synthetic study in the layout that studies leave in results/: simulated curves, and the summary of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.study.statistics import Better, agrees, paired_difference, speedup, verdict

Curve = list[tuple[int, float]]
TOTAL_STEPS, EVALUATE_EVERY = 200, 25
PARAMETERS = 240_000
TRUE_LR = {"lion": 1e-3, "adamw": 5e-3, "sgd": 0.1, "signum": 3e-4}
PAPER: dict[str, Any] = {
    "lion": 77.44,
    "adamw": 75.48,
    "source": "Table 2",
    "trust": "exact",
    "cell": "image_classification.vit_b16",
}


class SimulatedRun:
    """A run whose metric rises (or falls) towards an end value, with noise that its seed shares between optimizers."""

    def __init__(self, optimizer: str, seed: int, end: float, start: float, diverged: bool) -> None:
        self.id = f"{optimizer}-s{seed}-0123456789"
        self.diverged = diverged
        shared = np.random.default_rng(seed)
        own = np.random.default_rng([seed, *optimizer.encode()])
        offset = shared.normal(0, 0.02) + own.normal(0, 0.01)
        steps = range(EVALUATE_EVERY, (TOTAL_STEPS // 2 if diverged else TOTAL_STEPS) + 1, EVALUATE_EVERY)
        span = end - start
        self.values: Curve = [(s, start + span * (1 + offset) * (1 - np.exp(-4 * s / TOTAL_STEPS))) for s in steps]
        self.losses: Curve = [
            (s, 2.3 - 1.2 * (1 - np.exp(-4 * s / TOTAL_STEPS)) + own.normal(0, 0.05))
            for s in range(10, steps[-1] + 1, 10)
        ]

    @property
    def test_value(self) -> float | None:
        """None where the run diverged."""
        return None if self.diverged else self.values[-1][1]

    def write(self, runs: Path, metric: str) -> None:
        """The files of a run record that the report reads."""
        rows: list[dict[str, float]] = [
            {"step": step, "train/loss": loss, "train/lr": 1e-3, "train/grad_norm": 1.0} for step, loss in self.losses
        ]
        rows += [{"step": step, f"val/{metric}": value, "val/loss": 1.0} for step, value in self.values]
        if self.test_value is not None:
            rows.append({"step": TOTAL_STEPS, f"test/{metric}": self.test_value})
        (runs / self.id).mkdir(parents=True)
        (runs / self.id / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        status = {"status": "diverged" if self.diverged else "complete"}
        (runs / self.id / "status.json").write_text(json.dumps(status))


def trials_table(optimizer: str, end: float, decays: Sequence[float] = (1.0,)) -> list[dict[str, Any]]:
    """Four learning rates around the best one; the highest diverged."""
    table: list[dict[str, Any]] = []
    for distance in (-1.0, -0.5, 0.0, 0.5):
        for decay in decays:
            rate = TRUE_LR[optimizer] * 10**distance
            trial = {"lr": rate, "weight_decay": 1e-4 * decay / rate, "run_ids": [f"{optimizer}-s1000-{len(table)}"]}
            outcome = {"value": end - 5 * distance**2 - (decay != 1), "status": "complete"}
            table.append(trial | ({"value": None, "status": "diverged"} if distance > 0 else outcome))
    return table


def compare(
    a: str, b: str, runs: Mapping[str, list[SimulatedRun]], metric: str, better: Better, margin: float, primary: bool
) -> dict[str, Any]:
    pairs = [(x, y) for x, y in zip(runs[a], runs[b], strict=True) if not (x.diverged or y.diverged)]
    values = {a: [x.values[-1][1] for x, _ in pairs], b: [y.values[-1][1] for _, y in pairs]}
    if not primary:  # the other metric, a loss: the mirror image of the first
        values = {name: [3 - value / 50 for value in of] for name, of in values.items()}
    difference = paired_difference(values[a], values[b]) if len(pairs) > 1 else None
    comparison: dict[str, Any] = {
        "a": a,
        "b": b,
        "metric": metric,
        "primary": primary,
        "better": better,
        "mean": {name: float(np.mean(of)) for name, of in values.items()} if pairs else None,
        "per_seed": {name: [run.test_value for run in runs[name]] for name in (a, b)},
        "difference": asdict(difference) if difference else None,
        "margin": margin if primary else None,
        "verdict": None,
        "speedup": None,
        "paper": None,
    }
    if primary:
        diverged = {name: sum(run.diverged for run in runs[name]) for name in (a, b)}
        comparison["verdict"] = verdict(
            difference, a=a, b=b, better=better, margin=margin, diverged=diverged, seeds=len(runs[a])
        )
    if primary and pairs:
        curves_a, curves_b = [x.values for x, _ in pairs], [y.values for _, y in pairs]
        comparison["speedup"] = asdict(speedup(curves_a, curves_b, better=better))
    if primary and {a, b} == {"lion", "adamw"} and better == "higher":
        outcome = agrees(
            comparison["verdict"], a=a, b=b, paper_a=PAPER[a], paper_b=PAPER[b], better=better, margin=margin
        )
        comparison["paper"] = PAPER | {"agrees": outcome}
    return comparison


WriteStudy = Callable[..., Path]


@pytest.fixture
def write_study(tmp_path: Path) -> WriteStudy:
    """``write_study(...)`` writes a study under ``tmp_path / "results"`` and returns its folder."""

    def write(
        task: str = "image_classification",
        scale: str = "mini",
        experiment: str = "mini",
        *,
        gain: float = -1.9,
        seeds: int = 8,
        tuned: bool = True,
        decays: Sequence[float] = (1.0,),
        diverged: Mapping[str, int] | None = None,
        metric: str = "top1",
        better: Better = "higher",
        margin: float = 1.0,
        optimizers: Sequence[str] = ("lion", "adamw"),
        at_grid_edge: Sequence[str] = (),
        hardware: str = "an imagined processor",
    ) -> Path:
        """Lion's end value is ``gain`` above AdamW's; the first ``diverged[name]`` seeds of an optimizer diverge."""
        directory = tmp_path / "results" / task / scale / experiment
        start, end = (10.0, 60.0) if better == "higher" else (8.0, 5.0)
        ends = {name: end + (gain if name == "lion" else 0.0) for name in optimizers}
        lost = diverged or {}
        runs = {
            name: [SimulatedRun(name, seed, ends[name], start, seed < lost.get(name, 0)) for seed in range(seeds)]
            for name in optimizers
        }
        for run in (run for of in runs.values() for run in of):
            run.write(directory / "runs", metric)
        described = {}
        for name in optimizers:
            table = trials_table(name, ends[name], decays) if tuned else []
            settings = {"lr": TRUE_LR[name], "weight_decay": 1e-4 / TRUE_LR[name], "betas": [0.9, 0.99]}
            costs = {
                "state_bytes": 4 * PARAMETERS * (1 if name == "lion" else 2),
                "peak_bytes": 50_000_000,
                "optimizer_step_ms": 1.25,
                "train_s": 81.5,
            }
            described[name] = {
                "trials": len(table),
                "settings": settings,
                "at_grid_edge": name in at_grid_edge,
                "diverged": sum(run.diverged for run in runs[name]),
                **(costs if not all(run.diverged for run in runs[name]) else {}),
                "runs": {
                    "tune": [id for trial in table for id in trial["run_ids"]],
                    "confirm": [run.id for run in runs[name]],
                },
                "trials_table": table,
            }
        comparisons = [
            compare(name, "adamw", runs, f"test/{measured}", direction, margin, primary)
            for name in optimizers
            if name != "adamw"
            for measured, direction, primary in ((metric, better, True), ("loss", "lower", False))
        ]
        summary = {
            "schema": 1,
            "task": task,
            "scale": scale,
            "experiment": experiment,
            "generated": f"make reproduce-{task.replace('_', '-')} SCALE={scale}",
            "seeds": list(range(seeds)),
            "looks": {"declared": [seeds], "taken": [seeds], "alpha": 0.05, "exploratory": False},
            "steps": TOTAL_STEPS,
            "primary_metric": f"test/{metric}",
            "validation_metric": f"val/{metric}",
            "margin_reason": "less than most of the paper's gains",
            "settings_from": None,
            "environment": {
                "git_sha": "0" * 40,
                "sources_digest": "abcdef0123456789",
                "packages": {"torch": "2.15.0", "numpy": "2.4.6"},
                "hardware": {"cpu": hardware, "cpu_count": 2},
            },
            "data": {"name": "cifar10", "fingerprint": "f" * 16},
            "optimizers": described,
            "comparisons": comparisons if seeds else [],
        }
        (directory / "summary.json").parent.mkdir(parents=True, exist_ok=True)
        (directory / "summary.json").write_text(json.dumps(summary, indent=1))
        return directory

    return write
