"""``make soak``: inject random faults into runs and studies of every task for a given time; whatever happens, the same
command afterwards must end with the rows and weights of an undisturbed one.

SOAK_SECONDS (60), SOAK_SEED (random by default, and printed), SOAK_PAGE (a page to add the faults to).
"""

import json
import os
import platform
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest

from experiments.harness import source_code, tracking
from experiments.harness.files import write_aside
from experiments.harness.source_code import ROOT
from tests.conftest import last_checkpoint, rows
from tests.soak.faults import (
    DATA_WORKER,
    IN_A_PROCESS,
    Prepare,
    damage,
    end,
    failing_server,
    import_what_was_imported,
    list_imports,
    start,
)
from tests.soak.page import DAMAGED, FRESH, KINDS, RAY, SERVER, TWO, WANDB, page_with

SMALL = ["scale=smoke", "run.checkpoint_every=2"]
STUDY = ["--multirun", "hydra/sweeper=study", "optimizer=lion,adamw"]
RAY_LOCAL = ["hydra/launcher=ray_local", "+hydra.launcher.ray.init.num_cpus=2"]
PARTS_OF_RAY = ("gcs_server", "raylet", "ray::_run_job", "ray::IDLE", "ray::DashboardAgent", "python")

End = dict[str, Any]


def end_of(folder: Path) -> End:
    """The rows and weights of all runs under a folder, and the comparisons of its studies."""
    ends: End = {}
    for run in sorted(path.parent for path in folder.glob("runs/*/*/status.json")):
        has_checkpoint = any(run.glob("step-*.pt"))  # a run that is still unfinished may have none
        state = last_checkpoint(run) if has_checkpoint else {"model": {}, "optimizer": None}
        tensors = {name: value.numpy().tobytes() for name, value in state["model"].items()}
        status = json.loads((run / "status.json").read_text())["status"]
        ends[run.name] = (status, rows(run), tensors, repr(state["optimizer"]))
    for path in sorted(folder.glob("results/*/*/*/summary.json")):
        ends[path.parent.name] = json.loads(path.read_text())["comparisons"]
    return ends


class Trial:
    """One command in its own folder, run with faults until it finishes."""

    def __init__(self, rng: random.Random, task: str, arguments: list[str], folder: Path, study: bool) -> None:
        self.rng, self.task, self.folder, self.study = rng, task, folder, study
        self.log = folder / "log"
        folder.mkdir()
        self.arguments = [*(STUDY if study else []), *SMALL, *arguments]
        self.arguments += [f"run.runs_dir={folder}/runs", f"run.results_dir={folder}/results"]

    def disturb(self, kind: str) -> bool:
        """Inject one fault of this kind, while the command runs or after killing it. Returns whether it struck: the
        command may end first.
        """
        workers = 2 if kind == DATA_WORKER else self.rng.choice([0, 0, 0, 2])
        arguments = [*self.arguments, f"run.num_workers={workers}"]
        if kind in IN_A_PROCESS:
            return end(start(self.task, arguments, self.log, IN_A_PROCESS[kind](self.rng, self.folder / "runs"))) != 0
        elif kind == DAMAGED:
            interrupted = IN_A_PROCESS["kill -9 at a file operation"](self.rng, self.folder / "runs")
            end(start(self.task, arguments, self.log, interrupted))
            if any(self.folder.glob("results/*/*/[!.]*/summary.json")):  # published: its runs are not read again
                return False
            damaged = damage(self.rng, self.folder / "runs")
            self.note(damaged)
            return damaged != "nothing to damage"
        elif kind == TWO:
            first = start(self.task, arguments, self.log)
            time.sleep(self.rng.uniform(0, 1))
            second = start(self.task, arguments, self.log)
            self.note(f"two processes ended with {end(first)} and {end(second)}")
        elif kind == FRESH:
            old = start(
                self.task, arguments, self.log, lambda: setattr(source_code, "digest", lambda task, named: "0-0")
            )
            time.sleep(self.rng.uniform(0, 2))
            fresh = "run.fresh=true"
            new = start(self.task, [*(argument for argument in arguments if argument != fresh), fresh], self.log)
            self.note(f"the old run ended with {end(old)}, the new one with {end(new)}")
            self.arguments = [*(argument for argument in self.arguments if argument != fresh), fresh]
        elif kind == WANDB:
            noted = self.log.read_text().count("--- W&B") if self.log.exists() else 0
            end(start(self.task, [*arguments, "run.wandb=offline"], self.log, self.lose_wandb))
            return self.log.read_text().count("--- W&B") > noted
        elif kind == SERVER:
            with failing_server(self.rng) as url:
                end(start(self.task, [*arguments, "run.wandb=online"], self.log, lambda: be_impatient(url)))
        elif kind == RAY:
            child = start(self.task, [*self.arguments, *RAY_LOCAL], self.log)
            time.sleep(self.rng.uniform(2, 30))
            part, parts = self.rng.choice(PARTS_OF_RAY), psutil.Process(child).children(recursive=True)
            killed = [process for process in (psutil.Process(child), *parts) if process.name() == part][:1]
            for process in killed:
                process.kill()
            self.note(f"{part} of Ray killed: {len(killed)}; the study ended with {end(child)}")
            return bool(killed)
        return True

    def lose_wandb(self) -> None:
        """Make W&B's service die or stop at a random row."""
        be_impatient("http://127.0.0.1:9")
        log, row = tracking.Tracker.log, self.rng.randrange(6)
        how, seen = self.rng.choice([signal.SIGKILL, signal.SIGSTOP]), Counter[tracking.Tracker]()

        def killing(tracker: tracking.Tracker, values: dict[str, float]) -> None:
            if seen[tracker] == row:
                for service in psutil.Process().children():
                    if service.name().startswith("wandb"):
                        service.send_signal(how)
                        self.note(f"W&B: {how.name}")
            seen[tracker] += 1
            log(tracker, values)

        setattr(tracking.Tracker, "log", killing)  # noqa: B010  # mypy wants the names of the parameters to be the same

    def note(self, what: str) -> None:
        with self.log.open("a") as file:
            file.write(f"--- {what}\n")

    def finish(self, prepare: Prepare = lambda: None) -> int | None:
        """Run the command once more, undisturbed, and return its exit code."""
        return end(start(self.task, self.arguments, self.log, prepare))


