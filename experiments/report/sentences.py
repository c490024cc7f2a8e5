"""The result of a study as English sentences: the verdict, the difference in steps, reproductions, ease of tuning."""

import math
from typing import Any

from experiments.report.labels import (
    Summary,
    amount,
    better_side,
    dimension_label,
    in_metric,
    interval,
    margin_words,
    marked,
    mean_difference,
    metric_label,
    minutes,
    optimizer_name,
    pair_name,
    ranges,
    result_cells,
    selected,
    steps_interval,
    steps_words,
    too_small,
    verdict_words,
)
from experiments.study.statistics import LEAST_REPLICATES, MOST_PAIRS, at_edges, pairs_needed
from experiments.study.trials import ends_below


def verdict_sentence(summary: Summary, comparison: dict[str, Any]) -> str:
    """Who won by how much, or why nobody did, with interval, replicates, margin and qualifications."""
    if not summary["declared"]:
        return f"No verdict: {summary['scale']}. This scale only exercises the code; its numbers mean nothing."
    sentence = _outcome(summary, comparison)
    if comparison["exploratory"]:
        counted = ranges(summary["replicates"])
        sentence = f"Exploratory (replicates {counted}; {summary['declared']} were declared): {sentence}"
    return " ".join([sentence, *_qualifiers(summary, comparison)])


def _outcome(summary: Summary, comparison: dict[str, Any]) -> str:
    metric, named, difference = comparison["metric"], comparison["verdict"], comparison["difference"]
    name_a, name_b = (optimizer_name(comparison[side]) for side in "ab")
    count = len(summary["replicates"])
    what = f"in {metric_label(metric)}"
    found = f"{name_a} minus {name_b} is {amount(mean_difference(comparison), metric)} {what}"
    if any(comparison["diverged"].values()):
        return _divergence(summary, comparison, found)
    if difference is None:
        return f"No verdict: one replicate gives no interval, and a verdict needs {LEAST_REPLICATES}. {found}."
    within = f"95 % interval {interval(difference['ci95'], metric)}, {difference['n']} replicates"
    others = other_metrics(summary, comparison)
    other = f"; but {others}" if others else ""
    if named is None:
        return f"No verdict: a verdict needs {LEAST_REPLICATES} replicates, and there are {count}. {found} ({within})."
    margin = margin_words(summary, comparison)
    if named == "tie":
        narrow = f"90 % interval {interval(difference['ci90'], metric)}, {difference['n']} replicates"
        short = found.removesuffix(f" {what}")
        return f"Tie: {name_a} and {name_b} differ by no more than {margin} {what} ({short}, {narrow}){other}."
    if named == "undecided":
        or_tie = f", or to call it a tie within {margin}" if margin else ""
        return (
            f"Undecided: {found} ({within}); that is too uncertain to name a winner{or_tie}{other}."
            f"{_replicates_for_a_tie(comparison)}"
        )
    if named == "withheld":
        unsettled = amount(comparison["unsettled"], metric)
        return (
            f"Withheld: {found} ({within}), but the searches had not settled: the gains in their last stages differ by "
            f"{unsettled} between the two{other}."
        )
    winner, loser = (name_a, name_b) if named == comparison["a"] else (name_b, name_a)
    low, high = sorted(abs(end) for end in difference["ci95"])
    lower = "lower is better, " if comparison["better"] == "lower" else ""
    tie = f"; tie margin {margin}" if margin else ""
    if likely := too_small(comparison):
        tie += f", so the difference {likely} too small to matter"
    by = amount(abs(difference["mean"]), metric)
    return (
        f"{winner} beats {loser} by {by} {what} ({lower}95 % interval {interval((low, high), metric)}, "
        f"{difference['n']} replicates{tie}){other}."
    )


def _divergence(summary: Summary, comparison: dict[str, Any], found: str) -> str:
    count = len(summary["replicates"])
    tally = " and ".join(
        f"{optimizer_name(name)} in {lost} of {count}" for name, lost in comparison["diverged"].items()
    )
    if comparison["verdict"] is None:
        return (
            f"No verdict: a verdict needs {LEAST_REPLICATES} replicates, and training diverged in some of those so far "
            f"({tally})."
        )
    if comparison["verdict"] == "undecided":
        return f"Undecided, because confirm runs diverged: {tally} replicates{_others(summary, comparison, found)}."
    winner = optimizer_name(comparison["verdict"])
    loser = next(name for name in (comparison["a"], comparison["b"]) if name != comparison["verdict"])
    return f"{winner} beats {optimizer_name(loser)}, whose confirm runs diverged in most replicates: {tally}."


