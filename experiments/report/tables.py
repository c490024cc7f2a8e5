"""The tables of a study: Markdown for its page, and the verdict for the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.report.labels import (
    MISSING,
    Summary,
    interval,
    mean_difference,
    means,
    megabytes,
    metric_of,
    metric_title,
    number,
    optimizer_name,
    pairs,
    scientific,
    three_digits,
    verdict_name,
)
from experiments.report.sentences import verdict_sentence


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first column aligned to the left and all others to the right."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def paper_source(paper: dict[str, Any]) -> str:
    """``image_classification.vit_b16, Table 2, exact``; digitised values with their uncertainty."""
    facts = [paper.get("cell"), paper["source"], paper.get("trust")]
    uncertainty = f" within ±{paper['uncertainty']:g}" if paper.get("uncertainty") else ""
    return ", ".join(fact for fact in facts if fact) + uncertainty


def agreement(paper: dict[str, Any] | None) -> str:
    """Whether the paper's numbers point where our verdict does; ``n/a`` where there is nothing to compare."""
    return {True: "agrees", False: "disagrees", None: MISSING}[paper["agrees"] if paper else None]


def result_table(summary: Summary, comparison: dict[str, Any]) -> str:
    """Our numbers of one comparison, and the paper's below them."""
    a, b = comparison["a"], comparison["b"]
    decimals = metric_of(comparison["metric"]).decimals
    difference = comparison["difference"]
    head = [metric_title(comparison["metric"]), *map(optimizer_name, (a, b))]
    head += [f"{optimizer_name(a)} - {optimizer_name(b)}", "95 % interval", "pairs", "tuning trials", "verdict"]
    rows = [
        [
            "this study, mean",
            *(number(mean, decimals) for mean in means(comparison)),
            number(mean_difference(comparison), decimals, "+"),
            interval(difference and difference["ci95"], decimals),
            pairs(summary, comparison),
            " / ".join(str(summary["optimizers"][side]["trials"]) for side in (a, b)),
            verdict_name(summary, comparison),
        ]
    ]
    if paper := comparison["paper"]:
        values = [number(paper[side], decimals) for side in (a, b)]
        paper_difference = number(paper[a] - paper[b], decimals, "+")
        rows.append(
            [f"paper ({paper_source(paper)})", *values, paper_difference, MISSING, MISSING, MISSING, agreement(paper)]
        )
    return markdown_table(head, rows)


def other_metrics_table(comparisons: Sequence[dict[str, Any]]) -> str:
    """Metrics that decide nothing; all comparisons are of the same two optimizers."""
    a, b = optimizer_name(comparisons[0]["a"]), optimizer_name(comparisons[0]["b"])
    rows = []
    for comparison in comparisons:
        decimals, difference, paper = metric_of(comparison["metric"]).decimals, comparison["difference"], None
        if comparison["paper"]:
            values = [number(comparison["paper"][comparison[side]], decimals) for side in "ab"]
            paper = f"{' / '.join(values)} ({paper_source(comparison['paper'])})"
        rows.append(
            [
                f"{metric_title(comparison['metric'])} ({comparison['better']} is better)",
                *(number(mean, decimals) for mean in means(comparison)),
                number(mean_difference(comparison), decimals, "+"),
                interval(difference and difference["ci95"], decimals),
                paper or MISSING,
            ]
        )
    return markdown_table(["metric", a, b, f"{a} - {b}", "95 % interval", f"paper, {a} / {b}"], rows)


def settings_table(summary: Summary) -> str:
    """The settings that the reported runs used, and how they were found."""
    rows = []
    for name, optimizer in summary["optimizers"].items():
        chosen = optimizer["settings"]
        edge = "**yes**: better settings may lie outside" if optimizer["at_grid_edge"] else "no"
        rows.append(
            [
                optimizer_name(name),
                scientific(chosen["lr"]),
                three_digits(chosen.get("weight_decay")),
                ", ".join(f"{beta:g}" for beta in chosen.get("betas") or []) or MISSING,
                str(optimizer["trials"]),
                edge if optimizer["trials"] else MISSING,
                f"{optimizer['diverged']} of {len(summary['seeds'])}",
            ]
        )
    head = ["optimizer", "learning rate", "weight decay", "betas", "tuning trials", "at the edge of its grid"]
    return markdown_table([*head, "reported runs that diverged"], rows)


