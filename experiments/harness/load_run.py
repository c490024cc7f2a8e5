"""Load the data and weights of a finished run to draw figures, after checking that the config is the run's own."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from torch import nn

from experiments.harness.averages import evaluated_weights
from experiments.harness.checkpoint import load_checkpoint
from experiments.harness.composition import composed
from experiments.harness.damage import find_damage
from experiments.harness.errors import RunError
from experiments.harness.explained import one_sentence
from experiments.harness.record import FINISHED, read_status
from experiments.harness.run import Run, locate
from experiments.harness.task import Task

OwnTask = TypeVar("OwnTask", bound=Task)


def load_run(
    directory: Path, cfg: DictConfig, build: Callable[[Any, Any], OwnTask], same: Iterable[str]
) -> tuple[Run, OwnTask, nn.Module]:
    """The run in ``directory``, which ``cfg`` must describe, the task that ``build`` makes of its config and data, and
    its model with the weights of the last checkpoint, averaged if the run averages them.

    Raises RunError if there is no such run, if it differs from ``cfg`` in a group named in ``same``, or if it has no
    checkpoint.
    """
    if not (directory / "config.yaml").exists():
        raise RunError(f"There is no run in {directory}.")
    run = locate(cfg)
    recorded = OmegaConf.to_container(OmegaConf.load(directory / "config.yaml"))
    assert isinstance(recorded, dict)
    for key in same:
        if recorded[key] != run.recorded[key]:
            raise RunError(
                f"The run {directory} has a different {key} than experiment={run.cfg.experiment}: name its own "
                "experiment."
            )
    status = read_status(directory)
    if status and status["status"] in FINISHED and (damage := find_damage(directory, status)):
        raise RunError(f"The run {directory} is damaged ({damage}): rerun the command that made it to repair it.")
    saved = load_checkpoint(directory)
    if saved is None:
        raise RunError(f"The run {directory} has no checkpoint to draw from: run it again.")
    task = build(run.cfg, run.data)
    model = task.model()
    model.load_state_dict(evaluated_weights(saved))
    return run, task, model


def draw(task: str, write: Callable[[Path, Any], Path], arguments: list[str]) -> None:
    """Execute the command line ``run=<directory> [override ...]``: write the figure and print its path."""
    if not arguments or not arguments[0].startswith("run="):
        program = f"experiments.{task}.{Path(sys.argv[0]).stem}"
        sys.exit(f"usage: python -m {program} run=<directory> [experiment={task}/<name> ...]")
    # A figure is no record: it may be drawn with whatever instruction set PyTorch has been loaded with.
    cfg = composed(task, [*arguments[1:], "train.instruction_set=null"])
    with one_sentence():
        print(write(Path(arguments[0].removeprefix("run=")), cfg))