def _others(summary: Summary, comparison: dict[str, Any], found: str) -> str:
    """What the replicates without a diverged run show; empty without any."""
    if comparison["mean"] is None:
        return ""
    difference = comparison["difference"]
    if difference is None:
        return f"; in the other one, {found}"
    alone, margin = comparison["verdict_without_diverged"], margin_words(summary, comparison)
    within = f"95 % interval {interval(difference['ci95'], comparison['metric'])}"
    within += f", tie margin {margin}" if margin else ""
    others = other_metrics(summary, comparison)
    return (
        f"; in the other {difference['n']}, {found} ({within}): alone, these would be "
        f"{verdict_words(alone) if alone else 'too few for a verdict'}, but they are a selection"
        + (f". Other metrics, also of a selection: {others}" if others else "")
    )


def _replicates_for_a_tie(comparison: dict[str, Any]) -> str:
    """How many replicates would show a tie if the optimizers are equal; empty if nothing can count as a tie."""
    margin, unsettled = comparison["margin"], comparison["unsettled"]
    if margin is None:
        return ""
    if unsettled is not None and unsettled > margin:
        return (
            f" More replicates cannot show a tie while the gains in the searches' last stages differ by "
            f"{amount(unsettled, comparison['metric'])}, more than the margin."
        )
    needed = pairs_needed(margin, comparison["difference"]["sd"], tie=True)
    count = needed or f"more than {MOST_PAIRS:,}"
    return f" If the two are equal, {count} replicates would show a tie in 80 % of studies."


def other_metrics(summary: Summary, comparison: dict[str, Any]) -> str:
    """The metrics that disagree with the verdict of the deciding one, and whom they favour; empty if none does."""
    of_pair = (row for row in summary["comparisons"] if row["a"] == comparison["a"])
    others = [row for row in of_pair if row["difference"] and not row["primary"]]
    elsewhere = []
    for row in others:
        if (side := better_side(row)) and side != comparison["verdict"]:
            *_, difference, within = result_cells(row)
            elsewhere.append(
                f"{metric_label(row['metric'])} ({marked(difference, row)}, 95 % interval {within}) favours "
                f"{optimizer_name(side)}"
            )
    of_many = f" (of {len(others)} other metrics, not corrected for their number)" if len(others) > 1 else ""
    return f"{' and '.join(elsewhere)}{of_many}" if elsewhere else ""


def _qualifiers(summary: Summary, comparison: dict[str, Any]) -> list[str]:
    said = []
    by_example = comparison["by_example"]
    if comparison["verdict"] in (comparison["a"], comparison["b"]) and by_example:
        low, high = by_example["ci95"]
        if low <= 0 <= high:
            within = interval((low, high), comparison["metric"])
            said.append(
                f"This holds for these {by_example['examples']:,} test examples: if they are treated as a random "
                f"sample, the 95 % interval is {within}."
            )
    if limited := {name: names for name, names in comparison["box_limited"].items() if names}:
        where = [
            _at_edges(name, space, [position[i] for position in summary["optimizers"][name]["positions"] if position])
            for name, names in limited.items()
            for i, space in enumerate(summary["spaces"][name])
            if space["name"] in names
        ]
        then = f"; if so, this study understates {optimizer_name(next(iter(limited)))}" if len(limited) == 1 else ""
        said.append(f"Box-limited: {'; '.join(where)}, so better settings may lie outside the search space{then}.")
    for name in (comparison["a"], comparison["b"]):
        winners = summary["optimizers"][name]["winners"]
        if lost := winners.count(None):
            said.append(
                f"In {lost} of {len(winners)} replicates every trial of {optimizer_name(name)} diverged, so it has no "
                "winner there: its confirm runs repeat its first trial."
            )
    if not summary["stages"]:
        said.append("Nothing was searched: the settings are the experiment's own.")
    if comparison["margin"] is None and comparison["verdict"] is not None:
        said.append("No difference can count as a tie, because longer runs of the reference are no better here.")
    return said


def _at_edges(name: str, space: dict[str, Any], positions: list[float]) -> str:
    """``of Lion's 8 winners, 2 are at the top of peak learning rate``."""
    ends = at_edges(positions, ends_below(space))
    counted = [f"{count} {'is' if count == 1 else 'are'} at the {end}" for end, count in ends.items() if count]
    return f"of {optimizer_name(name)}'s {len(positions)} winners, {' and '.join(counted)} of {dimension_label(space)}"


