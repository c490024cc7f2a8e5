"""A verdict in one sentence of plain English."""

from typing import Any

from experiments.report.labels import (
    Summary,
    amount,
    interval,
    mean_difference,
    metric_label,
    metric_of,
    optimizer_name,
)


def verdict_sentence(summary: Summary, comparison: dict[str, Any]) -> str:
    """Who won by how much, or why nobody did, with the interval that decided and the number of paired seeds."""
    sentence = _sentence(summary, comparison)
    if not summary["looks"]["exploratory"]:
        return sentence
    return f"{sentence} Exploratory: the study was judged before with other seeds, which was not declared."


def _sentence(summary: Summary, comparison: dict[str, Any]) -> str:
    a, b = comparison["a"], comparison["b"]
    name_a, name_b = optimizer_name(a), optimizer_name(b)
    if summary["optimizers"][a]["diverged"] or summary["optimizers"][b]["diverged"]:
        return _divergence_sentence(summary, comparison)

    metric, difference = comparison["metric"], comparison["difference"]
    decimals = metric_of(metric).decimals
    what = f"in {metric_label(metric)}"
    a_minus_b = f"{name_a} minus {name_b} is {amount(mean_difference(comparison), metric)}"
    if comparison["verdict"] is None:
        return f"No verdict: one paired seed gives no interval. {a_minus_b} {what}."

    seeds = f"{difference['n']} paired seeds"
    margin = amount(comparison["margin"], metric)
    alpha = summary["looks"]["alpha"]
    of_tie, of_winner = (f"{100 * (1 - share):.3g} % interval" for share in (2 * alpha, alpha))
    if comparison["verdict"] == "tie":
        return (
            f"Tie: {name_a} and {name_b} differ by no more than {margin} {what} "
            f"({a_minus_b}, {of_tie} {interval(difference['ci_tie'], decimals)}, {seeds})."
        )
    if comparison["verdict"] == "undecided":
        return (
            f"Undecided: {a_minus_b} {what} ({of_winner} {interval(difference['ci_winner'], decimals)}, {seeds}); "
            f"that is too uncertain to name a winner, or to call it a tie within {margin}."
        )
    winner, loser = (name_a, name_b) if comparison["verdict"] == a else (name_b, name_a)
    low, high = sorted(abs(end) for end in difference["ci_winner"])
    lower = "lower is better, " if comparison["better"] == "lower" else ""
    return (
        f"{winner} beats {loser} by {amount(abs(difference['mean']), metric)} {what} "
        f"({lower}{of_winner} {interval((low, high), decimals)}, {seeds})."
    )


def _divergence_sentence(summary: Summary, comparison: dict[str, Any]) -> str:
    seeds = len(summary["seeds"])
    counts = {side: summary["optimizers"][side]["diverged"] for side in (comparison["a"], comparison["b"])}
    diverged = " and ".join(f"{optimizer_name(side)} in {count} of {seeds}" for side, count in counts.items())
    if comparison["verdict"] == "undecided":
        return f"Undecided, because training diverged: {diverged} seeds."
    loser = max(counts, key=counts.__getitem__)
    winner = optimizer_name(comparison["verdict"])
    return f"{winner} beats {optimizer_name(loser)}, whose training diverged in most seeds: {diverged}."