def tuning_table(summary: Summary) -> str:
    """Every tuning trial; empty text where nothing was tuned."""
    decimals = metric_of(summary["validation_metric"]).decimals
    rows = []
    for name, optimizer in summary["optimizers"].items():
        chosen = (optimizer["settings"]["lr"], optimizer["settings"].get("weight_decay"))
        for trial in sorted(optimizer["trials_table"], key=lambda trial: (trial["lr"], trial["weight_decay"] or 0)):
            value = "diverged" if trial["status"] == "diverged" else number(trial["value"], decimals)
            mark = "chosen" if (trial["lr"], trial["weight_decay"]) == chosen else ""
            row = [optimizer_name(name), scientific(trial["lr"]), three_digits(trial["weight_decay"]), value, mark]
            rows.append(row)
    head = ["optimizer", "learning rate", "weight decay", metric_title(summary["validation_metric"]), ""]
    return markdown_table(head, rows) if rows else ""


def speedup_table(comparison: dict[str, Any]) -> str:
    """The paper's speed-up in both directions, and between runs of one optimizer."""
    a, b = optimizer_name(comparison["a"]), optimizer_name(comparison["b"])
    speedup = comparison["speedup"]
    labelled = (
        (f"{a} reaches {b}'s final value", speedup),
        (f"{b} reaches {a}'s final value", speedup["reverse"]),
        (f"{b} reaches the final value of {b} with another seed (A/A)", speedup["aa"]),
    )
    rows = [
        [label, f"{reach['reached']} of {reach['of']}", f"{reach['median']:.2f}x" if reach["median"] else MISSING]
        for label, reach in labelled
    ]
    return markdown_table(["", "reached", "median speed-up in steps"], rows)


def cost_table(summary: Summary) -> str:
    """What each optimizer costs; an optimizer whose runs all diverged has no figures."""
    rows = [
        [
            optimizer_name(name),
            megabytes(optimizer.get("state_bytes")),
            megabytes(optimizer.get("peak_bytes")),
            number(optimizer.get("optimizer_step_ms"), 2),
            number(optimizer.get("train_s"), 1),
        ]
        for name, optimizer in summary["optimizers"].items()
    ]
    head = ["optimizer", "optimizer state, MB", "peak memory, MB", "optimizer step, ms", "training time a run, s"]
    return markdown_table(head, rows)


def print_verdict(summary: Summary, console: Console) -> None:
    """The verdict of a study, and all of its comparisons, on the terminal."""
    for comparison in summary["comparisons"]:
        if comparison["primary"]:
            console.print(verdict_sentence(summary, comparison), style="bold", markup=False, highlight=False)
    for a, b in dict.fromkeys((comparison["a"], comparison["b"]) for comparison in summary["comparisons"]):
        table = Table()
        table.add_column(f"{summary['task']}, {summary['scale']}, {summary['experiment']}")
        for column in (*map(optimizer_name, (a, b)), "difference", "95 % interval", "verdict"):
            table.add_column(column, justify="right", no_wrap=True)
        for comparison in summary["comparisons"]:
            if (comparison["a"], comparison["b"]) == (a, b):
                _add_comparison(table, comparison)
        console.print(table)


def _add_comparison(table: Table, comparison: dict[str, Any]) -> None:
    decimals, difference = metric_of(comparison["metric"]).decimals, comparison["difference"]
    table.add_row(
        metric_title(comparison["metric"]),
        *(number(mean, decimals) for mean in means(comparison)),
        number(mean_difference(comparison), decimals, "+"),
        interval(difference and difference["ci95"], decimals),
        optimizer_name(comparison["verdict"]) if comparison["verdict"] else "",
    )
    if paper := comparison["paper"]:
        values = [paper[comparison[side]] for side in "ab"]
        written = [number(value, decimals) for value in values]
        table.add_row("  paper", *written, number(values[0] - values[1], decimals, "+"), "", agreement(paper))
