"""The regime for which a study holds: what a reader must know before the verdict."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from experiments.harness.metric import Metric, find, metrics_of
from experiments.study.in_steps import percent_fewer
from experiments.study.names import optimizer_name, significant


def regime_facts(
    described: Mapping[str, Any], optimizers: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Model, training (batch, steps, passes over the data), memories of the winners, smallest detectable difference.

    ``optimizers`` and ``comparisons`` as in summary.json.
    """
    regime, study = described["regime"], described["study"]
    tokens = regime["tokens_per_sample"]
    seen = regime["steps"] * regime["batch_size"]
    batch = f"batch {regime['batch_size']:,}" + (f" ({regime['batch_size'] * tokens:,} tokens)" if tokens else "")
    passes = [f"{significant(seen / regime['train_samples'])} epochs"] if regime["train_samples"] else []
    if tokens:
        passes.append(f"{significant(seen * tokens / regime['parameters'])} tokens per parameter")
    facts = {
        "model": f"{regime['model']}, {counted(regime['parameters'])} parameters",
        "training": f"{batch}, {regime['steps']:,} steps" + (f" ({', '.join(passes)})" if passes else ""),
    }
    memories = {
        optimizer_name(name): _memories(described["spaces"].get(name, []), [each for each in one["values"] if each])
        for name, one in optimizers.items()
    }
    if found := [f"{name} {' and '.join(steps)}" for name, steps in memories.items() if steps]:
        facts["memories of the winners in steps"] = ", ".join(found)
    if study["replicates"]:
        reach = [_reach(described["task"], row, several=len(optimizers) > 2) for row in comparisons if row["primary"]]
        facts["true difference that 80 % of such studies would detect"] = ", ".join(reach)
    return facts


def counted(number: float) -> str:
    """``241382`` -> ``0.24 M``."""
    if number >= 1e9:
        return f"{number / 1e9:.3g} G"
    return f"{number / 1e6:.3g} M" if number >= 1e5 else f"{number:,}"


def _memories(space: Sequence[Mapping[str, Any]], values: Sequence[Mapping[str, float]]) -> list[str]:
    """The median of each beta's memory over the winners, with the shortest and longest; empty without a winner."""
    found = []
    for name in [each["name"] for each in space if each["kind"] == "memory"]:
        if not (steps := [value[name] for value in values]):
            continue
        spread = f" ({significant(min(steps))} to {significant(max(steps))})" if len(steps) > 1 else ""
        found.append(f"{significant(median(steps))}{spread}")
    return found


def _reach(task: str, row: Mapping[str, Any], *, several: bool) -> str:
    beside = f"{optimizer_name(row['a'])} " if several else ""
    if row["smallest_effect"] is None:
        of_both = " in which both completed" if any(row["diverged"].values()) else ""
        return f"{beside}unknown with fewer than 2 replicates{of_both}"
    metric = find(metrics_of(task), row["metric"]) or Metric(row["metric"], row["better"])
    amount = f"{row['smallest_effect']:.{metric.decimals}f} {metric.difference_unit}".rstrip()
    of_all, left = len(row["per_replicate"][row["a"]]), row["difference"]["n"]
    selection = f" of {of_all}, as runs diverged in the others" if left < of_all else ""
    reach = f"{beside}{amount} in {metric.label} with {left} replicates{selection}"
    if row["steps_percent"]:
        reach += f" (what {significant(percent_fewer(abs(row['smallest_effect'] / row['slope'])))} % fewer steps cost)"
    return reach
