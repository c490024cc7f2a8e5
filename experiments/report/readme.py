"""The page of one study, ``results/<task>/<scale>/<experiment>/README.md``."""

from collections.abc import Sequence
from html import escape
from typing import Any

from experiments.report.labels import (
    Summary,
    amount,
    interval,
    metric_label,
    metric_of,
    optimizer_name,
    probability,
    task_name,
)
from experiments.report.sentences import verdict_sentence
from experiments.report.tables import (
    cost_table,
    other_metrics_table,
    result_table,
    settings_table,
    speedup_table,
    tuning_table,
)

VERDICTS = """\
- **An optimizer's name**: the 95 % interval of the paired difference does not contain 0, and the difference is not so
  small that it is a tie. An optimizer also loses if it alone diverged, in more than half of the seeds.
- **tie**: the 90 % interval lies within the margin, so that both are equally good for practical purposes.
- **undecided**: neither is shown. That is not a tie: the difference may be 0 or may matter, and more seeds would tell.
  A study in which training diverged is undecided too, with the exception above."""

CAPTIONS = {
    "samples": "Generated images of each optimizer's first seed, from the same noise, at the same steps.",
    "sample-distances": "Distance of generated from real images: mean over the seeds, band of one standard deviation.",
    "learning-curves": "Learning curves: mean over the seeds whose run completed, band of one standard deviation.",
    "learning-rate-sweep": "Tuning: the validation metric of every trial against its learning rate.",
    "paired-differences": "The difference within each pair, and its mean with the 95 % interval.",
}


def study_page(summary: Summary, figures: Sequence[str]) -> str:
    """The whole page as Markdown; ``figures`` are the file names of the figures beside it."""
    primary = [comparison for comparison in summary["comparisons"] if comparison["primary"]]
    sections = [
        f"# {' against '.join(map(optimizer_name, summary['optimizers']))}: {task_name(summary['task'])}, "
        f"scale {summary['scale']}, experiment {summary['experiment']}"
    ]
    sections += [f"**{verdict_sentence(summary, comparison)}**" for comparison in primary]
    if not primary:
        sections.append("**No verdict: this study only tuned.**")
    for comparison in primary:
        sections += [
            f"## Result: {_names(comparison)}",
            result_table(summary, comparison),
            how_decided(summary, comparison),
        ]
    sections += ["The verdict is one of these:", VERDICTS] if primary else []
    sections += _other_metrics(summary)
    sections += [f"![{_caption(name)}]({name})\n\n*{_caption(name)}*" for name in figures]
    sections += ["## Settings", settings_table(summary), _budget(summary)]
    if tuning := tuning_table(summary):
        sections += ["### Tuning trials", tuning]
    for comparison in primary:
        if comparison["speedup"]:
            sections += [f"## Speed-up: {_names(comparison)}", _SPEEDUP, speedup_table(comparison)]
    if summary["seeds"]:
        sections += ["## Cost", cost_table(summary), _COST]
    sections += ["## What was run", _what_was_run(summary)]
    return "\n\n".join(sections) + "\n"


def _names(comparison: dict[str, Any]) -> str:
    return f"{optimizer_name(comparison['a'])} - {optimizer_name(comparison['b'])}"


def _caption(figure: str) -> str:
    return next(caption for prefix, caption in CAPTIONS.items() if figure.startswith(prefix))


