"""Whole studies on a tiny problem, through the command line and the sweeper."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus

from experiments.harness.errors import ConfigError, DataError, SuiteError
from experiments.study import sweep
from experiments.study.course import PlannedRun
from experiments.study.replicates import Phase, Replicate, read_replicates
from experiments.study.sweep import announcement, run_studies, split_sweep
from tests import forked
from tests.conftest import MakeConfig
from tests.study.conftest import make_study


def study_command(command_line: list[str], *overrides: str) -> list[str]:
    python, module, task, *common = command_line
    once = {override.partition("=")[0]: override for override in (*common, *overrides)}  # the last value of a key wins
    return [python, module, task, "--multirun", "hydra/sweeper=study", *once.values()]


def run_study(command_line: list[str], *overrides: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """A study that ends with this exit code."""
    result = forked.run(study_command(command_line, *overrides))
    assert result.returncode == code, result.stdout + result.stderr
    return result


def studies(results: Path) -> list[dict[str, Any]]:
    """The summaries of all studies published below ``results``."""
    return [json.loads(path.read_text()) for path in sorted(results.rglob("summary.json"))]


def replicates(results: Path) -> list[Replicate]:
    """The replicates of the only study published below ``results``."""
    (path,) = results.rglob("study.json")
    return read_replicates(path.parent)


def test_a_study_searches_confirms_publishes_and_is_not_rerun(command_line: list[str], tmp_path: Path) -> None:
    first = run_study(command_line, "optimizer=lion,adamw")
    aside = re.compile(r"\d\d:\d\d |data=")  # lines about a busy machine, and about the data on the first run
    lines = [line for line in first.stdout.splitlines() if not aside.match(line)]
    assert "image classification, smoke, smoke" in lines[0]
    assert "replicate 0. 3 trials to tune each of lion and adamw, then the winners on fresh" in lines[0]
    assert ": 9 runs. Ctrl-C saves" in lines[0]
    assert lines[1].startswith("All 9 runs are done, after ")
    assert lines[2].startswith("image_classification, smoke,")  # the table: the output of runs is in their folders
    assert f"experiments.report.dashboard --results {tmp_path}" in lines[-2]
    assert lines[-1].startswith("Next: the same command without scale=smoke")
    assert len(list(tmp_path.glob("runs/*/*/log.txt"))) == 9
    (summary,) = studies(tmp_path)
    assert {name: optimizer["trials"] for name, optimizer in summary["optimizers"].items()} == {"lion": 3, "adamw": 3}
    (replicate,) = replicates(tmp_path)
    assert replicate.number == 0

    # Search and confirmation share no seed, and only confirmation sees the test split.
    for run in replicate.runs:
        assert run.seed == (99 + run.trial if run.phase == "search" else 0)
        assert bool(run.curve("test/top1")) is (run.phase != "search")
        assert run.run_id.startswith(f"{run.optimizer}-s{run.seed}-")

    # All optimizers are searched at the same points with the same redrawn settings, and confirmed with their winners.
    for lion, adamw in zip(replicate.of("lion", "search"), replicate.of("adamw", "search"), strict=True):
        if lion.stage == 1:
            assert lion.unit == adamw.unit[: len(lion.unit)]
    for key in ("clip_norm", "end_factor"):
        (drawn,) = {str(run.plain["train" if key == "clip_norm" else "schedule"][key]) for run in replicate.runs}
        assert drawn == str(next(value for name, value in replicate.nuisance.items() if name.endswith(key)))
    for name in ("lion", "adamw"):
        losses = {run.last("val/top1"): run for run in reversed(replicate.of(name, "search"))}
        winner = losses[max(value for value in losses if value is not None)]
        confirmed = [run for run in replicate.runs if run.optimizer == name and run.phase != "search"]
        assert all(run.plain["optimizer"] == winner.plain["optimizer"] for run in confirmed)
    (longer,) = [run for run in replicate.runs if run.phase == "length"]
    assert (longer.optimizer, longer.length, longer.plain["train"]["steps"]) == ("adamw", 1.5, 12)
    assert longer.plain["schedule"]["warmup_steps"] == 3

    started = time.monotonic()
    python, *rest = study_command(command_line, "optimizer=lion,adamw")
    again = subprocess.run([python, "-X", "importtime", *rest], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert time.monotonic() - started < 30
    imported = {line.rsplit("|", 1)[1].strip() for line in again.stderr.splitlines() if line.startswith("import time:")}
    assert "omegaconf" in imported
    assert not imported & {"torch", "scipy.stats", "scipy.special", "matplotlib", "pandas", "ray"}
    assert "everything requested is already published" in again.stdout
    assert "runs are done" not in again.stdout
    assert studies(tmp_path) == [summary]


def test_the_headline_metric_is_measured_on_its_own_winners(command_line: list[str], tmp_path: Path) -> None:
    name = "test/loss"
    run_study(
        command_line, "optimizer=lion,adamw", f"study.headline_metric={name}", "study.stages=[5]", "study.lengths=[]"
    )
    (replicate,), (summary,) = replicates(tmp_path), studies(tmp_path)
    (row,) = [row for row in summary["comparisons"] if row["metric"] == name]
    others = 0
    for optimizer in ("lion", "adamw"):
        trials = replicate.of(optimizer, "search")
        best, decides = (
            sorted(trials, key=lambda run: sign * (run.last(metric) or 0.0))
            for sign, metric in ((1, "val/loss"), (-1, "val/top1"))
        )
        (read,) = replicate.of(optimizer, "headline" if best[0] != decides[0] else "confirm")
        others += read.phase == "headline"
        assert read.plain["optimizer"] == best[0].plain["optimizer"]
        assert row["per_replicate"][optimizer] == [read.last(name)]
        (confirmed,) = replicate.of(optimizer, "confirm")
        assert (confirmed.seed, confirmed.plain["test"]) == (read.seed, True)
    assert others, "each optimizer's best is the best by both metrics, so that this test shows nothing"


def test_an_optimizer_matches_itself_in_other_units(command_line: list[str], tmp_path: Path) -> None:
    optimizers = "optimizer=adamw,adamw_thousandths"
    run_study(command_line, optimizers, "hydra.searchpath=[pkg://tests.study.conf]", "study.lengths=[]")
    (replicate,) = replicates(tmp_path)
    measured: list[tuple[str, Phase]] = [("val/loss", "search"), ("test/loss", "confirm")]
    for metric, phase in measured:
        ours, theirs = (
            [run.last(metric) for run in replicate.of(name, phase)] for name in ("adamw", "adamw_thousandths")
        )
        assert ours
        assert theirs == pytest.approx(ours, rel=1e-6)


@pytest.mark.slow
def test_every_value_of_another_swept_key_becomes_a_study(command_line: list[str], tmp_path: Path) -> None:
    overrides = ["optimizer=lion,adamw", "train.batch_size=16,32", "study=fixed"]
    run_study(command_line, *overrides)
    assert [summary["batch_size"] for summary in studies(tmp_path)] in ([16, 32], [32, 16])


@pytest.mark.slow
def test_a_killed_study_resumes_to_the_same_result(command_line: list[str], tmp_path: Path) -> None:
    overrides = ["optimizer=lion,adamw", "train.steps=40", "run.checkpoint_every=5"]
    process = subprocess.Popen(study_command(command_line, *overrides), stdout=subprocess.PIPE, text=True)
    runs = tmp_path / "runs/image_classification"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(runs.glob("*/step-*.pt"))) < 5:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    result = run_study(command_line, *overrides)
    assert "search, round 1 of 2: 1 of 4 runs to continue" in result.stdout
    (interrupted,) = studies(tmp_path / "results")
    elsewhere = [f"run.runs_dir={tmp_path}/other", f"run.results_dir={tmp_path}/other_results"]
    result = run_study(command_line, *overrides, *elsewhere)
    (uninterrupted,) = studies(tmp_path / "other_results")
    assert interrupted["comparisons"] == uninterrupted["comparisons"]


def test_a_failing_run_is_named_and_fails_the_study(command_line: list[str]) -> None:
    result = run_study(command_line, "optimizer=lion,adamw", "+optimizer.nonsense=1", code=2)
    assert "4 of 4 runs did not finish" in result.stderr
    assert "lion-s100-" in result.stderr
    assert "nonsense" in result.stderr


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("optimizer.lr=0.1,0.2", "optimizer.lr is searched by this study, so a value for it would be ignored"),
        ("study.primary_metric=val/lose", "study.primary_metric names val/lose"),
    ],
)
def test_a_refused_study_starts_no_run(command_line: list[str], tmp_path: Path, override: str, reason: str) -> None:
    assert reason in run_study(command_line, "optimizer=lion,adamw", override, code=2).stderr
    assert not list(tmp_path.rglob("metrics.jsonl"))


def parse(*overrides: str) -> tuple[list[str], list[list[str]]]:
    return split_sweep(OverridesParser.create().parse_overrides(list(overrides)))


def test_swept_optimizers_are_contestants_and_other_sweeps_are_studies() -> None:
    assert parse("optimizer=lion,adamw", "seed_x=1", "a=1,2", "b=choice(x,y)") == (
        ["lion", "adamw"],
        [
            ["seed_x=1", "a=1", "b=x"],
            ["seed_x=1", "a=1", "b=y"],
            ["seed_x=1", "a=2", "b=x"],
            ["seed_x=1", "a=2", "b=y"],
        ],
    )
    with pytest.raises(ConfigError, match="A study chooses seed itself"):
        parse("optimizer=lion,adamw", "seed=1,2")
    with pytest.raises(ConfigError, match=r"A study chooses test itself, .*: leave it out\."):
        parse("optimizer=lion,adamw", "test=false")
    with pytest.raises(ConfigError, match=r"train\.batch_size is given twice"):
        parse("optimizer=lion,adamw", "train.batch_size=16,32", "train.batch_size=64")


def test_swept_values_that_give_the_same_study_are_refused(make_config: MakeConfig) -> None:
    of_both = [make_study(make_config, f"label_smoothing={equal}") for equal in ("0", "0.0")]
    with pytest.raises(ConfigError, match="give the same study"):
        run_studies(of_both, FlakyLauncher(0))  # type: ignore[arg-type]


BOTH = ("lion", "adamw")


@pytest.mark.parametrize(
    ("settings", "optimizers", "message"),
    [
        ([], ("adamw", "adamw"), "lists a contestant twice: list each once"),
        (["study.contestants=[lion,adamw,lion]"], (), "lists a contestant twice: list each once"),
        (["~optimizer.space"], BOTH, r"optimizer=lion has no search space, .* as in conf/optimizer/adamw\.yaml,"),
        (["study=fixed"], ("sgd", "adamw"), r"classification/smoke has no settings for sgd, and study\.stages=\[\]"),
        ([], ("lion",), r"study\.reference=adamw, but optimizer=lion"),
        *(
            ([f"study.numbers='{numbers}'"], BOTH, r"study\.numbers=.* \(make's REPLICATES\)")
            for numbers in ("x", "3-1", "1.5", "-1")
        ),
    ],
)
def test_an_impossible_study_is_refused_with_the_remedy(
    make_config: MakeConfig, settings: list[str], optimizers: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_study(make_config, *settings, optimizers=optimizers)


def test_an_optimizer_that_takes_anothers_settings_needs_no_own(make_config: MakeConfig) -> None:
    study = make_study(make_config, "study=fixed", optimizers=("lion_8bit", "adamw"))
    (course,) = study.courses
    assert {run.optimizer for run in course.confirm()} == {"lion_8bit", "adamw"}


def test_a_study_announces_its_replicates_runs_and_minutes(make_config: MakeConfig) -> None:
    def said(*overrides: str) -> str:
        return announcement(make_study(make_config, *overrides))

    several = said("study.numbers=0-3", "study.stages=[2,1]", "study.confirm=2", "study.lengths=[0.5]")
    assert "4 replicates, 0 to 3. 3 trials to tune each of lion and adamw" in several
    assert f"{4 * (3 * 2 + 2 * (2 + 1))} runs." in several  # trials, then two winners and one other length, twice
    assert said("run.minutes=15", "study.numbers=0-1").count("at most about 30 minutes on two CPU cores") == 1
    assert "minutes" not in said("run.minutes=15", "train.batch_size=64")  # for which nothing was measured


class FlakyLauncher:
    """Fails ``faults`` times, each time after finishing one run, and then finishes everything."""

    def __init__(self, faults: int) -> None:
        self.faults = faults
        self.launched: list[int] = []

    def launch(self, job_overrides: list[list[str]], initial_job_idx: int) -> list[Any]:
        self.launched.append(len(job_overrides))
        for overrides in job_overrides[: 1 if self.faults else None]:
            directory = Path(overrides[0])
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "status.json").write_text('{"status": "complete"}')
        if self.faults:
            self.faults -= 1
            raise ConnectionError("a worker was lost")
        return []


def planned(folder: Path, count: int) -> list[PlannedRun]:
    return [PlannedRun([str(folder / str(n))], folder / str(n), "lion", "search", 0) for n in range(count)]


def test_after_a_failed_launch_ray_is_shut_down_and_unfinished_runs_are_launched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher, launches_before_shutdown = FlakyLauncher(faults=2), list[int]()
    ray = SimpleNamespace(shutdown=lambda: launches_before_shutdown.append(len(launcher.launched)))
    monkeypatch.setitem(sys.modules, "ray", ray)
    sweep.launch(launcher, planned(tmp_path, 4))  # type: ignore[arg-type]
    assert launcher.launched == [4, 3, 2]
    assert launches_before_shutdown == [1, 2]


def test_a_launcher_that_keeps_failing_ends_the_study_and_names_the_runs(tmp_path: Path) -> None:
    launcher = FlakyLauncher(faults=99)
    with pytest.raises(SuiteError, match=r"6 of 9 runs did not finish:\n  .*/3: missing"):
        sweep.launch(launcher, planned(tmp_path, 9))  # type: ignore[arg-type]
    assert launcher.launched == [9, 8, 7]


def test_a_run_that_failed_before_its_record_is_named_with_the_reason(tmp_path: Path) -> None:
    class Launcher:
        def launch(self, job_overrides: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
            fault = DataError("the cache of this node cannot be written")
            return [JobReturn(_return_value=fault, status=JobStatus.FAILED)]

    with pytest.raises(SuiteError, match=r"/0: the cache of this node cannot be written"):
        sweep.launch(Launcher(), planned(tmp_path, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("swept", ["seed=0,0", "optimizer.lr=0.1,1e-1", "run.num_workers=0,2", "optimizer.lr=1,1.0"])
def test_a_plain_sweep_that_repeats_a_run_is_refused(command_line: list[str], swept: str) -> None:
    result = forked.run([*command_line[:3], "--multirun", *command_line[3:], swept])
    assert result.returncode == 2
    assert "error: Several of the swept values give the same run" in result.stderr
    assert "Traceback" not in result.stderr
