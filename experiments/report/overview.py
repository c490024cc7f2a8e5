"""The summary pages of all studies: ``results/README.md``, and the results block of the project's front page."""

from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from experiments.harness.source_code import our_tasks
from experiments.report.labels import (
    MISSING,
    NO_P,
    Summary,
    deciding,
    in_metric,
    marked,
    metric_title,
    optimizer_name,
    pair_name,
    probability,
    replicates,
    result_cells,
    selected,
    steps_cell,
    task_name,
    titled,
    too_small,
    verdict_name,
    verdict_words,
)
from experiments.report.readme import VERDICTS
from experiments.report.sentences import verdict_sentence
from experiments.report.tables import markdown_table, selection_note
from experiments.study.statistics import ALPHA, LEAST_REPLICATES, holm

INTRODUCTION = """\
# Lion against AdamW: results

The paper "Symbolic Discovery of Optimization Algorithms" (Chen et al., 2023, arXiv:2302.06675) reports that the
optimizer Lion trains better models than AdamW. Each study below repeats that comparison on one task, several times.
In each replicate, both optimizers are tuned with the same number of trials over declared search spaces, and the winners
are rerun on fresh seeds. Choices that belong to neither optimizer (split, initialization scale, clipping, schedule) are
redrawn for each replicate, the same for both. One metric decides. It was declared beforehand, as was the margin of a
tie: a percentage of the steps, converted to the metric's units by running the reference at other lengths. The verdict
is one of these:"""

READING = """\
Intervals and p values describe how results vary between replicates: over searches, hyperparameters, seeds, splits and
everything else that is redrawn. They say nothing about other data, models, batch sizes, search spaces or lengths of
training. Replicate n of every task draws its choices from the same random numbers, so tasks are not independent. The
paper's numbers are shown next to ours only if model, data and metric are the paper's. The memory of a beta is
1 / (1 - beta) steps. A margin of 10 % fewer steps corresponds to 11 % more steps (1 / 0.9), and only roughly: it
uses the median of the replicates' slopes of the metric over steps, which a single run that blew up cannot move, and the
difference in steps uses their mean. The margin is an estimate, too, and its uncertainty is not part of any interval.
Temperature scaling is fitted on the validation split. docs/reproducing.md lists the committed results that were
replaced, docs/gpu.md tells how the GPU study was made."""

SCALES = {
    "paper": "the paper's own models and settings",
    "gpu": "larger models on one GPU",
    "mini": "small models on real data, on two CPU cores",
    "smoke": "checks that the code runs; the numbers mean nothing",
}
"""In the order in which the page lists them."""


def overview_page(studies: Mapping[str, Summary]) -> str:
    """The whole page as Markdown. ``studies`` are the summaries by folder, ``<task>/<scale>/<experiment>``."""
    sections = [INTRODUCTION, VERDICTS, READING, _HOLM]
    adjusted = _adjusted(studies)
    for scale in dict.fromkeys([*SCALES, *(summary["scale"] for summary in studies.values())]):
        if of_scale := {folder: summary for folder, summary in studies.items() if summary["scale"] == scale}:
            title = f"## {scale}: {SCALES[scale]}" if scale in SCALES else f"## {scale}"
            sections += [title, *_shown(of_scale, "", adjusted)]
    if not studies:
        sections.append("There is no study yet: run `make reproduce`.")
    return "\n\n".join(sections) + "\n"


def front_page(studies: Mapping[str, Summary]) -> str:
    """What the tasks' default studies have and have not shown, in Markdown; ``studies`` as above."""
    shown = {folder: summary for folder, summary in studies.items() if _is_default(folder, summary)}
    measured = {summary["task"] for summary in shown.values()}
    missing = ", ".join(task_name(task) for task in our_tasks() if task not in measured)
    if not shown:
        return (
            "**Nothing has been shown here yet: no study is committed.** The commands below each run the first "
            f"replicate of one; a verdict needs {LEAST_REPLICATES}."
        )
    adjusted = _adjusted(shown)
    sections = [f"**{_tally(shown, adjusted)}**" + (f" Not measured yet: {missing}." if missing else "")]
    if all(summary["scale"] != "paper" for summary in shown.values()):
        sections[0] += (
            " None of these studies uses the paper's models or training lengths, so none confirms or contradicts the "
            "paper: each asks which optimizer is better when both are tuned in the stated regime."
        )
    return "\n\n".join([*sections, *_shown(shown, "results/", adjusted), _HOLM])