def how_decided(summary: Summary, comparison: dict[str, Any]) -> str:
    """The rule, margin, intervals and p values behind a verdict, as Markdown."""
    decimals = metric_of(comparison["metric"]).decimals
    margin = amount(comparison["margin"], comparison["metric"])
    lines = [
        f"The {metric_label(comparison['metric'])} was declared to decide; {comparison['better']} is better. "
        f"Differences within {margin} count as a tie: {escape(summary['margin_reason'].rstrip('.'), quote=False)}.",
    ]
    looks = summary["looks"]
    if len(looks["declared"]) > 1:
        share = 100 * looks["alpha"]
        lines.append(
            f"Looks at the results were declared beforehand for {_numbers(looks['declared'])} seeds. Each takes "
            f"{share:.3g} % of the 5 %: for a winner the {100 - share:.3g} % interval must leave out 0, for a tie the "
            f"{100 - 2 * share:.3g} % interval must lie within the margin."
        )
    if looks["exploratory"]:
        lines.append(
            f"**Exploratory**: this study was judged at {_numbers(looks['taken'])} seeds, and that was declared for "
            f"{_numbers(looks['declared'])} only. Seeds that are added until a verdict comes make false verdicts more "
            "frequent than these intervals promise."
        )
    if difference := comparison["difference"]:
        details = [
            f"90 % interval {interval(difference['ci90'], decimals)}",
            f"two-sided paired t test p {_equals(difference['p'])}",
        ]
        if difference.get("sign_flip_p") is not None:
            details.append(f"exact sign-flip p {_equals(difference['sign_flip_p'])} (it decides nothing)")
        if difference.get("bootstrap95") is not None:
            bootstrap = interval(difference["bootstrap95"], decimals)
            details.append(f"95 % bootstrap interval {bootstrap} (it decides nothing)")
        lines.append(f"{_names(comparison)} over {difference['n']} pairs: {'; '.join(details)}.")
        if difference.get("variance_ratio") is not None:
            lines.append(
                "Runs of one seed share initial weights, batches and noise; unpaired, the variance of the difference "
                f"would be {difference['variance_ratio']:.1f} times what it is."
            )
        if difference["n"] <= 3:
            lines.append(f"With {difference['n']} pairs the interval is wide: read the direction only.")
        lines.append(
            "The interval tells how the result varies over seeds **at the settings below**. It does not cover how the "
            "choice of those settings, of the data or of the model might have changed it."
        )
    return "\n".join(lines)


def _numbers(values: Sequence[int]) -> str:
    return " and ".join(map(str, values))


def _equals(p: float) -> str:
    return probability(p) if p < 0.001 else f"= {probability(p)}"


def _other_metrics(summary: Summary) -> list[str]:
    pairs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for comparison in summary["comparisons"]:
        if not comparison["primary"]:
            pairs.setdefault((comparison["a"], comparison["b"]), []).append(comparison)
    if not pairs:
        return []
    return [
        "## Other metrics",
        "For information; none of them has a verdict.",
        *map(other_metrics_table, pairs.values()),
    ]


def _budget(summary: Summary) -> str:
    budgets = {optimizer["trials"] for optimizer in summary["optimizers"].values()}
    if summary["settings_from"]:
        return (
            f"Nothing was tuned here: the settings are transferred, those that won in {summary['settings_from']}. They "
            "need not be the best ones for this data, for either optimizer."
        )
    if budgets == {0}:
        return "Nothing was tuned: the settings are those that the experiment declares."
    return (
        "All optimizers were tuned with the same number of trials, on a validation split and on other seeds than those "
        "reported. A winner at the edge of its grid is flagged, because better settings may lie beyond."
    )


_SPEEDUP = """\
As the paper draws it, on the validation metric: the steps of a whole run, divided by the first step at which the other
optimizer is as good as that run's end. The ratio cannot fall below 1, so noise alone makes it look good. The last row
shows what one optimizer gains over itself on other seeds: a speed-up that is not clearly above it means nothing."""

_COST = """\
Training time leaves out evaluation, checkpoints and warm-up of the compiler. Figures of runs that shared a machine
compare the optimizers, but are no benchmark."""


def _what_was_run(summary: Summary) -> str:
    environment, data = summary["environment"], summary["data"]
    commit = f"commit `{environment['git_sha']}`" if environment["git_sha"] else "of no commit"
    commit += ", with uncommitted changes" if environment.get("git_dirty") else ""
    kinds = environment.get("kinds_of_hardware", 1)
    facts = {
        "data": f"{data['name']}, fingerprint `{data['fingerprint']}`",
        "steps a run": str(summary["steps"]),
        "seeds": ", ".join(map(str, summary["seeds"])) or "none",
        "hardware": _listed(environment["hardware"]) + (f" (the first of {kinds} kinds)" if kinds > 1 else ""),
        "packages": _listed(environment["packages"]),
        "sources": f"{commit}, digest `{environment['sources_digest']}`",
    }
    lines = [f"- {name}: {fact}" for name, fact in facts.items()]
    command = f"```\n{summary['generated']}\n```"
    records = (
        "`summary.json` holds these numbers, `runs/` the config, metrics and environment of every run. "
        "`make report` draws this page and its figures from them."
    )
    return "\n\n".join(["\n".join(lines), "Made by", command, records])


def _listed(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(facts.items()) if value is not None)
