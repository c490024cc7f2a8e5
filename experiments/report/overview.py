"""The page over all studies, ``results/README.md``."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from experiments.report.labels import (
    MISSING,
    Summary,
    interval,
    mean_difference,
    means,
    metric_of,
    metric_title,
    number,
    optimizer_name,
    pairs,
    probability,
    task_name,
    verdict_name,
)
from experiments.report.readme import VERDICTS
from experiments.report.sentences import verdict_sentence
from experiments.report.tables import agreement, markdown_table, paper_source
from experiments.study.statistics import holm

INTRODUCTION = """\
# Lion against AdamW: what was measured

The paper "Symbolic Discovery of Optimization Algorithms" (Chen et al., 2023, arXiv:2302.06675) reports that the
optimizer Lion trains better models than AdamW. Each study below repeats that comparison on one task. Both optimizers
are tuned with the same number of trials; then both train with several seeds. Runs of the same seed start from the same
weights and see the same data in the same order, so that they are compared in pairs. One metric decides, which was
declared beforehand with the margin below which a difference does not matter. The verdict is one of these:"""

READING = """\
Intervals and p values tell how results vary over seeds at the tuned settings, on this data and this model. They do not
tell what other settings, data or models would give. At all scales but `paper`, the paper's values come from larger
models and other data than ours, so that only the direction of the difference can be compared."""

SCALES = {
    "paper": "the paper's own models and settings",
    "gpu": "larger models on one GPU",
    "mini": "small models on real data and two CPU cores",
    "smoke": "checks that the code runs; the numbers mean nothing",
}
"""In the order of the page."""


def overview_page(studies: Mapping[str, Summary]) -> str:
    """The whole page as Markdown. ``studies`` are the summaries by folder, ``<task>/<scale>/<experiment>``."""
    sections = [INTRODUCTION, VERDICTS, READING]
    found = dict.fromkeys(summary["scale"] for summary in studies.values())
    for scale in [*(scale for scale in SCALES if scale in found), *(scale for scale in found if scale not in SCALES)]:
        of_scale = {folder: summary for folder, summary in studies.items() if summary["scale"] == scale}
        sections += _scale_sections(scale, of_scale)
    if not studies:
        sections.append("There is no study yet: `make reproduce` makes them.")
    return "\n\n".join(sections) + "\n"


def headline_table(studies: Mapping[str, Summary]) -> str:
    """The tasks' default studies in a few columns, for the front page of the project; ``studies`` as above."""
    rows = []
    for folder, summary in studies.items():
        for comparison in summary["comparisons"] if _is_default(folder, summary["scale"]) else []:
            if comparison["primary"]:
                decimals, difference = metric_of(comparison["metric"]).decimals, comparison["difference"]
                written = interval(difference and difference["ci95"], decimals)
                rows.append(
                    [
                        f"[{task_name(summary['task'])}, {summary['data']['name']}](results/{quote(folder)}/README.md)",
                        summary["scale"],
                        metric_title(comparison["metric"]),
                        *(
                            f"{optimizer_name(comparison[side])} {number(mean, decimals)}"
                            for side, mean in zip("ab", means(comparison), strict=True)
                        ),
                        f"{number(mean_difference(comparison), decimals, '+')} ({written})",
                        pairs(summary, comparison),
                        f"**{verdict_name(summary, comparison)}**",
                    ]
                )
    head = ["study", "scale", "metric", "mean", "mean", "difference (95 % interval)", "paired seeds", "verdict"]
    return markdown_table(head, rows)


def _is_default(folder: str, scale: str) -> bool:
    """Whether it is the study that ``make reproduce-<task>`` runs at this scale: its name is the scale's."""
    return folder.rpartition("/")[2] == scale


def _scale_sections(scale: str, studies: Mapping[str, Summary]) -> list[str]:
    comparisons = {
        f"{folder}: {optimizer_name(comparison['a'])} - {optimizer_name(comparison['b'])}": (folder, comparison)
        for folder, summary in studies.items()
        for comparison in summary["comparisons"]
        if comparison["primary"]
    }
    # The family of Holm's correction: the study of each task that the scale runs by default, whose name is the scale's.
    # Ablations and single cells stand beside it with their own p.
    adjusted = holm(
        {
            key: _p(studies[folder], comparison)
            for key, (folder, comparison) in comparisons.items()
            if _is_default(folder, scale)
        }
    )
    rows, sentences = [], []
    for key, (folder, comparison) in comparisons.items():
        sentences.append(f"- {_link(folder)}: {verdict_sentence(studies[folder], comparison)}")
        rows.append(_row(folder, studies[folder], comparison, adjusted.get(key)))
    head = ["study", "verdict", "metric", "comparison", "means", "difference (95 % interval)", "pairs", "p", "Holm's p"]
    head += ["paper", "paper's direction"]
    title = f"## {scale}: {SCALES[scale]}" if scale in SCALES else f"## {scale}"
    return [title, "\n".join(sentences), markdown_table(head, rows), *_holm_note(scale, adjusted)]


def _p(summary: Summary, comparison: dict[str, Any]) -> float:
    """The p of a comparison for Holm's correction: 1 without an interval, or where the pairs left are a selection."""
    diverged = any(summary["optimizers"][comparison[side]]["diverged"] for side in "ab")
    return 1.0 if diverged or not comparison["difference"] else comparison["difference"]["p"]


def _link(folder: str) -> str:
    return f"[{folder}]({quote(folder)}/README.md)"


def _row(folder: str, summary: Summary, comparison: dict[str, Any], adjusted: float | None) -> list[str]:
    difference, paper = comparison["difference"], comparison["paper"]
    ci95, p = (difference["ci95"], difference["p"]) if difference else (None, None)
    decimals = metric_of(comparison["metric"]).decimals
    published = MISSING
    if paper:
        values = " - ".join(number(paper[comparison[side]], decimals) for side in "ab")
        published = f"{values} ({paper_source(paper)})"
    return [
        _link(folder),
        f"**{verdict_name(summary, comparison)}**",
        f"{metric_title(comparison['metric'])} ({comparison['better']} is better)",
        " - ".join(optimizer_name(comparison[side]) for side in "ab"),
        " - ".join(number(mean, decimals) for mean in means(comparison)),
        f"{number(mean_difference(comparison), decimals, '+')} ({interval(ci95, decimals)})",
        pairs(summary, comparison),
        probability(p),
        probability(adjusted),
        published,
        agreement(paper),
    ]


def _holm_note(scale: str, adjusted: Mapping[str, float]) -> list[str]:
    if not adjusted:
        return []
    below = "; ".join(key for key, p in adjusted.items() if p < 0.05) or "none"
    return [
        "p is that of the paired t test in one study. Among several studies one p below 0.05 comes easily by chance; "
        f"Holm's p allows for all comparisons ({len(adjusted)}) of the studies named {scale}, one a task, and counts a "
        "comparison without an interval, or with diverged runs, as p = 1. Other studies have none. It changes no "
        f"verdict, which each study gives by itself. Holm's p is below 0.05 for: {below}."
    ]
