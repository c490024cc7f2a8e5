"""Make docs/statistics.md: how far the suite's statistics can be trusted, shown by simulation and by committed studies.

make statistics, or python -m experiments.report.statistics_page
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np

from experiments.harness.provenance import ROOT
from experiments.report.labels import Summary, number, percent
from experiments.report.rebuild import read_summary
from experiments.report.seed_variation import identical_seeds_section, pairing_section
from experiments.report.simulated_figures import draw_power, draw_verdicts
from experiments.report.tables import markdown_table
from experiments.study.simulation import (
    ALPHA,
    NOISES,
    coverage,
    family_wise_error,
    identical_speedups,
    is_false,
    noise,
    rng_of,
    shares,
    tuned_studies,
    verdicts,
    winners_after_looks,
)
from experiments.study.summary import study_folders

PAIRS = (2, 3, 5, 6, 8, 10, 20)
MINI_PAIRS = 8
"""what image classification has at the default scale; the sentences take it as their example"""
MARGINS = (0.25, 0.5, 1.0, 2.0, 4.0)
EFFECTS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
POWER_WANTED = 0.8
TUNING = (
    *((spread, trials, 1) for spread in (0.0, 0.5, 1.0, 3.0) for trials in (1, 4, 15) if spread == 0 or trials > 1),
    *((1.0, 4, seeds) for seeds in (3, 10)),
)
"""spread of the settings in SD, trials of each optimizer, tuning seeds"""


def coverage_section(studies: int) -> list[str]:
    """How often intervals hold the true difference."""
    held = {
        kind: {n: coverage(noise(kind, rng_of("pairs", kind, n), (studies, n)), 0.0) for n in PAIRS} for kind in NOISES
    }
    rows = [
        [f"{kind}, {level} %", *(percent(held[kind][n][place]) for n in PAIRS)]
        for kind in NOISES
        for place, level in enumerate((90, 95))
    ]
    of_95 = {kind: {n: levels[1] for n, levels in by_pairs.items()} for kind, by_pairs in held.items()}
    normal, heavy, skewed = (of_95[kind] for kind in NOISES)
    worst = min(skewed, key=skewed.__getitem__)
    return [
        "## Do the intervals hold what they promise?",
        f"**Under normal noise the 95 % interval holds the true difference in {percent(min(normal.values()))} to "
        f"{percent(max(normal.values()))} % of the studies at every number of pairs; under heavy tails in "
        f"{percent(min(heavy.values()))} to {percent(max(heavy.values()))} %; under strongly skewed differences it may "
        f"fall to {percent(skewed[worst])} % (with {worst} pairs).**",
        markdown_table(["noise, interval", *(f"{n} pairs" for n in PAIRS)], rows),
        "Share of intervals that hold the truth, %. Heavy-tailed is Student's t with 3 degrees of freedom. Skewed is "
        "exponential, a worst case: the skewness of two distributions of the same shape cancels in their difference.",
    ]


def identical_section(studies: int, docs: Path) -> list[str]:
    """What optimizers get that are equal in expectation."""
    margins = sorted({*MARGINS, *np.linspace(0, 4, 17).tolist()})
    found = {n: noise("normal", rng_of("pairs", "normal", n), (studies, n)) for n in PAIRS}
    rows = []
    for n in PAIRS:
        at = [shares(verdicts(found[n], margin)) for margin in MARGINS]
        rows.append([str(n), *(" / ".join(percent(s[name]) for name in ("tie", "winner", "undecided")) for s in at)])
    example = shares(verdicts(found[MINI_PAIRS], 1.0))
    shown = {n: [shares(verdicts(found[n], margin)) for margin in margins] for n in (3, MINI_PAIRS, 20)}
    draw_verdicts(docs / "statistics-verdicts.png", margins, shown)
    return [
        "## What do identical optimizers get?",
        f"**With {MINI_PAIRS} pairs and a margin as large as the standard deviation of the difference, two optimizers "
        f"that are equal in expectation get `tie` in {percent(example['tie'])} %, `undecided` in "
        f"{percent(example['undecided'])} % and a false winner in {percent(example['winner'])} % of the studies.**",
        markdown_table(["pairs", *(f"margin {margin:g} SD" for margin in MARGINS)], rows),
        "Tie / winner / undecided, % of the studies.",
        "![Share of each verdict against the margin](statistics-verdicts.png)",
    ]


def false_verdict_section(studies: int) -> list[str]:
    """How often each kind of verdict is wrong, where it is most easily so."""
    rows: list[list[str]] = []
    worst: dict[str, float] = {}
    for kind in NOISES:
        for n in PAIRS:
            drawn = noise(kind, rng_of("pairs", kind, n), (studies, n))
            winner = shares(verdicts(drawn, 0.0))["winner"]
            ties = [
                max(shares(verdicts(drawn + sign * margin, margin))["tie"] for sign in (1, -1)) for margin in (1.0, 4.0)
            ]
            wrong = max(shares(verdicts(drawn + 0.25, 0.0))["b"], shares(verdicts(drawn - 0.25, 0.0))["a"])
            rows.append([f"{kind}, {n} pairs", *map(percent, (winner, *ties, wrong))])
            worst[kind] = max(worst.get(kind, 0.0), winner, *ties, wrong)
    normal, heavy, skewed = (percent(worst[kind]) for kind in NOISES)
    head = ["noise", "a winner, where the truth is 0", "a tie, where it is a margin of 1 SD"]
    head += ["a tie, where it is a margin of 4 SD", "the wrong winner, where it is 0.25 SD"]
    return [
        "## How often is a verdict false?",
        f"**Where each false verdict is easiest to get, none is more frequent than {normal} % under normal noise "
        f"({percent(ALPHA)} % is what was promised), {heavy} % under heavy tails and {skewed} % under strong skew.**",
        markdown_table(head, rows),
        "% of the studies. Winners are counted with a margin of 0, which takes none of them away as a tie; false ties "
        "where the true difference lies on the edge of the margin, on the worse side of the two. `undecided` is never "
        "false.",
    ]


def looks_section(studies: int) -> list[str]:
    """What adding seeds after a look at the results does, with and without sharing alpha."""
    looks = {"8, 16": (8, 16), "8, 12, 16": (8, 12, 16), "every number from 4 to 16": range(4, 17)}
    drawn = noise("normal", rng_of("looks"), (studies, 16))
    shares_of = {
        name: [winners_after_looks(drawn, at, alpha) for alpha in (ALPHA, ALPHA / len(at))]
        for name, at in looks.items()
    }
    rows = [["16 alone", *[percent(winners_after_looks(drawn, (16,), ALPHA))] * 2]]
    rows += [[name, *map(percent, both)] for name, both in shares_of.items()]
    return [
        "## May seeds be added later?",
        f"**Whoever adds seed after seed, from 4 to 16, until there is a winner, finds one between identical "
        f"optimizers in {percent(shares_of['every number from 4 to 16'][0])} % of the studies. Looks that are declared "
        f"beforehand (`study.looks`) share the {percent(ALPHA)} %: with looks at 8 and at 16 pairs a false winner "
        f"comes in {percent(shares_of['8, 16'][1])} % of the studies instead of {percent(shares_of['8, 16'][0])} %.**",
        markdown_table(["looks at pairs", f"each takes {percent(ALPHA)} %", "they share it"], rows),
        "% of the studies that name a winner at any look, normal noise, a margin of 0. A look that was not declared "
        "makes a verdict `exploratory`.",
    ]


class TuningCell(NamedTuple):
    """What the sentence of the section needs of a row of its table."""

    optimism: float
    held95: float
    winner: float


def tuning_section(studies: int) -> list[str]:
    """What choosing the best of several trials by one noisy seed does to the confirmed difference."""
    rows, cells = [], {}
    for spread, trials, seeds in TUNING:
        stream = rng_of("tuning", str(spread), trials, seeds)
        tuned = tuned_studies(stream, {"a": trials, "b": trials}, seeds, spread, MINI_PAIRS, studies)
        outcomes, truths = verdicts(tuned.differences, 1.0), tuned.true_difference
        false = fmean(map(is_false, outcomes, truths.tolist(), itertools.repeat(1.0)))
        held, winner = coverage(tuned.differences, truths)[1], shares(outcomes)["winner"]
        cells[spread, trials, seeds] = cell = TuningCell(float(tuned.optimism.mean()), held, winner)
        written = [str(trials), str(seeds), number(cell.optimism, 2), number(float(truths.std()), 2)]
        rows.append([f"{spread:g} SD", *written, *map(percent, (held, false, winner))])
    held95 = [cell.held95 for cell in cells.values()]
    head = ["settings differ by", "trials", "tuning seeds", "optimism of the winning tuning score, SD"]
    head += ["chosen settings truly differ by, SD"]
    head += ["95 % interval holds that, %", "verdict false of the chosen settings, %", "a winner is named, %"]
    return [
        "## Does tuning spoil the verdict?",
        f"**Not of the settings it chose: their true difference lies in the 95 % interval in {percent(min(held95))} to "
        f"{percent(max(held95))} % of the studies, although the winning tuning score is too good by "
        f"{number(cells[0.0, 4, 1].optimism, 2)} SD with 4 equal trials. But of the optimizers at their best it can: "
        f"where settings differ by 1 SD and one noisy seed chooses among 4, identical optimizers get a winner in "
        f"{percent(cells[1.0, 4, 1].winner)} % of the studies, because the choice fell on unlike settings; with 10 "
        f"tuning seeds in {percent(cells[1.0, 4, 10].winner)} %.**",
        markdown_table(head, rows),
        f"Both optimizers have the same settings with the same true values; each takes the best of its trials by the "
        f"tuning seeds, and {MINI_PAIRS} fresh pairs decide, with a margin of 1 SD. Settings differ, and chosen "
        "settings truly differ, by a standard deviation. A winner whose chosen setting is truly better is false of "
        "the optimizers but true of the chosen settings: that is what the reports mean by *conditional on the "
        "settings*. More tuning seeds (`study.tune_seeds`) help against it; more confirm seeds do not.",
        *_unequal_budgets(studies),
    ]


def _unequal_budgets(studies: int) -> list[str]:
    rows = []
    for trials in (1, 4, 15):
        tuned = tuned_studies(rng_of("unequal", trials), {"a": trials, "b": 1}, 1, 0.0, MINI_PAIRS, studies)
        means = [number(float(x.mean()), 2, "+") for x in (tuned.tuning_difference, tuned.differences)]
        rows.append([f"{trials} to 1", *means, percent(shares(verdicts(tuned.differences, 0.0))["a"])])
    head = ["trials of a and b", "a - b by the tuning scores, SD", "a - b by fresh seeds, SD", "a is named, %"]
    return [
        f"Reporting the tuning scores would be the usual mistake: with settings that are all equally good, {rows[1][0]}"
        f" trials look like a gain of {rows[1][1]} SD, and fresh seeds show {rows[1][2]}.",
        markdown_table(head, rows),
    ]


def power_section(studies: int, docs: Path) -> list[str]:
    """How often a real difference gets its winner."""
    power = {
        n: [
            shares(verdicts(effect + noise("normal", rng_of("pairs", "normal", n), (studies, n)), 0.0))["a"]
            for effect in EFFECTS
        ]
        for n in PAIRS
    }
    draw_power(docs / "statistics-power.png", EFFECTS, power)
    rows = [[f"{effect:g} SD", *(percent(power[n][i]) for n in PAIRS)] for i, effect in enumerate(EFFECTS)]
    at_one = EFFECTS.index(1.0)
    enough = next((n for n in PAIRS if power[n][at_one] >= POWER_WANTED), None)
    needed = f"of the numbers below, {enough} is the first" if enough else "none of the numbers below is enough"
    return [
        "## How small a difference can be seen?",
        f"**A difference as large as its own standard deviation over seeds gets its winner in "
        f"{percent(power[MINI_PAIRS][at_one])} % of the studies with {MINI_PAIRS} pairs and in "
        f"{percent(power[3][at_one])} % with 3; for {percent(POWER_WANTED)} % {needed}.**",
        markdown_table(["true difference", *(f"{n} pairs" for n in PAIRS)], rows),
        "% of the studies that name the better optimizer, with a margin of 0. A margin takes away no winner whose "
        "90 % interval reaches beyond it.",
        "![Power against the true difference](statistics-power.png)",
    ]


def speedup_section(studies: int) -> list[str]:
    """How large a speed-up noise alone makes."""
    rows, largest = [], (0.0, "")
    for run_std in (0.1, 0.5, 1.0, 2.0):
        for evaluations in (6, 20, 60):
            found = identical_speedups(
                rng_of("speedup", str(run_std), evaluations), run_std, evaluations, MINI_PAIRS, studies
            )
            reached = float(np.mean([speedup.reached / speedup.of for speedup in found]))
            medians = [speedup.median for speedup in found if speedup.median is not None]
            aa = [speedup.aa.median for speedup in found if speedup.aa.median is not None]
            rows.append(
                [f"{run_std:g} points, {evaluations} evaluations", percent(reached)]
                + [f"{value:.2f}x" for value in (np.median(medians), np.quantile(medians, 0.95), np.median(aa))]
            )
            largest = max(largest, (float(np.median(medians)), rows[-1][0]))
    head = ["SD between runs", "reached, %", "median speed-up", "5 % of the studies show more than", "A/A beside it"]
    return [
        "## How large a speed-up does noise make?",
        f"**Runs of one optimizer on other seeds are faster than each other: the median study shows up to "
        f"{largest[0]:.2f}x ({largest[1]}) where the truth is 1x, and so does the A/A value that every report prints "
        "beside it.**",
        markdown_table(head, rows),
        f"Accuracy curves that rise by 60 points and flatten, {MINI_PAIRS} pairs a study. A speed-up counts only the "
        "runs that reached the other's end, so that it lies above 1 by construction. It says something only "
        "if it is clearly above the A/A value and nearly all runs reached.",
    ]


def holm_section(studies: int) -> list[str]:
    """The chance of any false rejection over several tasks."""
    rows, cells = [], {}
    for tasks in (1, 3, 5, 10):
        for real_effects in (0, 2) if tasks > 2 else (0,):
            cell = family_wise_error(rng_of("holm", tasks, real_effects), tasks, real_effects, MINI_PAIRS, studies)
            cells[tasks, real_effects] = cell
            rows.append([str(tasks), str(real_effects), *map(percent, cell)])
    own, adjusted = cells[5, 0]
    return [
        "## How false is the best of several tasks?",
        f"**Over 5 tasks without any difference, at least one p is below {ALPHA:g} in {percent(own)} % of the cases, "
        f"and at least one of Holm's p in {percent(adjusted)} %.**",
        markdown_table(["tasks", "with a real difference", "a false p by itself, %", "a false p of Holm's, %"], rows),
        f"{MINI_PAIRS} pairs a task, independent tasks; a real difference is 2 SD.",
    ]


def statistics_page(committed: Mapping[str, Summary], studies: int, docs: Path) -> str:
    """The whole page as Markdown, from ``studies`` simulated studies a cell; its figures are written into ``docs``."""
    error = 100 * np.sqrt(0.25 / studies)
    sections = [
        "# Can the verdicts be trusted?",
        "Everything here is computed by `make statistics`, with the functions that judge the studies "
        f"(experiments/study/statistics.py): {studies} simulated studies a cell, seeded, so that equal sources give "
        f"equal bytes. The standard error of a share is at most {error:.1f} points. "
        "SD is the standard deviation over seeds of the paired difference, the unit of margins and effects.",
        *coverage_section(studies),
        *identical_section(studies, docs),
        *false_verdict_section(studies),
        *looks_section(studies),
        *tuning_section(studies),
        *power_section(studies, docs),
        *speedup_section(studies // 20),
        *holm_section(studies),
        *pairing_section(committed),
        *identical_seeds_section(committed),
    ]
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    results, docs = ROOT / "results", ROOT / "docs"
    docs.mkdir(exist_ok=True)
    folders = study_folders(results)
    summaries = {folder.relative_to(results).as_posix(): read_summary(folder) for folder in folders}
    (docs / "statistics.md").write_text(statistics_page(summaries, 10_000, docs), encoding="utf-8")
    print(docs / "statistics.md")
