"""The page of one study, ``results/<task>/<scale>/<experiment>/README.md``."""

from collections.abc import Sequence
from html import escape
from typing import Any

from experiments.report.labels import Summary, metric_label, optimizer_name, ranges, task_name
from experiments.report.sentences import (
    ease_sentence,
    margin_words,
    next_step,
    reproduction_sentences,
    steps_sentence,
    verdict_sentence,
)
from experiments.report.tables import (
    claims_table,
    comparisons_of,
    cost_table,
    decided_by,
    environments_table,
    nuisance_table,
    replicates_table,
    result_table,
    settings_table,
    spaces_table,
    speedup_table,
    winners_table,
)

VERDICTS = """\
- **An optimizer's name**: the 95 % interval of the paired difference does not contain 0, and the difference is not so
  small that it is a tie. An optimizer also loses if it alone diverged, in more than half of the replicates.
- **tie**: the 90 % interval lies within the margin, so that both are equally good for practical purposes.
- **undecided**: neither is shown. That is not a tie: the difference may be 0 or may matter, and more replicates would
  tell. A study in which confirm runs diverged is undecided too, with the exception above.
- **withheld**: a winner or a tie was found, but the searches were still moving by more than that.
- **no verdict**: fewer than 4 replicates, or a scale whose numbers mean nothing.

*Exploratory* says that other replicates were counted than those that were declared beforehand; *box-limited*, that more
than a fifth of the winners lie in the outer 5 % of a dimension that was searched."""

CAPTIONS = {
    "paired-differences": "The difference in each replicate, its mean with the 95 % interval, and where a new "
    "replicate is expected.",
    "ease-of-tuning": "The best so far after each trial of the search: median over the replicates, band of the middle "
    "half of them.",
    "settings": "Every trial in each dimension of its search space. Where the worst quarter would flatten the rest, it "
    "stands at the edge; what diverged stands beyond.",
    "learning-curves": "The winners on fresh seeds: mean over all confirm runs that completed, band of one standard "
    "deviation.",
    "samples": "Generated images of each optimizer's first confirm run, from the same noise, at the same steps, "
    "above real ones of the same classes.",
    "sample-distances": "Distance of generated from real images: mean over the confirm runs, band of one standard "
    "deviation.",
}


def study_page(summary: Summary, figures: Sequence[str]) -> str:
    """The whole page as Markdown; ``figures`` are the file names of the figures beside it."""
    by_name = comparisons_of(summary)
    sections = [
        f"# {' against '.join(map(optimizer_name, summary['optimizers']))}: {task_name(summary['task'])}, "
        f"scale {summary['scale']}, experiment {summary['experiment']}",
        f"Regime: {_text(summary['regime'])}.",
    ]
    for rows in by_name.values():
        sections.append(f"**{_text(verdict_sentence(summary, rows[0]))}**")
        if summary["declared"]:
            sections.append(_text(steps_sentence(summary, rows[0])))
    if sentence := next_step(summary):
        sections.append(sentence)
    sections += _reproductions(summary, by_name)
    sections += _shown(figures, "paired-differences")
    if summary["stages"]:
        sections.append("## Ease of tuning")
        sections += [sentence for name in by_name if (sentence := ease_sentence(summary, name))]
        sections += _shown(figures, "ease-of-tuning")
    for name, rows in by_name.items():
        sections += [f"## Result: {_pair(summary, name)}", result_table(summary, rows)]
        if claims := claims_table(rows):
            sections += ["### The paper's claims", claims, _CLAIMS]
        sections.append(how_decided(summary, rows[0]))
    sections += ["The verdict is one of these:", VERDICTS]
    sections += _shown(figures, "learning-curves", "samples", "sample-distances")
    sections += _settings(summary, figures)
    for name, rows in by_name.items():
        if speedups := speedup_table(rows):
            sections += [f"## Speed-up: {_pair(summary, name)}", speedups, _SPEEDUP]
    sections += ["## Cost", cost_table(summary), _COST]
    sections += ["## What was drawn anew in each replicate", nuisance_table(summary) or _NOTHING_DRAWN]
    for name, rows in by_name.items():
        sections += [f"## Every replicate: {_pair(summary, name)}", replicates_table(summary, rows[0])]
    sections += ["## What it was computed with", environments_table(summary), *_what_was_run(summary)]
    return "\n\n".join(sections) + "\n"


