"""What the terminal prints after a study: the regime, the verdict, and whether a new replicate reproduces it."""

import shlex
from pathlib import Path

from rich.console import Console
from rich.table import Table

from experiments.harness.source_code import ROOT
from experiments.report.labels import Summary, metric_title, optimizer_name, regime_line, result_cells, selected
from experiments.report.sentences import next_step, reproduction_sentences, steps_sentence, verdict_sentence
from experiments.report.tables import comparisons_of, selection_note


def print_verdict(summary: Summary, directory: Path, runs: Path, console: Console) -> None:
    """Print the tables, the regime, the verdict and the reproductions, then where to find the page (in the study's
    ``directory``), the command that draws a dashboard of the study and of ``runs``, and what to do next.
    """
    for a, rows in comparisons_of(summary).items():
        table = Table(title=f"{summary['task']}, {summary['scale']}, {summary['experiment']}", title_justify="left")
        table.add_column("metric")
        for column in (*map(optimizer_name, (a, summary["reference"])), "difference", "95 % interval"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in rows:
            # In the first column, which may be wrapped: in all others the mark would be too wide for a terminal.
            of = selected(row) if row["mean"] else ""
            table.add_row(metric_title(row["metric"]) + (f", in {of}" if of else ""), *result_cells(row))
        console.print(table)
        if note := selection_note(rows):
            _say(console, note)
    _say(console, f"{regime_line(summary)}.")
    for rows in comparisons_of(summary).values():
        _say(console, verdict_sentence(summary, rows[0]), style="bold")
        if summary["declared"]:
            _say(console, steps_sentence(summary, rows[0]))
            for sentence in reproduction_sentences(rows[0]):
                _say(console, sentence, style="bold")
    drawn_by = dashboard_command(directory.parents[2], runs)
    _say(console, f"Full report: {shown(directory / 'README.md')}; `{drawn_by}` shows it with all others.")
    if not summary["declared"]:
        without = "study=smoke" if "." in summary["task"] else "scale=smoke (with make, without SCALE=smoke)"
        _say(console, f"Next: the same command without {without} gives meaningful numbers.")
    elif sentence := next_step(summary):
        _say(console, f"Next: {sentence}")


def dashboard_command(results: Path, runs: Path) -> str:
    """What writes a dashboard of the studies below ``results`` and the runs below ``runs``."""
    if runs == ROOT / "runs" and results in (ROOT / "results", runs / "results"):
        return "make dashboard"
    return shlex.join(
        ["python", "-m", "experiments.report.dashboard", "--results", shown(results), "--runs", shown(runs)]
    )


def shown(path: Path) -> str:
    """The path as typed from the current directory."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _say(console: Console, sentence: str, style: str | None = None) -> None:
    console.print(sentence, style=style, markup=False, highlight=False, soft_wrap=True)
