"""Rerun one published run from its record, and compare row by row.

The run is repeated from its recorded config and data in a separate folder; runs/ and results/ are not touched. If the
arithmetic is that of the record, every row except times and memory must be bitwise identical. Otherwise rounding
differences grow like any perturbation of training: then the first logged row must agree within FIRST_ROW_TOLERANCE, and
the final metrics within the spread of the study's confirm runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from statistics import stdev
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.harness.arithmetic import describe_arithmetic
from experiments.harness.composition import composed
from experiments.harness.entry import execute
from experiments.harness.errors import SuiteError
from experiments.harness.record import read_metrics, read_status
from experiments.harness.run import locate
from experiments.harness.source_code import ROOT, package_versions
from experiments.study.replicates import Replicate, ReplicateRun, read_replicate, read_replicates

UNTIMED = ("time/", "cost/")
"""Prefixes of the metrics that measure a run's cost, which differ between any two runs."""
FIRST_ROW_TOLERANCE = 0.05
"""Relative tolerance for loss and gradient norm in the first logged row. Between AVX2 and AVX-512, the gradient norm of
image classification at mini differs by 1.2 % at step 10, its loss by 0.1 %."""
SPREAD = 3.0
"""How far a final metric may lie from the recorded one, in standard deviations over the study's confirm runs."""


class Different(Exception):
    """The run disagrees with its record; the message says where."""


def verify(path: Path, run_id: str, folder: Path) -> str:
    """Rerun ``run_id`` of the published replicate at ``path`` under ``folder``; returns in a few words how it agrees.

    Raises Different.
    """
    try:
        replicate = read_replicate(path)
        recorded = next(run for run in replicate.runs if run.run_id == run_id)
        config = config_of(recorded, replicate, folder)
    except (SuiteError, OSError, ValueError, LookupError) as error:
        raise Different(f"the record cannot be read: {error}") from error
    if differences := other_arithmetic(replicate.environment, environment_here(config)):
        print(f"{run_id}: {'; '.join(differences)}", flush=True)
    try:
        run = locate(config)
        if run.data.fingerprint != recorded.plain["data"]["fingerprint"]:
            raise Different(f"the data here are different, with the fingerprint {run.data.fingerprint}")
        execute(config)
    except SuiteError as error:
        raise Different(f"cannot be rerun: {error}") from error
    status, rows = read_status(run.directory), read_metrics(run.directory)
    assert status
    if (status["status"] == "diverged") != recorded.diverged:
        raise Different(f"is {status['status']}, recorded {'diverged' if recorded.diverged else 'complete'}")
    difference = first_difference(recorded.rows, rows)
    if difference is None:
        return f"identical, {len(rows)} rows"
    if not (differences and all_differ(recorded.rows, rows)):
        raise Different(difference)
    confirmed = [run for other in read_replicates(path.parents[1]) for run in other.of(recorded.optimizer, "confirm")]
    check_as_chaos_allows(recorded, rows, [run for run in confirmed if run.run_id != run_id])
    return (
        f"with different arithmetic: {difference}; the first row agrees within {FIRST_ROW_TOLERANCE:.0%}, the final "
        f"metrics within {SPREAD:.0f} standard deviations of the confirm runs"
    )


def config_of(recorded: ReplicateRun, replicate: Replicate, folder: Path) -> DictConfig:
    """The config in a record, with its data sources filled in, for a run under ``folder`` without W&B."""
    cfg = composed(recorded.plain["task"], ["scale=smoke", "run.wandb=disabled", f"run.runs_dir='{folder}'"])
    with open_dict(cfg):
        for key, recorded_value in recorded.plain.items():
            value = with_sources(recorded_value) if key == "data" else recorded_value
            schema = OmegaConf.get_type(cfg, key)
            # Keys newer than the record get their schema's defaults, which are the behaviour before they existed.
            cfg[key] = OmegaConf.merge(OmegaConf.structured(schema), value) if is_dataclass(schema) else value
        cfg.run.device = "cuda" if "gpu" in replicate.environment["hardware"] else "cpu"
    return cfg


def with_sources(data: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded data set, nested sets included, with its sources from conf/data filled in by name.

    The recorded fingerprint may combine several sets, so each gets its declared fingerprint back.
    """
    known: Any = {}
    if (ROOT / "conf" / "data" / f"{data.get('name')}.yaml").exists():
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            known = OmegaConf.to_container(compose(f"data/{data['name']}").data)
    recorded = {key: with_sources(value) if isinstance(value, dict) else value for key, value in data.items()}
    where = {key: value for key, value in known.items() if key in ("access", "fingerprint") or key.endswith("sources")}
    return recorded | where


def environment_here(cfg: DictConfig) -> dict[str, Any]:
    """Everything that decides the bits of a run of ``cfg`` in this process, which has pinned its instruction set."""
    import torch

    if cfg.train.threads is not None:
        torch.set_num_threads(cfg.train.threads)
    on_gpu = cfg.run.device == "cuda" and torch.cuda.is_available()
    arithmetic = describe_arithmetic(torch.device("cuda" if on_gpu else "cpu"))
    return {"packages": package_versions(), "arithmetic": arithmetic}


def other_arithmetic(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """The differences from the record that affect the bits, in words."""
    return [
        f"the record was made with {name} {theirs[kind].get(name)}, here it is {here}"
        for kind in ("packages", "arithmetic")
        for name, here in ours[kind].items()
        if theirs[kind].get(name) != here
    ]


def first_difference(theirs: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]]) -> str | None:
    """The first step and metric that differ, with both values; None if all rows agree except for UNTIMED metrics."""
    for recorded, made in zip(theirs, ours, strict=False):
        for key in dict.fromkeys([*recorded, *made]):
            expected, found = recorded.get(key), made.get(key)
            if expected != found and not key.startswith(UNTIMED):
                by = f" ({found / expected - 1:+.1e})" if expected and isinstance(found, float) else ""
                return f"differs from step {made['step']} on: {key} is {found!r}, recorded {expected!r}{by}"
    return None if len(theirs) == len(ours) else f"has {len(ours)} rows, recorded {len(theirs)}"


def all_differ(theirs: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every logged gradient norm differs, as with different arithmetic; an edited record would leave some
    equal.
    """
    name = "train/grad_norm"
    pairs = [(recorded[name], made.get(name)) for recorded, made in zip(theirs, ours, strict=False) if name in recorded]
    return bool(pairs) and all(recorded != made for recorded, made in pairs)


def check_as_chaos_allows(
    recorded: ReplicateRun, made: Sequence[Mapping[str, Any]], confirmed: Sequence[ReplicateRun]
) -> None:
    """Raise Different if the rows ``made`` differ by more than different arithmetic explains."""
    for key in ("train/loss", "train/grad_norm"):
        (_, expected), found = recorded.curve(key)[0], next(row[key] for row in made if key in row)
        if abs(found - expected) > FIRST_ROW_TOLERANCE * abs(expected):
            by = f"more than {FIRST_ROW_TOLERANCE:.0%}"
            raise Different(f"differs in its first row by {by}: {key} is {found}, recorded {expected}")
    ends = {key: value for row in made for key, value in row.items() if key.startswith("test/")}
    for key, found in ends.items():
        expected = recorded.curve(key)[-1][1]
        values = [value for run in confirmed if (value := run.last(key)) is not None]
        if len(values) > 1 and abs(found - expected) > SPREAD * stdev(values):
            by = f"more than {SPREAD:.0f} standard deviations of the confirm runs"
            raise Different(f"differs in its final metrics by {by}: {key} is {found}, recorded {expected}")
