"""What the terminal prints after a study: the regime, the verdict, and whether a new replicate reproduces it."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from experiments.report.labels import (
    Summary,
    interval,
    mean_difference,
    means,
    metric_of,
    metric_title,
    number,
    optimizer_name,
)
from experiments.report.sentences import next_step, reproduction_sentences, steps_sentence, verdict_sentence
from experiments.report.tables import comparisons_of


def print_verdict(summary: Summary, directory: Path, console: Console) -> None:
    """Print the tables, the regime, the verdict and the reproductions, then where to find the page (in the study's
    ``directory``) and what to do next.
    """
    for a, rows in comparisons_of(summary).items():
        table = Table(title=f"{summary['task']}, {summary['scale']}, {summary['experiment']}", title_justify="left")
        table.add_column("metric")
        for column in (*map(optimizer_name, (a, summary["reference"])), "difference", "95 % interval"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in rows:
            decimals, difference = metric_of(row["metric"]).decimals, row["difference"]
            table.add_row(
                metric_title(row["metric"]),
                *(number(mean, decimals) for mean in means(row)),
                number(mean_difference(row), decimals, "+"),
                interval(difference and difference["ci95"], decimals),
            )
        console.print(table)
    _say(console, f"Regime: {summary['regime']}.")
    for rows in comparisons_of(summary).values():
        _say(console, verdict_sentence(summary, rows[0]), style="bold")
        if summary["declared"]:
            _say(console, steps_sentence(summary, rows[0]))
            for sentence in reproduction_sentences(summary, rows[0]):
                _say(console, sentence, style="bold")
    _say(console, f"Full report: {shown(directory / 'README.md')}; `make dashboard` shows it with all others.")
    if not summary["declared"]:
        task = summary["task"].replace("_", "-")
        _say(console, f"Next: `make reproduce-{task}` does the same at a scale whose numbers mean something.")
    elif sentence := next_step(summary):
        _say(console, f"Next: {sentence}")


def shown(path: Path) -> str:
    """The path as typed from the current directory."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _say(console: Console, sentence: str, style: str | None = None) -> None:
    console.print(sentence, style=style, markup=False, highlight=False, soft_wrap=True)