def be_impatient(url: str) -> None:
    """Make a process use this W&B server, and give up on it after two seconds."""
    os.environ |= {"WANDB_BASE_URL": url, "WANDB_API_KEY": "x" * 40}
    tracking.LONGEST_CALL_S.update({"start": 5.0, "log a row": 2.0, "finish": 2.0})
    tracking.FINISH_TIMEOUT_S = 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_runs_and_studies_end_the_same_despite_random_faults(data: dict[str, list[str]], tmp_path: Path) -> None:
    seconds = float(os.environ.get("SOAK_SECONDS", "60"))
    seed = os.environ.get("SOAK_SEED", str(random.randrange(10**6)))
    print(f"\nsoak: seed {seed}, {seconds:.0f} s")
    for task in data:
        import_module(f"experiments.{task}.config")
        import_module(f"experiments.{task}.task")
    references: dict[tuple[str, bool], End] = {}
    faults, lost, slow = Counter[str](), Counter[str](), ""
    started, number = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        number += 1
        rng = random.Random(f"{seed}-{number}")
        task, draw = list(data)[number % len(data)], rng.random()
        study = draw < 0.07
        if (task, study) not in references:
            undisturbed = Trial(rng, task, data[task], tmp_path / f"{task}-{study}", study)
            listed = undisturbed.folder / "imported"
            if (code := undisturbed.finish(list_imports(listed))) != 0:  # what was counted before stays on the page
                slow = f"an undisturbed command of {task} ended with {code}: {undisturbed.log.read_text()}"
                break
            import_what_was_imported(task, listed)
            references[task, study] = end_of(undisturbed.folder)
        trial = Trial(rng, task, data[task], tmp_path / str(number), study)
        drawn = [RAY] if draw < 0.03 else [rng.choice(KINDS) for _ in range(rng.randint(1, 8))]
        kinds = [kind for kind in drawn if trial.disturb(kind)]
        faults.update(kinds)
        code = trial.finish()
        if code == 0 and end_of(trial.folder) == references[task, study]:
            shutil.rmtree(trial.folder)
        else:
            lost.update(kinds or drawn)
            print(f"trial {number}, {task}{', a study' if study else ''}: {', '.join(drawn)}: exit code {code}")
            print(trial.log.read_text()[-3000:], flush=True)
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout
    where, took_s = os.environ.get("SOAK_PAGE"), time.monotonic() - started
    before = Path(where).read_text() if where and Path(where).exists() else ""
    machine = f"{os.cpu_count()} cores ({platform.machine()})"
    counted = number, sum(faults.values()), sum(lost.values())
    session = f"{took_s:.0f}", seed, commit.strip(), machine, *map(str, counted)
    table = page_with(before, session, faults, lost)
    print(table)
    if where:
        write_aside(Path(where), table)
    assert not slow, slow
    assert not lost, f"repeat with SOAK_SEED={seed}"
