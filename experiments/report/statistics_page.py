"""Make docs/statistics.md: how far verdicts can be trusted, by simulating whole studies whose truth is known.

make statistics, or python -m experiments.report.statistics_page: 3 minutes of one core
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import yaml

from experiments.harness.provenance import ROOT
from experiments.report.labels import number, percent
from experiments.report.tables import markdown_table
from experiments.study.rescaled import copy_differences
from experiments.study.search import DIGITS, space_of
from experiments.study.simulated_designs import CHOSEN, LONG, MARGIN, Cell, Effort, Simulated, left_by_a_long_search
from experiments.study.simulation import RANDOM_EFFECT, RIVALS, SHARES, Contestant, Design, share, studied, verdicts

BOXES = {
    "8 x (4 + 1)": Design(8, (4,), 1, 1.0),
    "4 x (5+3+2 + 1), boxes 0.4": Design(4, (5, 3, 2), 1, 0.4),
    "11 x (12+10+8 + 2), boxes 0.25": Design(11, (12, 10, 8), 2, 0.25),
    "11 x (12+10+8 + 2), boxes 0.4": Design(11, (12, 10, 8), 2, 0.4),
    "11 x (12+10+8 + 2), boxes 0.6": Design(11, (12, 10, 8), 2, 0.6),
    "the same at 0.4, a fresh seed each trial": Design(11, (12, 10, 8), 2, 0.4, fresh_seeds=True),
    "11 x (30 + 2), one stage": Design(11, (30,), 2, 1.0),
    "11 x (15+15 + 2), boxes 0.4": Design(11, (15, 15), 2, 0.4),
    "11 x (6+6+6+6+6 + 2), boxes 0.6": Design(11, (6, 6, 6, 6, 6), 2, 0.6),
    "16 x (8+6+6 + 2), boxes 0.4": Design(16, (8, 6, 6), 2, 0.4),
    "8 x (16+14+12 + 2), boxes 0.4": Design(8, (16, 14, 12), 2, 0.4),
}
PROCESS = {
    "8 x (8 + 34, process, + 2), one seed": replace(CHOSEN, fresh_seeds=False),
    "11 x (8 + 22, process, + 2), one seed": Design(11, (8, 12, 10), 2),
    "11 x (8 + 22, process, + 2)": Design(11, (8, 12, 10), 2, fresh_seeds=True),
    "16 x (8 + 12, process, + 2)": Design(16, (8, 6, 6), 2, fresh_seeds=True),
    "6 x (8 + 48, process, + 2)": Design(6, (8, 30, 18), 2, fresh_seeds=True),
}
SOME = (RIVALS[1], RIVALS[2], RIVALS[-1])
"""rivals that the slower alternatives are simulated with"""
EFFECTS = (0.0, 1.0, 2.0, 4.0)
"""the better one's true advantage, in standard deviations of a run"""


def of_rival(cells: Sequence[Cell], rival: Contestant, value: Callable[[Cell], float]) -> float | None:
    """Mean over the surfaces; None where the rival was not simulated."""
    found = [value(cell) for cell in cells if cell.rival is rival]
    return fmean(found) if found else None


def surfaces_section(effort: Effort) -> list[str]:
    """What is searched, and by whom."""
    rows = [
        [
            each.name,
            f"{each.curvature:g}",
            f"{each.noise:g}",
            f"{(each.noise / each.curvature) ** 0.5:.2f}",
            f"{each.height:g}",
            "none" if each.cliff is None else f"{each.cliff:g} beyond the optimum",
        ]
        for each in effort.surfaces
    ]
    return [
        "## On what?",
        "Loss over the unit cube of settings, `q / (1 + q / height)` of a quadratic form q: curvature along the rate "
        f"as fitted to our first committed trials, {', '.join(f'{x:g}' for x in SHARES[1:])} of it along two memories, "
        "the decay and one more, and a slanted valley between rate and first memory. The optimum shifts from replicate "
        "to replicate, partly for both alike; a search's own seed shifts it too; noise grows with the loss; the true "
        f"difference has a random effect over replicates with a standard deviation of {RANDOM_EFFECT:g} run.",
        markdown_table(
            ["surface", "curvature", "SD of a run", "SD as a way along the rate", "height", "runs diverge"], rows
        ),
        "The first contestant meets five rivals with *equal optima*: its equal; one whose basin is 2 or 3 times "
        "narrower in every dimension (Lion's and AdamW's differ 1.1 to 2.5 times along the rate); one whose optimum "
        "lies elsewhere; and one with all of it at once: 2 times narrower, elsewhere, a fifth dimension, a cliff just "
        "above its best rate and a heavy upper tail. All numbers below are in standard deviations of a run (SD).",
    ]


