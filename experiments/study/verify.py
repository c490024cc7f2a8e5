"""Check that committed runs reproduce here: rerun them from their records and compare row by row (rerun.py).

    make verify N=2                          # two runs, drawn from all studies; SEED=1 makes the draw repeatable
    make verify RUN=lion-s0-57dbac15ea

Exit code 0 means that all runs agree, 1 that one does not, 2 that there was nothing to rerun.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from experiments.harness.arithmetic import pin_instruction_set
from experiments.harness.errors import ConfigError
from experiments.harness.explained import one_sentence
from experiments.harness.source_code import ROOT

# Nothing that loads NumPy or PyTorch is imported here: the processes that rerun runs import this file first, and a
# library's instruction set is fixed when it is loaded.


class Record(NamedTuple):
    """A published run."""

    path: Path
    """of its replicate"""
    run_id: str
    instruction_set: str | None
    """train.instruction_set"""


def drawn(results: Path, run: str | None, number: int, seed: int) -> list[Record]:
    """The records to verify: ``run``, or a random sample of those that this machine has the device for. Raises
    ConfigError if there are none to choose from.
    """
    from experiments.study.replicates import read_replicate

    replicates = [(path, read_replicate(path)) for path in sorted(results.glob("*/*/[!.]*/replicates/*.parquet"))]
    if run is not None:
        runs = ((path, recorded) for path, replicate in replicates for recorded in replicate.runs)
        chosen = [(path, recorded) for path, recorded in runs if recorded.run_id == run][:1]
    else:
        rerunnable = [each for each in replicates if "gpu" not in each[1].environment["hardware"] or _has_gpu()]
        if others := len(replicates) - len(rerunnable):
            print(f"{others} of {len(replicates)} replicates were made on a GPU: none of their runs is drawn here")
        published = [(path, recorded) for path, replicate in rerunnable for recorded in replicate.runs]
        chosen = random.Random(seed).sample(published, min(number, len(published)))
    if not chosen:
        wanted = "to rerun on this machine" if run is None else run
        raise ConfigError(f"There is no run {wanted} under {results}; the replicate files of a study list its runs.")
    return [Record(path, each.run_id, each.plain["train"]["instruction_set"]) for path, each in chosen]


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def verified(record: Record, folder: Path) -> str:
    """How the rerun of ``record`` agrees, in a few words; raises Different. For a process that has loaded nothing."""
    pin_instruction_set(record.instruction_set)
    from experiments.study.rerun import verify

    return verify(record.path, record.run_id, folder)


def main() -> None:
    """Verify the runs that the command line selects, as many in parallel as there are cores. Raises SuiteError if there
    are none.
    """
    parser = argparse.ArgumentParser(prog="python -m experiments.study.verify", description=__doc__)
    parser.add_argument("--run", help="a run's id")
    parser.add_argument("--number", type=int, default=2, help="runs to draw")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"), help="of the draw")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="the folder of all results")
    arguments = parser.parse_args()
    if arguments.number < 1:
        raise ConfigError(f"N (--number) must be at least 1, but it is {arguments.number}.")
    records = drawn(arguments.results, arguments.run, arguments.number, arguments.seed)
    print(f"{len(records)} runs, drawn with SEED={arguments.seed}" if arguments.run is None else arguments.run)
    folder = Path(tempfile.mkdtemp(prefix="lion-verify-"))
    workers = max(1, min(len(records), os.cpu_count() or 1))
    different = 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, max_tasks_per_child=1) as pool:
        waiting = {pool.submit(verified, record, folder / str(i)): record for i, record in enumerate(records)}
        for done in as_completed(waiting):
            record = waiting[done]
            name = f"{record.path.relative_to(arguments.results)} {record.run_id}"
            try:
                print(f"{name}: {done.result()}", flush=True)
            except Exception as fault:  # whatever one run raises, the others go on
                from experiments.study.rerun import Different

                different += 1
                print(f"{name}: {fault if isinstance(fault, Different) else repr(fault)}", flush=True)
    if different:
        sys.exit(f"{different} of {len(records)} do not agree with their records. Their new records are in {folder}.")
    shutil.rmtree(folder)


if __name__ == "__main__":
    with one_sentence():
        main()
