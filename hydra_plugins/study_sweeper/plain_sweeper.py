"""Hydra's own sweep, with input errors reported in one sentence as everywhere else."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class PlainSweeper(BasicSweeper):
    """``hydra/sweeper=plain``."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra's; but first pin the runs' instruction set, before Ray, which loads NumPy, starts its workers."""
        from experiments.harness.arithmetic import pin_instruction_set

        pin_instruction_set(config.train.instruction_set)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Sequence[Any]:
        """Run every combination of the swept values; exit code 2 if one of them cannot be run."""
        from experiments.harness.explained import one_sentence

        assert self.config is not None
        with one_sentence(self.config.task):
            results: Sequence[Any] = super().sweep(arguments)
        return results

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose every run. Raises ConfigError if the launcher cannot start one, or if two are the same, because in
        parallel one would wait for the other.
        """
        from experiments.harness.config import resolved
        from experiments.harness.errors import ConfigError
        from experiments.harness.processes import check_launcher
        from experiments.harness.run_name import result_config

        assert self.hydra_context is not None
        assert self.config is not None
        seen = []
        for overrides in batch:
            plain = resolved(self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides)))
            check_launcher(plain, self.config)
            run = (plain["run"]["runs_dir"], result_config(plain, fingerprint=""))
            if run in seen:
                raise ConfigError(
                    f"Several of the swept values give the same run ({' '.join(overrides)}): list each value once."
                )
            seen.append(run)