def designs_section(tables: Mapping[str, tuple[Design, Sequence[Cell]]]) -> list[str]:
    """Designs side by side, over all surfaces."""
    rows = []
    for name, (design, cells) in tables.items():
        wrong = [of_rival(cells, rival, lambda cell: cell.wrong) for rival in RIVALS]
        regrets = [
            of_rival(cells, SOME[0], lambda cell: cell.regrets[0]),
            of_rival(cells, SOME[0], lambda cell: cell.regrets[1]),
        ]
        rows.append(
            [
                name,
                str(design.runs),
                " / ".join(number(regret, 1) for regret in regrets),
                *("" if value is None else percent(value) for value in wrong),
                " / ".join(percent(of([cell.holds_tuned for cell in cells])) for of in (fmean, min)),
                number(of_rival(cells, SOME[0], lambda cell: cell.half_width), 2),
            ]
        )
    (_, chosen), (_, boxes) = tables[CHOSEN_NAME], tables["11 x (12+10+8 + 2), boxes 0.4"]
    others = {name: of_rival(tables[name][1], SOME[1], lambda cell: cell.wrong) or 0.0 for name in PROCESS}
    three_times = of_rival(chosen, SOME[1], lambda cell: cell.wrong) or 0.0
    narrow = [percent(of_rival(cells, SOME[0], lambda cell: cell.wrong) or 0.0) for cells in (chosen, boxes)]
    return [
        "## Which search?",
        f"**With equal optima and one basin 2 times narrower, a search that lets a Gaussian process choose its trials "
        f"one by one names a wrong winner in {narrow[0]} % of the studies, boxes that narrow in stages in "
        f"{narrow[1]} %, at the same {CHOSEN.runs} runs an optimizer.**",
        markdown_table(
            [
                "replicates x (trials + confirm seeds)",
                "runs",
                "regret, first / 2x narrower",
                *(f"wrong: {rival.name}, %" for rival in RIVALS),
                "95 % interval holds the estimand, mean / least, %",
                "half-width",
            ],
            rows,
        ),
        "Means over the surfaces, runs an optimizer; those of boxes search on one seed, those of the process with a "
        "seed for each trial, unless they say otherwise; *wrong*: a winner is named between optimizers that are "
        f"equally good at their best, with a margin of {MARGIN:g} SD and nothing withheld. Least: on the worst surface "
        "and rival: the regret of a few searches is many times that of the others, and an interval of few replicates "
        "does not know that yet. A narrower basin costs every search more than a wide one, so that more replicates of "
        "a poor search only make the wrong answer sure. On one seed a search finds what suits that seed: at the same "
        f"cost it names {percent(others['8 x (8 + 34, process, + 2), one seed'])} % wrong winners against the basin 3 "
        f"times narrower, with a seed for each trial {percent(three_times)} %. Fewer and longer searches do better "
        "still, but would leave a reader's own replicate longer than a quarter of an hour.",
    ]


