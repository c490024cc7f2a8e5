"""From runs/ to results/: the records of a study's runs without their checkpoints, and what the study was."""

import json
import shutil
from pathlib import Path
from typing import Any

from experiments.harness.provenance import ROOT, sources_digest
from experiments.harness.record import write_aside
from experiments.study.looks import looks_at
from experiments.study.plan import at_edge
from experiments.study.summary import write_summary
from experiments.study.sweep import Contestant, Study

RECORD_FILES = ("config.yaml", "metrics.jsonl", "status.json", "environment.json", "parameter_groups.json")


def publish(study: Study, command: str) -> Path:
    """Write study.json, runs/<run id>/ and summary.json to results/<task>/<scale>/<study>/, and return that folder.

    ``command`` is what a reader types to make it again.
    """
    config = study.config
    directory = ROOT / config["run"]["results_dir"] / config["task"] / config["scale"] / study.name
    if (directory / "runs").exists():
        shutil.rmtree(directory / "runs")
    for contestant in study.contestants:
        for run in [*(run for runs in contestant.tuning.values() for run in runs), *contestant.confirmation]:
            (directory / "runs" / run.directory.name).mkdir(parents=True, exist_ok=True)
            for name in RECORD_FILES:
                shutil.copyfile(run.directory / name, directory / "runs" / run.directory.name / name)
            if (run.directory / "samples.png").exists():
                shutil.copyfile(run.directory / "samples.png", directory / "runs" / run.directory.name / "samples.png")
    description: dict[str, Any] = {
        "schema": 1,
        "task": config["task"],
        "scale": config["scale"],
        "experiment": study.name,
        "command": command,
        "study": study.settings,
        "contestants": {contestant.name: _described(contestant) for contestant in study.contestants},
        "sources_digest": sources_digest(config["task"]),
    }
    description["looks"] = looks_at(directory / "study.json", description)
    write_aside(directory / "study.json", json.dumps(description, indent=1) + "\n")
    write_summary(directory)
    return directory


def _described(contestant: Contestant) -> dict[str, Any]:
    assert contestant.winner is not None
    return {
        "tuning": [
            {"lr": point.lr, "weight_decay": point.weight_decay, "runs": [run.directory.name for run in runs]}
            for point, runs in contestant.tuning.items()
        ],
        "winner": {"lr": contestant.winner.lr, "weight_decay": contestant.winner.weight_decay},
        "at_grid_edge": at_edge(contestant.winner, list(contestant.tuning)),
        "confirmation": [run.directory.name for run in contestant.confirmation],
    }