def _text(sentence: str) -> str:
    return escape(sentence, quote=False)


def _pair(summary: Summary, name: str) -> str:
    return f"{optimizer_name(name)} - {optimizer_name(summary['reference'])}"


def _shown(figures: Sequence[str], *kinds: str) -> list[str]:
    found = [(name, CAPTIONS[kind]) for kind in kinds for name in figures if name.startswith(kind)]
    return [f"![{caption}]({name})\n\n*{caption}*" for name, caption in found]


def _reproductions(summary: Summary, by_name: dict[str, list[dict[str, Any]]]) -> list[str]:
    sentences = [text for rows in by_name.values() for text in reproduction_sentences(summary, rows[0])]
    return ["\n".join(f"- {_text(sentence)}" for sentence in sentences)] if sentences else []


def how_decided(summary: Summary, comparison: dict[str, Any]) -> str:
    """The metric, the margin and the numbers behind a verdict, as Markdown."""
    margin = margin_words(summary, comparison)
    tie = f"Differences within {margin} are a tie: {_text(summary['margin_reason'].rstrip('.'))}. " if margin else ""
    lines = [
        f"The {metric_label(comparison['metric'])} decides, because {_text(summary['primary_reason'].rstrip('.'))}; "
        f"{comparison['better']} is better. {tie}",
        *(f"- {fact}" for fact in decided_by(summary, comparison)),
    ]
    return "\n".join([lines[0].strip(), "", *lines[1:]]) if len(lines) > 1 else lines[0].strip()


def _settings(summary: Summary, figures: Sequence[str]) -> list[str]:
    if not summary["stages"]:
        return [
            "## Settings",
            settings_table(summary),
            "Nothing was searched: these are the experiment's own settings.",
        ]
    first, *later = summary["stages"]
    then = f"; then {sum(later)} one after the other, where those before promised most" if later else ""
    searched = (
        "In each replicate every optimizer was searched anew, by a validation split, each trial on a seed of its own: "
        f"{first} trials over the whole space, at the same points for all{then}. Its best trial then ran on "
        f"{summary['confirm']} fresh seeds."
    )
    units = (
        "A memory of m steps is a beta of 1 - 1 / m. The decay is the sum of learning rate times weight decay over the "
        "run, which tells how much of the initial weights would be left."
    )
    winners = f"<details><summary>The winner of every search</summary>\n\n{winners_table(summary)}\n\n</details>"
    return ["## Search", searched, spaces_table(summary), units, *_shown(figures, "settings"), winners]


_CLAIMS = """\
A claimed gain is confirmed where the 95 % interval shows it, and contradicted where the 90 % interval lies below half
of it. A claimed tie is confirmed where the 90 % interval lies within the margin, and contradicted where it lies
outside. Else the study cannot tell. The last column says how many pairs show the claim in 80 % of studies if it is
true."""

_SPEEDUP = """\
As the paper draws it: the steps of a whole run, divided by the first step at which the other optimizer is as good as
that run's end; its median over the confirm runs, and how many of them get there. The ratio cannot fall below 1, so
noise alone makes it look good. The last column shows what one optimizer gains over itself on other seeds: a speed-up
that is not clearly above it means nothing."""

_COST = """\
Training time leaves out evaluation, checkpoints and warm-up of the compiler. Figures of runs that shared a machine
compare the optimizers, but are no benchmark."""

_NOTHING_DRAWN = "Nothing but the seeds: initial weights, order of the data, noise."


def _what_was_run(summary: Summary) -> list[str]:
    data = summary["data"]
    lines = [
        f"- data: {_text(data['name'])}, fingerprint `{data['fingerprint']}`",
        f"- replicates: {ranges(summary['replicates'])} of {summary['declared']} declared"
        + (f"; reproductions {ranges(summary['reproductions'])}" if summary["reproductions"] else ""),
        f"- training time of a replicate on one core: {summary['train_min']:.0f} minutes",
    ]
    records = (
        "`summary.json` holds these numbers, `replicates/` the config, metrics and environment of every run, one file "
        "a replicate. `make report` draws this page and its figures from them."
    )
    return ["\n".join(lines), "Made by", f"```\n{summary['generated']}\n```", records]