def chosen_section(cells: Sequence[Cell]) -> list[str]:
    """The design of the suite, surface by surface."""
    rows = [
        [
            f"{cell.surface.name}: {cell.rival.name}",
            " / ".join(number(regret, 1) for regret in cell.regrets),
            number(cell.tuned, 2, "+"),
            number(cell.half_width, 2),
            percent(cell.holds_tuned),
            percent(cell.holds_best),
            percent(cell.wrong),
            percent(cell.wrong_told),
            percent(cell.withheld),
            percent(cell.tie),
        ]
        for cell in cells
    ]
    sound = [cell for cell in cells if cell.wrong_told <= WRONG]
    inside = [cell for cell in cells if cell.holds_tuned >= COVERED]
    missed = [f"{cell.surface.name}, {cell.rival.name} ({percent(cell.wrong_told)} %)" for cell in missed_of(cells)]
    return [
        "## What does the suite's design promise?",
        f"**Of {len(cells)} pairs of surface and rival it names a wrong winner in at most {percent(WRONG)} % of the "
        f"studies on {len(sound)}, and its interval holds the estimand in at least {percent(COVERED)} % on "
        f"{len(inside)}.**",
        markdown_table(
            [
                "surface: rival",
                "regret, first / rival",
                "estimand",
                "half-width",
                "interval holds it, %",
                "holds 0, %",
                "wrong, %",
                "wrong, unsettled withheld, %",
                "withheld, %",
                "tie, %",
            ],
            rows,
        ),
        "The optima are equal, so that 0 is the truth about the optimizers at their best, and every winner is wrong. "
        f"The *estimand* is not 0 where {CHOSEN.trials} trials leave more regret in one basin than in the other. "
        + (f"Missed: {'; '.join(missed)}." if missed else "No pair misses the first promise.")
        + " There the interval is right about what searches of this length find, and a reader who takes it for the "
        "optimizers at their best is misled: read the verdict together with the figure of the best so far.",
    ]


def missed_of(cells: Sequence[Cell]) -> list[Cell]:
    """Cells with more wrong winners than promised."""
    return [cell for cell in cells if cell.wrong_told > WRONG]