def steps_sentence(summary: Summary, comparison: dict[str, Any]) -> str:
    """The difference expressed in steps."""
    steps, a, b = comparison["steps_percent"], *(optimizer_name(comparison[side]) for side in "ab")
    label = metric_label(comparison["metric"])
    if not summary["lengths"]:
        return "The difference cannot be expressed in steps: no runs of other lengths were made."
    if comparison["mean"] is None:
        return "The difference cannot be expressed in steps: runs of one or the other diverged in every replicate."
    if steps is None:
        return (
            f"The difference cannot be expressed in steps: runs of {b} at {_lengths(summary)} times the length do not "
            f"show that {label} improves with length."
        )
    ends = f" (95 % interval {steps_interval(steps['ci95'])})" if steps["ci95"] else ""
    of = selected(comparison)
    where = f", in the {of} replicates without a diverged run, which are a selection" if of else ""
    sentence = f"In steps{where}: {a} needs {steps_words(steps['mean'])} steps than {b} for the same {label}{ends}."
    as_long = 1 / (1 - steps["mean"] / 100)
    lengths = [1.0, *summary["lengths"]]
    if not min(lengths) <= as_long <= max(lengths):
        sentence += f" This is extrapolated beyond the relative lengths that {b} was run for ({_lengths(summary)})."
    return sentence


def _lengths(summary: Summary) -> str:
    return ", ".join(f"{length:g}" for length in sorted({1.0, *summary["lengths"]}))


def reproduction_sentences(comparison: dict[str, Any]) -> list[str]:
    """Each reproduction, compared with the 95 % prediction interval for one replicate."""
    metric, prediction = comparison["metric"], interval(comparison["prediction95"], comparison["metric"])
    sentences = []
    for row in comparison["reproductions"]:
        found = f"Reproduction (replicate {row['replicate']}): "
        if row["difference"] is None:
            lost = " and ".join(optimizer_name(comparison[side]) for side in "ab" if row[comparison[side]] is None)
            sentences.append(f"{found}a confirm run of {lost} diverged, so it has no difference.")
            continue
        found += in_metric(row["difference"], metric, "+")
        if row["inside"] is None:
            sentences.append(f"{found}. Too few replicates are committed to compare it with.")
        else:
            where, outcome = ("inside", "consistent") if row["inside"] else ("outside", "not consistent")
            sentences.append(
                f"{found}, {where} the 95 % prediction interval for one replicate "
                f"({marked(prediction, comparison)}): {outcome}."
            )
    if sentences and comparison["difference"]:
        (*_, difference, within), of = result_cells(comparison), selected(comparison)
        committed = (
            f"Committed: {pair_name(comparison)} = {difference} in {metric_label(metric)} (95 % interval {within}, "
            f"{of or comparison['difference']['n']} replicates"
            f"{', a selection: in the others a run diverged' if of else ''})."
        )
        return [committed, *sentences]
    return sentences


def ease_sentence(summary: Summary, name: str) -> str:
    """How far apart the best validation values are after each stage of the searches; empty without an interval."""
    validation = summary["validation_metric"]
    phrases, count = [], len(summary["replicates"])
    for row in summary["ease"][name]:
        if known := row["difference"]:
            n, within = known["n"], interval(known["ci95"], validation)
            within += f", in {n} of {count} replicates: in the others every trial had diverged" if n < count else ""
            phrases.append(f"after {row['trials']} trials {in_metric(known['mean'], validation, '+')} ({within})")
    if not phrases:
        return ""
    a, b = optimizer_name(name), optimizer_name(summary["reference"])
    return (
        f"Ease of tuning: {a} - {b} in the best {metric_label(validation)} so far, with its 95 % interval: "
        f"{', '.join(phrases)}. The early values show how quickly each is tuned; the verdict is about the end."
    )


def next_step(summary: Summary) -> str:
    """What it would take to reach a verdict; empty if there is one, or if the scale has none."""
    count = len(summary["replicates"])
    if not summary["declared"] or count >= min(LEAST_REPLICATES, summary["declared"]):
        return ""
    missing = LEAST_REPLICATES - count
    each = math.ceil(summary["train_min"])
    by_make = "" if "." in summary["task"] else f" (with make, REPLICATES=0-{LEAST_REPLICATES - 1})"
    return (
        f"An interval needs 2 replicates and a verdict {LEAST_REPLICATES}: the same command with "
        f"study.numbers=0-{LEAST_REPLICATES - 1}"
        f"{by_make} runs the {missing} that are missing, about {minutes(each)} of training each on one core, "
        f"{missing * each} in total."
    )
