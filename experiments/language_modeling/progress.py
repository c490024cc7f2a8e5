"""Progress on the terminal for packing, which can take hours."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from experiments.language_modeling.packing import Counts


@contextmanager
def packing_progress(name: str) -> Iterator[Callable[[str, Counts], None]]:
    """Show documents and MB packed so far, and MB/s, on a terminal. Yields a function of a split and its counts."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn(
            f"{name} {{task.description}}: {{task.fields[documents]:,}} documents, {{task.fields[megabytes]:,}} MB"
        ),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    tasks = {}
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:

        def show(split: str, counts: Counts) -> None:
            megabytes = counts.bytes // 10**6
            if split not in tasks:
                tasks[split] = progress.add_task(split, total=None, documents=0, megabytes=megabytes)
            progress.update(tasks[split], completed=counts.bytes, documents=counts.documents, megabytes=megabytes)

        yield show
