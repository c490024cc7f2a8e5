"""``hydra/sweeper=study``: Hydra's entry point to experiments/study."""

import logging
import os
import re
import shlex
import sys

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

LAUNCHERS = (
    "hydra._internal.core_plugins.basic_launcher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher",
)
"""Loggers that print the overrides of every run; a study prints its progress instead."""


class StudySweeper(Sweeper):
    """Runs the studies defined by the command line and publishes their results."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what Hydra has prepared, and pin the runs' instruction set before the search or Ray loads NumPy."""
        from experiments.harness.arithmetic import pin_instruction_set

        pin_instruction_set(config.train.instruction_set)
        self.config = config
        self.compose = lambda overrides: hydra_context.config_loader.load_sweep_config(config, overrides)
        self.parser = OverridesParser.create(config_loader=hydra_context.config_loader)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """``arguments`` are the command line's overrides; each study they define is run, published and shown."""
        from rich.console import Console

        from experiments.harness.explained import one_sentence
        from experiments.harness.processes import check_launcher
        from experiments.harness.signals import EXIT_CODE
        from experiments.harness.source_code import ROOT
        from experiments.report.terminal import print_verdict
        from experiments.study.publish import published_summary, publishing
        from experiments.study.sweep import Study, run_studies, split_sweep

        os.environ.setdefault("RAY_LOG_TO_DRIVER", "0")  # read when Ray is imported; runs write to their own log files
        for name in LAUNCHERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        for handler in logging.root.handlers:
            handler.setFormatter(logging.Formatter("%(message)s"))  # without Hydra's time and name
        assert self.config is not None
        try:
            with one_sentence():
                optimizers, combinations = split_sweep(self.parser.parse_overrides(arguments))
                studies = [Study(self.compose, combination, optimizers) for combination in combinations]
                for study in studies:
                    check_launcher(study.config, self.config)
                run_studies(studies, self.launcher)
                # Where it ran, where its data came from, and which replicates it ran are left out of the command.
                here = re.compile(r"[+~]*(run\.|hydra|study\.numbers\b|data\.(\w+\.)*\w*sources\b)")
                shown = shlex.join(argument for argument in arguments if not here.match(argument))
                task = str(self.config.task)
                program = f"experiments {task}" if "." in task else f"experiments.{task}"
                command = f"python -m {program} --multirun hydra/sweeper=study {shown}"
                summaries = []
                for study in studies:
                    if (summary := published_summary(study)) is None:
                        from experiments.report.rebuild import write_overview, write_study

                        with publishing(study, command) as directory:
                            summary = write_study(directory)
                        write_overview(study.results.parents[2])
                    summaries.append(summary)
        except SystemExit as request:
            sys.exit(request.code if request.code == 2 else EXIT_CODE)  # after a signal Ray may exit with another code
        for study, summary in zip(studies, summaries, strict=True):
            print_verdict(summary, study.results, ROOT / study.config["run"]["runs_dir"], Console())