def _shown(studies: Mapping[str, Summary], prefix: str, adjusted: Mapping[str, float]) -> list[str]:
    """Table of the results, table of the regimes, and what the verdicts say, with Holm's p values by ``_key``."""
    verdicts = [
        f"- {_link(folder, summary, prefix)}: {verdict_sentence(summary, row)}"
        for folder, summary, row in _judged(studies)
    ]
    return [_result_table(studies, prefix, adjusted), _regime_table(studies, prefix), "\n".join(verdicts)]


def _tally(studies: Mapping[str, Summary], adjusted: Mapping[str, float]) -> str:
    """How many comparisons have which verdict, exploratory ones in a sentence of their own, how many of the winners
    Holm's correction leaves, and how many wins may be too small to matter.
    """
    sentences = []
    for exploratory in (False, True):
        rows = {_key(folder, row): row for folder, _, row in _judged(studies) if row["exploratory"] == exploratory}
        counts = Counter(verdict_words(row["verdict"]) for row in rows.values())
        won = {key: row for key, row in rows.items() if row["verdict"] in (row["a"], row["b"])}
        counted = ", ".join(f"{words} in {count}" for words, count in counts.items())
        if counts and not exploratory:
            sentences.append(f"With all declared replicates: {counted} of {counts.total()} comparisons.")
            if corrected := [adjusted[key] for key in won if key in adjusted]:
                sentences.append(
                    f"Winners whose p is at most {ALPHA:g} after correction for the number of studies: "
                    f"{sum(p <= ALPHA for p in corrected)} of {len(corrected)}."
                )
        elif counts:
            sentences.append(
                "Exploratory and not final, because the replicates are not those declared: "
                f"{counted} of {counts.total()} comparisons."
            )
        small = Counter(likely for row in won.values() if (likely := too_small(row)))
        if phrases := [f"{likely} too small to matter in {count}" for likely, count in sorted(small.items())]:
            sentences.append(f"The difference {' and '.join(phrases)} of {len(won)} wins.")
    later = [each for *_, row in _judged(studies) for each in row["reproductions"]]
    consistent = sum(each["inside"] is True for each in later)
    diverged = sum(each["difference"] is None for each in later)
    compared = diverged + sum(each["inside"] is not None for each in later)
    if compared:
        sentences.append(
            f"Of {compared} comparisons in later replicates, made to check these results, {consistent} are consistent "
            "with them" + (f", and in {diverged} a confirm run diverged." if diverged else ".")
        )
    return " ".join(sentences)


def _is_default(folder: str, summary: Summary) -> bool:
    """Whether it is the study that ``make reproduce-<task>`` runs at its scale, the one named after the scale, and the
    scale is one with verdicts.
    """
    return bool(summary["declared"]) and folder.rpartition("/")[2] == summary["scale"]


def _judged(studies: Mapping[str, Summary]) -> list[tuple[str, Summary, dict[str, Any]]]:
    """Folder and summary of each study with each of its deciding comparisons."""
    return [(folder, summary, row) for folder, summary in studies.items() for row in deciding(summary)]


def _link(folder: str, summary: Summary, prefix: str) -> str:
    own = "" if summary["experiment"] == summary["scale"] else f", {summary['experiment']}"
    return f"[{task_name(summary['task'])}, {summary['data']['name']}{own}]({prefix}{quote(folder)}/README.md)"


