"""Hydra's own sweep, whose faults of input are one sentence as everywhere else."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class PlainSweeper(BasicSweeper):
    """``hydra/sweeper=plain``."""

    def sweep(self, arguments: list[str]) -> Sequence[Any]:
        """Run every combination of the swept values; exit code 2 where one of them cannot be run."""
        from experiments.harness.entry import one_sentence

        with one_sentence():
            results: Sequence[Any] = super().sweep(arguments)
        return results
