"""A published study whose truth is known: study.json and replicates as the suite writes them, of simulated runs."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments.study.replicates import Replicate, ReplicateRun, replicate_path, write_replicate

SHRINK = 0.4
"""Each stage draws from a box narrower by this factor around the best so far; any search that improves would do."""
STEPS, BATCH_SIZE, PARAMETERS = 200, 128, 240_000
SLOPE = -0.2
"""of the loss against ln(steps)"""
BEST = {"lion": (0.4, 0.5, 0.6, 0.5), "adamw": (0.6, 0.3, 0.7, 0.5)}
"""where an optimizer's loss is lowest in its space; for others, in the middle"""
SPACE = [
    {"name": "lr", "argument": "lr", "kind": "rate", "low": 1e-5, "high": 1e-2, "zero": 0.0, "copies": 1},
    {"name": "betas 1", "argument": "betas", "kind": "memory", "low": 2.0, "high": STEPS, "zero": 0.0, "copies": 1},
    {"name": "betas 2", "argument": "betas", "kind": "memory", "low": 2.0, "high": STEPS, "zero": 0.0, "copies": 1},
    {"name": "weight_decay", "argument": "weight_decay", "kind": "decay", "low": 0.01, "high": 10.0, "zero": 0.1}
    | {"copies": 1},
]
PAPER: dict[str, Any] = {
    "stages": (),
    "lengths": (),
    "confirm": 1,
    "declared": 3,
    "numbers": range(3),
    "nuisance": {},
    "paper": "image_classification.vit_b16",
    "gain": 0.05,
    "top1_gain": 2.0,
}
"""A study at the paper's own settings that confirms its claim."""
ENVIRONMENT = {
    "git_sha": "0" * 40,
    "git_dirty": False,
    "sources_digest": "abcdef0123456789",
    "packages": {"torch": "2.15.0", "numpy": "2.4.6"},
}


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a study declares, and what is true of its optimizers."""

    gain: float = 0.0
    """how far the test loss of ``lion`` lies below that of any other optimizer"""
    top1_gain: float | None = None
    """how many points its accuracy lies above theirs; None: 50 times the gain"""
    spread: float = 0.01
    """standard deviation over replicates of the difference in loss"""
    best: Mapping[str, Sequence[float]] = field(default_factory=lambda: BEST)
    widths: Mapping[str, float] = field(default_factory=dict)
    """of the optimizers' basins, if not 1"""
    diverged: Sequence[tuple[int, str]] = ()
    """(replicate, optimizer) whose confirm runs diverge; trials do in the uppermost tenth of the learning rate"""
    never_trains: Sequence[str] = ()
    """optimizers all of whose runs diverge"""
    optimizers: Sequence[str] = ("lion", "adamw")
    numbers: Sequence[int] = range(6)
    declared: int = 6
    stages: Sequence[int] = (4, 3, 2)
    confirm: int = 2
    lengths: Sequence[float] = (0.7, 1.4)
    nuisance: Mapping[str, Any] = field(default_factory=lambda: {"train.clip_norm": {"low": 0.5, "high": 2.0}})
    margin: float | None = None
    paper: str | None = None
    hardware: Mapping[int, str] = field(default_factory=dict)
    """the processors of replicates, if not the imagined one"""
    fingerprints: Mapping[int, str] = field(default_factory=dict)
    """of replicates' data, if not all f"""
    samples: bool = False
    """whether the task generates images"""


def write_study(
    results: Path, task: str = "image_classification", scale: str = "mini", experiment: str = "mini", **truth: Any
) -> Path:
    """Write a study below ``results`` and return its folder; ``truth`` are fields of Truth."""
    study, directory = Truth(**truth), results / task / scale / experiment
    directory.mkdir(parents=True, exist_ok=True)
    about = {
        "schema": 2,
        "task": task,
        "scale": scale,
        "experiment": experiment,
        "command": f"python -m experiments.{task} --multirun hydra/sweeper=study scale={scale}",
    }
    (directory / "study.json").write_text(json.dumps(about | _declared(study)))
    for number in study.numbers:
        write_replicate(replicate_path(directory, number), _Simulated(study, task, number).replicate())
    if study.samples:
        _write_samples(directory, study.optimizers)
    return directory


def _declared(study: Truth) -> dict[str, Any]:
    return {
        "study": {
            "reference": "adamw",
            "replicates": study.declared,
            "stages": list(study.stages),
            "confirm": study.confirm,
            "lengths": list(study.lengths),
            "nuisance": study.nuisance,
            "primary_metric": "test/loss",
            "primary_reason": "it spreads least between replicates",
            "validation_metric": "val/loss",
            "better": "lower",
            "validation_better": "lower",
            "secondary_metrics": {"test/top1": "higher"} | ({"samples/kid": "lower"} if study.samples else {}),
            "margin_percent": 10.0,
            "margin": study.margin,
            "margin_reason": "a tenth of the cost matters to nobody",
            "paper": study.paper,
        },
        "identity": {"contestants": dict.fromkeys(study.optimizers)},
        "spaces": dict.fromkeys(study.optimizers, SPACE) if study.stages else {},
        "regime": {
            "model": "ConvNet",
            "parameters": PARAMETERS,
            "batch_size": BATCH_SIZE,
            "tokens_per_sample": None,
            "steps": STEPS,
            "train_samples": 40_000,
        },
    }