def _regime_table(studies: Mapping[str, Summary], prefix: str) -> str:
    headings = list(dict.fromkeys(heading for summary in studies.values() for heading in summary["regime"]))
    rows = [
        [_link(folder, summary, prefix), *(summary["regime"].get(heading, MISSING) for heading in headings)]
        for folder, summary in studies.items()
    ]
    return markdown_table(["regime", *headings], rows, align=":--")


def _result_table(studies: Mapping[str, Summary], prefix: str, adjusted: Mapping[str, float]) -> str:
    """One row per deciding comparison, with Holm's p values by ``_key``."""
    rows, deciders = [], [row for *_, row in _judged(studies)]
    for folder, summary, row in _judged(studies):
        *_, difference, within = result_cells(row)
        cells = [
            _link(folder, summary, prefix),
            folder.partition("/")[2],
            f"**{verdict_name(summary, row)}**",
            marked(f"{difference} ({within})", row),
            steps_cell(row),
            titled(row["metric"], row["better"]),
            _means_cell(row),
            str(sum(summary["stages"])) if summary["stages"] else "none",
            replicates(summary, row),
            _paper_cell(summary, row),
            NO_P if selected(row) else probability(row["difference"] and row["difference"]["p"]),
            probability(adjusted.get(_key(folder, row))),
        ]
        rows.append(cells)
    pairs = {(row["a"], row["b"]) for row in deciders}
    first, second = map(optimizer_name, pairs.pop()) if len(pairs) == 1 else ("first", "second")
    head = ["task", "study", "verdict", f"{first} - {second} (95 % interval)"]
    head += [f"steps that {first} needs (95 % interval)", "metric", "means", "trials each, per replicate", "replicates"]
    head += ["paper", "p", "Holm's p"]
    note = selection_note(deciders)
    return markdown_table(head, rows) + (f"\n\n{note} Holm's p counts such a comparison as p = 1." if note else "")


def _means_cell(row: dict[str, Any]) -> str:
    """``Lion 0.5009, AdamW 0.4978``; n/a if no pair is left."""
    if row["mean"] is None:
        return MISSING
    mean_a, mean_b, *_ = result_cells(row)
    return marked(f"{optimizer_name(row['a'])} {mean_a}, {optimizer_name(row['b'])} {mean_b}", row)


def _paper_cell(summary: Summary, pair: Mapping[str, Any]) -> str:
    """The paper's numbers for two optimizers, by metric, each with the outcome of its claim."""
    cells = []
    for row in summary["comparisons"]:
        if (paper := row["paper"]) and (row["a"], row["b"]) == (pair["a"], pair["b"]):
            numbers = (f"{optimizer_name(row[side])} {in_metric(paper[row[side]], row['metric'])}" for side in "ab")
            cells.append(f"{metric_title(row['metric'])}: {', '.join(numbers)}: {paper['outcome'] or 'no claim'}")
    return "; ".join(cells) or "not comparable"


def _key(folder: str, row: dict[str, Any]) -> str:
    return f"{folder}: {pair_name(row)}"


def _adjusted(studies: Mapping[str, Summary]) -> dict[str, float]:
    """Holm's p values by ``_key``. The family is the default study of each task at each scale; ablations and single
    cells only have their own p.
    """
    family = {_key(folder, row): _p(row) for folder, summary, row in _judged(studies) if _is_default(folder, summary)}
    return holm(family) if len(family) > 1 else {}


def _p(row: dict[str, Any]) -> float:
    """The p of a comparison for Holm's correction: 1 if there is no interval, if the replicates are not those declared,
    or if the remaining pairs are a selection.
    """
    final = row["difference"] and not row["exploratory"] and not any(row["diverged"].values())
    return float(row["difference"]["p"]) if final else 1.0


_HOLM = """\
p is from the paired t test of one study. Among several studies, one p below 0.05 easily occurs by chance: Holm's p
corrects for the default studies of all tasks at all scales, counting an exploratory comparison, or one with diverged
runs, as p = 1. A verdict is about its own study, so it does not use Holm's p: where that is above 0.05, read a winner
as a lead that the number of studies alone may explain."""
