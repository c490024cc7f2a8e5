"""The progress bars of a single run; shown on a terminal only."""

from collections.abc import Iterable
from typing import Any

from rich import progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class StepRate(ProgressColumn):
    """Samples per second."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self._batch_size = batch_size

    def render(self, task: Task) -> Text:
        """The rate estimated by rich, in samples per second."""
        return Text(f"{task.speed * self._batch_size:.0f} samples/s" if task.speed else "")


def progress_bar(batch_size: int, is_main_process: bool) -> Progress:
    """Steps done, throughput and time left."""
    console = Console(stderr=True)
    name, rate = TextColumn("{task.description}"), StepRate(batch_size)
    columns = name, BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn()
    return Progress(*columns, console=console, disable=not (is_main_process and console.is_terminal))


def track(items: Iterable[Any], description: str, is_main_process: bool = True) -> Iterable[Any]:
    """The ``items``, with a bar that disappears at the end."""
    console = Console(stderr=True)
    hidden = not (is_main_process and console.is_terminal)
    return progress.track(items, description, console=console, transient=True, disable=hidden)
