"""The tables of a study, in Markdown."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from experiments.report.labels import (
    MISSING,
    Summary,
    amount,
    dimension_label,
    in_metric,
    interval,
    marked,
    megabytes,
    metric_title,
    number,
    optimizer_name,
    pair_name,
    probability,
    ranges,
    replicates,
    result_cells,
    selected,
    significant,
    steps_cell,
    values,
    verdict_name,
)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "--:") -> str:
    """A Markdown table, its first column aligned to the left and all others to the right (words: ``:--``)."""
    lines = [head, [":--", *[align] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def comparisons_of(summary: Summary) -> dict[str, list[dict[str, Any]]]:
    """All metrics of each optimizer compared with the reference, the deciding metric first."""
    names = dict.fromkeys(row["a"] for row in summary["comparisons"])
    return {name: [row for row in summary["comparisons"] if row["a"] == name] for name in names}


def result_table(summary: Summary, rows: Sequence[dict[str, Any]]) -> str:
    """Every metric of two optimizers; the first one decides. A study without a verdict has no differences in steps."""
    a, b = (optimizer_name(rows[0][side]) for side in "ab")
    headline, own = summary["headline_metric"], "; with its own winners"
    cells = []
    for row in rows:
        cells.append(
            [
                f"{metric_title(row['metric'])} ({row['better']} is better{own if row['metric'] == headline else ''})",
                f"**{verdict_name(summary, row)}**" if row["primary"] else "",
                *(marked(cell, row) for cell in result_cells(row)),
                *([steps_cell(row)] if summary["declared"] else []),
                replicates(summary, row),
            ]
        )
    in_steps = [f"steps that {a} needs (95 % interval)"] if summary["declared"] else []
    head = ["metric", "verdict", a, b, f"{a} - {b}", "95 % interval", *in_steps, "replicates"]
    return markdown_table(head, cells)


def selection_note(rows: Sequence[dict[str, Any]]) -> str:
    """Why cells of these comparisons are marked; empty if none is."""
    marks = " or ".join(sorted({f'"in {of}"' for row in rows if row["mean"] and (of := selected(row))}))
    return marks and (
        f"{marks}: in the other replicates a confirm run diverged, so these numbers are those of a selection. They "
        "may not be compared with numbers of all replicates, and a p would mean nothing."
    )


def claims_table(rows: Sequence[dict[str, Any]]) -> str:
    """The paper's claims, and this study's outcome for each; empty if the paper has no number for them."""
    cells = []
    for row in rows:
        if paper := row["paper"]:
            *_, difference, within = result_cells(row)
            claimed = " / ".join(in_metric(paper[row[side]], row["metric"]) for side in "ab")
            uncertainty = f" within ±{paper['uncertainty']:g}" if paper["uncertainty"] else ""  # of digitised values
            source = f"{paper['cell']}, {paper['source']}, {paper['trust']}{uncertainty}"
            claim = f"{optimizer_name(paper['by'])} is better" if paper["by"] else "tie"
            cells.append(
                [
                    metric_title(row["metric"]),
                    f"{claimed} ({source})",
                    claim,
                    marked(f"{difference} ({within})", row),
                    f"**{paper['outcome']}**" if paper["outcome"] else MISSING,
                    str(paper["pairs_needed"]) if paper["pairs_needed"] else MISSING,
                ]
            )
    a, b = (optimizer_name(rows[0][side]) for side in "ab")
    head = ["metric", f"paper, {a} / {b}", "claim", f"ours, {a} - {b} (95 % interval)", "outcome", "pairs needed"]
    return markdown_table(head, cells) if cells else ""


def settings_table(summary: Summary) -> str:
    """The hyperparameters of a study without a search."""
    rows = [
        [optimizer_name(name), ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)]
        for name, optimizer in summary["optimizers"].items()
        for settings in optimizer["winners"][:1]
    ]
    return markdown_table(["optimizer", "settings"], rows)


def spaces_table(summary: Summary) -> str:
    """The search spaces, and where in them the winners lie."""
    rows = []
    for name, optimizer in summary["optimizers"].items():
        for space in summary["spaces"].get(name, []):
            found = [value[space["name"]] for value in optimizer["values"] if value]
            spread = at_edge = MISSING
            if found:
                spread = f"{significant(median(found))} ({significant(min(found))} to {significant(max(found))})"
                at_edge = "**yes: box-limited**" if space["name"] in optimizer["box_limited"] else "no"
            bounds = f"{'0, ' if space['zero'] else ''}{significant(space['low'])} to {significant(space['high'])}"
            rows.append([optimizer_name(name), dimension_label(space), bounds, spread, at_edge])
    head = ["optimizer", "dimension", "range", "winners: median (lowest to highest)", "many at an edge"]
    return markdown_table(head, rows)


def winners_table(summary: Summary) -> str:
    """The winner of every search."""
    found = [
        (str(replicate), optimizer_name(name), settings)
        for name, optimizer in summary["optimizers"].items()
        for replicate, settings in zip(summary["replicates"], optimizer["winners"], strict=False)
    ]
    all_settings = [(key, value) for *_, settings in found for key, value in (settings or {}).items()]
    keys = dict.fromkeys(key for key, value in all_settings if isinstance(value, float | list))
    rows = []
    for replicate, name, settings in found:
        who = name if settings else f"{name}: all trials diverged"
        rows.append([replicate, who, *(_argument((settings or {}).get(key)) for key in keys)])
    return markdown_table(["replicate", "optimizer", *keys], rows)


def _argument(value: Any) -> str:
    if value is None:
        return MISSING
    return ", ".join(f"{each:g}" for each in value) if isinstance(value, list) else f"{value:.4g}"


def nuisance_table(summary: Summary) -> str:
    """What was redrawn in each replicate, from which range; empty if nothing was."""
    rows = []
    for key, described in sorted(summary["nuisance"].items()):
        if "choices" in described:
            declared = "one of " + ", ".join(map(_drawn, described["choices"]))
        else:
            scale = ", log-uniform" if described.get("log") else ""
            declared = f"{_drawn(described['low'])} to {_drawn(described['high'])}{scale}"
        drawn = [values[key] for values in summary["drawn"].values() if key in values]
        rows.append([f"`{key}`", declared, ", ".join(map(_drawn, drawn)) or "fixed by the command"])
    return markdown_table(["setting", "drawn from", "value in each replicate"], rows) if rows else ""


def _drawn(value: Any) -> str:
    return "none" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def replicates_table(summary: Summary, comparison: dict[str, Any]) -> str:
    """The difference of every replicate, reproductions last."""
    inside = {True: "inside", False: "**outside**", None: MISSING}
    notes = {row["replicate"]: f"reproduction: {inside[row['inside']]}" for row in comparison["reproductions"]}
    rows = [
        [str(n), *cells, notes.get(n) or ("counted as diverged" if "diverged" in cells else "counted")]
        for n, cells in replicate_cells(summary, comparison).items()
    ]
    head = ["replicate", *(optimizer_name(comparison[side]) for side in "ab"), pair_name(comparison), ""]
    return markdown_table(head, rows)


def replicate_cells(summary: Summary, comparison: dict[str, Any]) -> dict[int, list[str]]:
    """The values of a and b in each replicate, and their difference; reproductions last."""
    metric, cells = comparison["metric"], {}
    for n, (x, y) in values(summary, comparison).items():
        difference = None if x is None or y is None else x - y
        both = ("diverged" if value is None else in_metric(value, metric) for value in (x, y))
        cells[n] = [*both, in_metric(difference, metric, "+")]
    return cells


def speedup_table(rows: Sequence[dict[str, Any]]) -> str:
    """The paper's speed-up in both directions and between runs of one optimizer, for every metric with a curve; empty
    if none has one.
    """
    cells = []
    for row in rows:
        if speedup := row["speedup"]:
            reaches = [_ratio(reach) for reach in (speedup, speedup["reverse"], speedup["aa"])]
            cells.append([metric_title(speedup["curve"]), *reaches])
    a, b = (optimizer_name(rows[0][side]) for side in "ab")
    head = ["metric", f"{a} reaches {b}'s end", f"{b} reaches {a}'s end", f"{b} reaches {b}'s end (A/A)"]
    return markdown_table(head, cells) if cells else ""


def _ratio(reach: Mapping[str, Any]) -> str:
    median = f"{reach['median']:.2f}x, " if reach["median"] else ""
    return f"{median}{reach['reached']} of {reach['of']}" if reach["of"] else MISSING


def cost_table(summary: Summary) -> str:
    """The cost of each optimizer; n/a for one whose confirm runs all diverged."""
    rows = [
        [
            optimizer_name(name),
            megabytes(optimizer.get("state_bytes")),
            megabytes(optimizer.get("peak_bytes"), decimals=0),
            number(optimizer.get("optimizer_step_ms"), 2),
            number(optimizer.get("train_s"), 1),
            f"{optimizer['trials']}",
            f"{optimizer['diverged_trials']} of {optimizer['trials'] * len(summary['replicates'])}",
            f"{optimizer['diverged']} of {optimizer['confirmed']}",
        ]
        for name, optimizer in summary["optimizers"].items()
    ]
    head = ["optimizer", "optimizer state, MB", "peak memory, MB", "optimizer step, ms", "training time per run, s"]
    return markdown_table([*head, "trials per replicate", "diverged trials", "diverged confirm runs"], rows)


def environments_table(summary: Summary) -> str:
    """Hardware, packages and sources of the replicates."""
    rows = []
    for environment in summary["environments"]:
        sources = f"commit {environment['git_sha'][:10]}" if environment["git_sha"] else "no commit"
        sources += ", with uncommitted changes" if environment["git_dirty"] else ""
        sources += f", digest {environment['sources_digest']}"
        machine = [_listed(environment[key]) for key in ("hardware", "packages")]
        rows.append([ranges(environment["replicates"]), *machine, sources])
    return markdown_table(["replicates", "hardware", "packages", "sources"], rows)


def _listed(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(facts.items()) if value is not None)


def decided_by(comparison: dict[str, Any]) -> list[str]:
    """The numbers behind a verdict, as list items; those of a selection are marked, and have no p."""
    metric, difference, of = comparison["metric"], comparison["difference"], selected(comparison)
    facts = []
    if difference:
        facts = [f"90 % interval: {interval(difference['ci90'], metric)}"]
        if not of:  # a selection has no p
            facts.append(f"two-sided paired t test: p {_equals(difference['p'])}")
        if difference["sign_flip_p"] is not None and not of:
            facts.append(f"exact sign-flip test: p {_equals(difference['sign_flip_p'])} (not used for the verdict)")
        if by_example := comparison["by_example"]:
            within = interval(by_example["ci95"], metric)
            same = within == interval(difference["ci95"], metric)
            facts.append(
                f"95 % interval that also treats the {by_example['examples']:,} test examples as a random sample, over "
                f"{by_example['replicates']} replicates: {within}"
                + (", the same as without: here, the choice of test examples adds nothing to it" if same else "")
            )
        facts.append(f"95 % prediction interval for one more replicate: {interval(comparison['prediction95'], metric)}")
        facts.append(
            f"smallest true difference that {difference['n']} such replicates detect in 80 % of studies: "
            f"{amount(comparison['smallest_effect'], metric)}"
        )
        if difference["variance_ratio"] is not None:
            facts.append(
                f"without pairing, the variance of the difference would be {difference['variance_ratio']:.1f} times as "
                "large"
            )
        if of:
            facts = [f"in {of}, {fact}" for fact in facts]
    if comparison["unsettled"] is not None:
        facts.append(
            f"the gains in the last search stage differ by {amount(comparison['unsettled'], metric)} between the two"
        )
    return facts


def _equals(p: float) -> str:
    return probability(p) if p < 0.001 else f"= {probability(p)}"