def withholding_section(simulated: Simulated) -> list[str]:
    """What comparing the last gains does, to wrong winners and to right ones."""
    design, effort = simulated.design, simulated.effort
    spans = (design.stages[-1], design.trials // 4, design.trials - design.stages[0])
    cases = ((0.0, ("first", "rival")), (MARGIN, ("tie",)), (2 * MARGIN, ("rival",)))
    rows, told = [], {}
    for last in (None, *spans):
        row = ["nothing is withheld" if last is None else f"gains of the last {last} trials"]
        for rival in RIVALS:
            shares = []
            for better, names in cases:
                made = [
                    studied(
                        surface,
                        design,
                        *simulated.pair(surface, rival),
                        studies=effort.studies,
                        rival_better_by=better,
                        last=last,
                    )
                    for surface in effort.surfaces
                ]
                shares.append(fmean(share(verdicts(each, MARGIN, withhold=last is not None), *names) for each in made))
            told[last, rival.name] = shares
            row.append(" / ".join(map(percent, shares)))
        rows.append(row)
    narrow = SOME[0].name
    before, after = told[None, narrow], told[spans[0], narrow]
    return [
        "## What does withholding do?",
        f"**Withholding a winner by less than the two optimizers' gains in the last {spans[0]} trials differ takes the "
        f"wrong winners against a basin 2 times narrower from {percent(before[0])} to {percent(after[0])} %, and the "
        f"right ones, where the narrower one is truly {2 * MARGIN:g} SD better, from {percent(before[2])} to "
        f"{percent(after[2])} %.**",
        markdown_table(["rule", *(rival.name for rival in RIVALS)], rows),
        "Wrong winner where the optima are equal / tie where the rival is better by exactly the margin (false) / the "
        f"rival is named where it is better by {2 * MARGIN:g} SD (right), % of the studies, means over the surfaces. "
        "The gain counts how much the best validation value still improved. A longer span withholds more of both.",
    ]


def power_section(simulated: Simulated) -> list[str]:
    """How large a difference gets its winner."""
    rows, against_equal = [], {}
    for rival in RIVALS:
        for sign, better in ((1, rival.name), (-1, "the first")) if rival is not RIVALS[0] else ((1, "either"),):
            cells = []
            for effect in EFFECTS:
                named = [
                    verdicts(
                        studied(
                            surface,
                            simulated.design,
                            *simulated.pair(surface, rival),
                            studies=simulated.effort.studies,
                            rival_better_by=sign * effect,
                        ),
                        MARGIN,
                        withhold=True,
                    )
                    for surface in simulated.effort.surfaces
                ]
                right, wrong = ("rival", "first") if sign == 1 else ("first", "rival")
                cells.append([fmean(share(each, name) for each in named) for name in (right, wrong, "tie")])
            if rival is RIVALS[0]:
                against_equal = dict(zip(EFFECTS, cells, strict=True))
            rows.append(
                [f"{rival.name}; better: {better}", *(" / ".join(percent(value) for value in cell) for cell in cells)]
            )
    return [
        "## How large a difference gets its winner?",
        f"**Between optimizers that are equally easy to tune, a true difference of {EFFECTS[2]:g} SD of a run gets its "
        f"winner in {percent(against_equal[EFFECTS[2]][0])} % of the studies, one of {EFFECTS[3]:g} SD in "
        f"{percent(against_equal[EFFECTS[3]][0])} %.**",
        markdown_table(["rival", *(f"{effect:g} SD" for effect in EFFECTS)], rows),
        f"The better one is named / the worse one is named / tie, % of the studies, a margin of {MARGIN:g} SD, the "
        "unsettled withheld, means over the surfaces. At 0 SD neither is better.",
    ]


def copy_section(replicates: int) -> list[str]:
    """The same optimizer under another name."""
    space = space_of({"name": "adamw", "space": AXES})
    thousand, seven = ([abs(d) for d in copy_differences(space, scale, replicates, CHOSEN)] for scale in (1000.0, 7.0))
    return [
        "## Does an optimizer differ from its own copy?",
        f"**No: AdamW against a copy whose rates are counted in thousandths, in a space of its own, differs by at most "
        f"{max(thousand):.1g} SD in {replicates} replicates.**",
        "Points are drawn in the unit cube, so that units cancel; both meet the same seeds. In units 7 times smaller "
        f"the {DIGITS} digits to which settings are rounded make it {max(seven):.1g} SD.",
    ]


AXES = yaml.safe_load(
    """
    version: 1
    source: those of conf/optimizer/adamw.yaml
    arguments:
      lr: {kind: rate, low: 1.0e-4, high: 1.0e-1}
      betas: {kind: memory, number: 2}
      weight_decay: {kind: decay, low: 0.01, high: 10.0}
    """
)
CHOSEN_NAME = "8 x (8 + 34, process, + 2): the suite's"
WRONG, COVERED = 0.05, 0.94
"""what is promised: at most so many wrong winners, at least so much coverage"""


def statistics_page(effort: Effort) -> str:
    """The whole page as Markdown."""
    chosen = Simulated(effort, CHOSEN, RIVALS, effort.replicates)
    cells = chosen.cells()
    tables: dict[str, tuple[Design, Sequence[Cell]]] = {}
    for name, design in BOXES.items():
        tables[name] = design, Simulated(effort, design, RIVALS, effort.box_replicates).cells()
    tables[CHOSEN_NAME] = CHOSEN, cells
    for confirm in (1, 4):
        design = replace(CHOSEN, confirm=confirm)
        tables[f"8 x (8 + 34, process, + {confirm})"] = design, chosen.cells(confirm)
    for name, design in PROCESS.items():
        tables[name] = design, Simulated(effort, design, SOME, effort.alternative_replicates).cells()
    sections = [
        "# Can the verdicts be trusted?",
        "Everything here is computed by `make statistics`: whole studies on surfaces whose truth is known, searched, "
        "confirmed and judged by the suite's own code (experiments/study/surrogate.py and statistics.py), seeded, so "
        f"that equal sources give equal bytes: {effort.replicates} simulated replicates of the suite's search on every "
        f"surface ({effort.box_replicates} of the boxes, {effort.alternative_replicates} of its alternatives), from "
        f"which {effort.studies} studies a cell are drawn.",
        "## Of what?",
        "**The estimand is the mean, over replicates, of the loss of the first optimizer's winner minus that of the "
        "second's, each in expectation over fresh seeds, where a winner is what a search of "
        f"{CHOSEN.trials} trials finds.** It speaks of optimizers *as tuned by this much search*; its true value is "
        "the mean over all simulated replicates. Beside it stands the difference of the two at their best, which a "
        "search without end would find, and which readers take a verdict to say. Here it is known, because "
        f"losses are counted from each optimizer's optimum: a search of {LONG.trials} trials without noise ends within "
        f"{left_by_a_long_search(effort, RIVALS):.1g} SD of it. The two differ by the regrets that searches leave.",
        *surfaces_section(effort),
        *designs_section(tables),
        *chosen_section(cells),
        *withholding_section(chosen),
        *power_section(chosen),
        *copy_section(min(8, effort.replicates)),
    ]
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    page = ROOT / "docs" / "statistics.md"
    page.write_text(statistics_page(Effort()), encoding="utf-8")
    print(page)