class _Simulated:
    """One replicate."""

    def __init__(self, study: Truth, task: str, number: int) -> None:
        self.study, self.task, self.number = study, task, number
        rng = np.random.default_rng([7, number])
        self.shared = float(rng.normal(0, 0.05))
        self.own = {"lion": study.gain + float(rng.normal(0, study.spread))}
        top1_gain = 50 * study.gain if study.top1_gain is None else study.top1_gain
        self.own_top1 = top1_gain + float(rng.normal(0, 20 * study.spread))
        self.winners: dict[str, tuple[float, ...]] = {}

    def replicate(self) -> Replicate:
        """The searches of all optimizers, and their winners on fresh seeds."""
        study, number = self.study, self.number
        runs = [run for name in study.optimizers for run in self.search(name, study.stages)]
        for seed in range(100 * number + 1, 100 * number + 1 + study.confirm):
            for name in study.optimizers:
                runs.append(self.run(name, "confirm", seed=seed, diverged=(number, name) in study.diverged))
            runs += [self.run("adamw", "length", seed=seed, length=length) for length in study.lengths]
        processor = study.hardware.get(number, "an imagined processor")
        environment = ENVIRONMENT | {"hardware": {"cpu": processor, "cpu_count": 2}}
        drawn = {key: round(0.5 + number / 10, 3) for key in study.nuisance}
        return Replicate(number, environment, drawn, tuple(runs))

    def search(self, name: str, stages: Sequence[int]) -> list[ReplicateRun]:
        """The replicate's trials, as the suite would choose them."""
        runs: list[ReplicateRun] = []
        for stage, count in enumerate(stages):
            centre = self.winners.get(name)
            width = SHRINK**stage if centre else 1.0
            low = np.clip(np.subtract(centre or (0.5,) * 4, width / 2), 0, 1 - width)
            drawn = np.random.default_rng([self.number, stage]).random((count, 4))
            for point in (low + width * drawn).tolist():
                trial, lost = len(runs) + 1, point[0] > 0.9
                runs.append(self.run(name, "search", unit=tuple(point), stage=stage + 1, trial=trial, diverged=lost))
            if whole := [run for run in runs if not run.diverged]:
                self.winners[name] = min(whole, key=lambda run: run.last("val/loss") or 0.0).unit
        return runs

    def run(
        self,
        name: str,
        phase: Any,
        *,
        unit: tuple[float, ...] = (),
        stage: int = 0,
        trial: int = 0,
        seed: int | None = None,
        length: float = 1.0,
        diverged: bool = False,
    ) -> ReplicateRun:
        seed = 100 * self.number if seed is None else seed
        at = unit or self.winners.get(name, ())
        diverged = diverged or name in self.study.never_trains
        centre, width = self.study.best.get(name, (0.5,) * 4), self.study.widths.get(name, 1.0)
        regret = sum((x - y) ** 2 for x, y in zip(at, centre, strict=False)) / width
        gain = self.own.get(name, 0.0)
        loss = 1.2 + self.shared + SLOPE * math.log(length) + (regret if phase == "search" else 0.0) - gain
        top1 = 60 - 20 * (loss - 1.2) + (self.own_top1 - 20 * gain if name == "lion" else 0.0)
        steps = round(STEPS * length)
        until, tested = steps // 2 if diverged else steps, phase != "search" and not diverged
        rows = self._rows(loss, top1, until, steps, tested=tested)
        settings = {"name": name, "_target_": "torch.optim.AdamW", "space": {}, "eps": 1e-6}
        settings |= {"lr": 1e-5 * 1000 ** (at[0] if at else 0.5), "betas": [0.9, 0.99], "weight_decay": 0.1}
        config = {
            "task": self.task,
            "data": {"name": "cifar10", "fingerprint": self.study.fingerprints.get(self.number, "f" * 16)},
            "model": {"_target_": "experiments.image_classification.convnet.ConvNet"},
            "optimizer": settings,
            "seed": seed,
            "test": phase != "search",
            "train": {"steps": steps, "batch_size": BATCH_SIZE},
        }
        status = {"status": "diverged" if diverged else "complete", "sources_digest": f"abcdef0123456789-{name}"}
        return ReplicateRun(
            run_id=f"{name}-s{seed}-{phase}{trial}x{length:g}",
            optimizer=name,
            phase=phase,
            stage=stage,
            trial=trial,
            length=length,
            seed=seed,
            unit=unit,
            config=json.dumps(config),
            status=json.dumps(status | ({"reason": "the loss is not finite"} if diverged else {})),
            metrics="".join(json.dumps(row) + "\n" for row in rows),
            parameter_groups="{}",
        )

    def _rows(self, loss: float, top1: float, until: int, steps: int, *, tested: bool) -> Any:
        for step in range(20, until + 1, 20):
            left = math.exp(-4 * step / steps) - math.exp(-4)
            shared = {"step": step, "samples": step * BATCH_SIZE}
            yield shared | {
                "train/loss": loss + left,
                "train/lr": 1e-3,
                "train/grad_norm": 1.0,
                "optimizer/update_norm": 0.01,
                "time/train_s": step / 20,
                "time/optimizer_step_ms": 1.25,
                "cost/state_bytes": 8 * PARAMETERS,
                "cost/peak_bytes": 50_000_000,
            }
            if self.study.samples and tested and step in (steps // 2, steps):
                yield shared | {"samples/num_samples": 8, "samples/kid": loss + left, "samples/kid_floor": 0.1}
            if step % 40 == 0 or step == until:
                yield shared | {"val/loss": loss + left, "val/top1": top1 - 20 * left}
        if tested:
            yield {"step": steps, "samples": steps * BATCH_SIZE, "test/loss": loss, "test/top1": top1}


def _write_samples(directory: Path, optimizers: Sequence[str]) -> None:
    from PIL import Image

    (directory / "samples").mkdir()
    for shade, name in enumerate(optimizers):
        Image.new("RGB", (64, 32), (60 * shade, 120, 200)).save(directory / "samples" / f"{name}.png")
