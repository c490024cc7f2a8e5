"""Write docs/statistics.md: how far verdicts can be trusted, from simulated studies whose true answer is known.

make statistics, or python -m experiments.report.statistics_page: 3 minutes on one core
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
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
"""the rivals in the simulations of the slower alternatives"""
EFFECTS = (0.0, 1.0, 2.0, 4.0)
"""true advantage of the better optimizer, in standard deviations of a run"""


def of_rival(cells: Sequence[Cell], rival: Contestant, value: Callable[[Cell], float]) -> float | None:
    """Mean over the surfaces; None where the rival was not simulated."""
    found = [value(cell) for cell in cells if cell.rival is rival]
    return fmean(found) if found else None


def surfaces_section(effort: Effort) -> list[str]:
    """The loss surfaces and the contestants."""
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
        "## On which loss surfaces?",
        "The loss over the unit cube of hyperparameters is `q / (1 + q / height)` for a quadratic form q. Its "
        "curvature along the learning rate was fitted to our first committed trials; along the two memories, the decay "
        f"and a fifth dimension it is {', '.join(f'{x:g}' for x in SHARES[1:])} of that, with a diagonal valley "
        "between learning rate and first memory. The optimum shifts from replicate to replicate, partly by the same "
        "amount for both optimizers, and with the seed of the search; noise grows with the loss; the true difference "
        f"varies between replicates with a standard deviation of {RANDOM_EFFECT:g} SD of a run.",
        markdown_table(
            ["surface", "curvature", "SD of a run", "1 SD as a shift in learning rate", "height", "runs diverge"], rows
        ),
        "The first contestant meets five rivals with *equal optima*: one just like it; two whose basins are 2 and 3 "
        "times narrower in every dimension (those of Lion and AdamW differ by a factor of 1.1 to 2.5 along the "
        "learning rate); one whose optimum lies elsewhere; and one that combines these: 2 times narrower, elsewhere, "
        "with a fifth dimension, a cliff just above its best learning rate and a heavy upper tail. All numbers below "
        "are in standard deviations of a run (SD).",
    ]


def designs_section(tables: Mapping[str, tuple[Design, Sequence[Cell]]]) -> list[str]:
    """A comparison of designs, averaged over all surfaces."""
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
        "## Which search procedure?",
        f"**With equal optima and one basin 2 times narrower, a search in which a Gaussian process chooses the trials "
        f"one by one names a wrong winner in {narrow[0]} % of the studies; random search in boxes that narrow in "
        f"stages does so in {narrow[1]} %, at the same {CHOSEN.runs} runs per optimizer.**",
        markdown_table(
            [
                "replicates x (trials + confirm seeds)",
                "runs",
                "regret, first / 2x narrower",
                *(f"wrong: {rival.name}, %" for rival in RIVALS),
                "95 % interval contains the estimand, mean / least, %",
                "half-width",
            ],
            rows,
        ),
        "Means over the surfaces; runs are per optimizer. Box searches use one seed for all their trials, searches by "
        "the Gaussian process (*process*) a new seed for each trial, unless stated otherwise. *Wrong*: a winner is "
        f"named between optimizers that are equally good at their optima, with a margin of {MARGIN:g} SD and nothing "
        "withheld. *Least*: coverage for the worst pair of surface and rival, where a few searches leave many times "
        "the regret of the others, which an interval from few replicates cannot reflect. A narrower basin costs every "
        "search more than a wide one, so more replicates of a poor search only make it more confident in the wrong "
        "answer. A search on one seed overfits to that seed: at the same cost it names "
        f"{percent(others['8 x (8 + 34, process, + 2), one seed'])} % wrong winners against the basin 3 times "
        f"narrower, compared with {percent(three_times)} % with a new seed for each trial. Fewer and longer searches "
        "do even better, but then a replicate of your own would take longer than a quarter of an hour.",
    ]


def chosen_section(cells: Sequence[Cell]) -> list[str]:
    """The suite's own design, by surface and rival."""
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
    missed = [
        f"{cell.surface.name}, {cell.rival.name} ({percent(cell.wrong_told)} %)"
        for cell in cells
        if cell.wrong_told > WRONG
    ]
    return [
        "## What does the suite's design guarantee?",
        f"**It names a wrong winner in at most {percent(WRONG)} % of the studies for {len(sound)} of {len(cells)} "
        f"pairs of surface and rival, and its interval contains the estimand in at least {percent(COVERED)} % of the "
        f"studies for {len(inside)} of them.**",
        markdown_table(
            [
                "surface: rival",
                "regret, first / rival",
                "estimand",
                "half-width",
                "interval contains it, %",
                "contains 0, %",
                "wrong, %",
                "wrong, unsettled withheld, %",
                "withheld, %",
                "tie, %",
            ],
            rows,
        ),
        "The optima are equal, so the true difference between the optimizers at their optima is 0 and every winner is "
        f"wrong. The *estimand* differs from 0 where {CHOSEN.trials} trials leave more regret in one basin than in the "
        "other. "
        + (f"Above the limit for wrong winners: {'; '.join(missed)}." if missed else "No pair is above the limit.")
        + " There, the interval is right about what searches of this length find, but misleads a reader who takes it "
        "to be about the optimizers at their optima: read the verdict together with the figure of the best value so "
        "far.",
    ]


def judged(
    simulated: Simulated, rival: Contestant, rival_better_by: float, *, last: int | None = None, withhold: bool = True
) -> list[np.ndarray]:
    """The verdicts of studies against a rival, an array for each surface; ``last`` as for ``studied``."""
    return [
        verdicts(
            studied(
                surface,
                simulated.design,
                *simulated.pair(surface, rival),
                studies=simulated.effort.studies,
                rival_better_by=rival_better_by,
                last=last,
            ),
            MARGIN,
            withhold=withhold,
        )
        for surface in simulated.effort.surfaces
    ]


def withholding_section(simulated: Simulated) -> list[str]:
    """How withholding by the last gains affects wrong winners and right ones."""
    design = simulated.design
    spans = (design.stages[-1], design.trials // 4, design.trials - design.stages[0])
    cases = ((0.0, ("first", "rival")), (MARGIN, ("tie",)), (2 * MARGIN, ("rival",)))
    rows, shares_by_search = [], {}
    for last in (None, *spans):
        row = ["nothing is withheld" if last is None else f"gains of the last {last} trials"]
        for rival in RIVALS:
            shares = []
            for better, names in cases:
                made = judged(simulated, rival, better, last=last, withhold=last is not None)
                shares.append(fmean(share(each, *names) for each in made))
            shares_by_search[last, rival.name] = shares
            row.append(" / ".join(map(percent, shares)))
        rows.append(row)
    narrow = SOME[0].name
    before, after = shares_by_search[None, narrow], shares_by_search[spans[0], narrow]
    return [
        "## What does withholding do?",
        "**A winner is withheld if it leads by less than the difference between the two optimizers' gains in the last "
        f"{spans[0]} trials. Against a basin 2 times narrower, this reduces wrong winners from {percent(before[0])} to "
        f"{percent(after[0])} %, and right ones, if the narrower one is truly {2 * MARGIN:g} SD better, from "
        f"{percent(before[2])} to {percent(after[2])} %.**",
        markdown_table(["rule", *(rival.name for rival in RIVALS)], rows),
        "Each cell: wrong winner although the optima are equal / false tie although the rival is better by exactly the "
        f"margin / rival rightly named when it is better by {2 * MARGIN:g} SD; in % of the studies, averaged over the "
        "surfaces. The gain is how much the best validation value still improved. A longer span withholds more of both "
        "right and wrong winners.",
    ]


def power_section(simulated: Simulated) -> list[str]:
    """How large a difference must be to be detected."""
    rows, against_equal = [], {}
    for rival in RIVALS:
        for sign, better in ((1, rival.name), (-1, "the first")) if rival is not RIVALS[0] else ((1, "either"),):
            cells = []
            for effect in EFFECTS:
                named = judged(simulated, rival, sign * effect)
                right, wrong = ("rival", "first") if sign == 1 else ("first", "rival")
                cells.append([fmean(share(each, name) for each in named) for name in (right, wrong, "tie")])
            if rival is RIVALS[0]:
                against_equal = dict(zip(EFFECTS, cells, strict=True))
            rows.append(
                [f"{rival.name}; better: {better}", *(" / ".join(percent(value) for value in cell) for cell in cells)]
            )
    return [
        "## How large a difference is detected?",
        f"**Between optimizers that are equally easy to tune, the better one is named in "
        f"{percent(against_equal[EFFECTS[2]][0])} % of the studies if the true difference is {EFFECTS[2]:g} SD of a "
        f"run, and in {percent(against_equal[EFFECTS[3]][0])} % if it is {EFFECTS[3]:g} SD.**",
        markdown_table(["rival", *(f"{effect:g} SD" for effect in EFFECTS)], rows),
        f"Each cell: better one named / worse one named / tie; in % of the studies, averaged over the surfaces, with a "
        f"margin of {MARGIN:g} SD and unsettled verdicts withheld. At 0 SD neither is better.",
    ]


def copy_section(replicates: int) -> list[str]:
    """An optimizer against a renamed copy of itself."""
    space = space_of({"name": "adamw", "space": AXES})
    thousand, seven = ([abs(d) for d in copy_differences(space, scale, replicates, CHOSEN)] for scale in (1000.0, 7.0))
    return [
        "## Does an optimizer differ from its own copy?",
        f"**No: AdamW and a copy whose learning rate is expressed in thousandths, with a search space of its own, "
        f"differ by at most {max(thousand):.1g} SD in {replicates} replicates.**",
        "Points are drawn in the unit cube, so units cancel; both use the same seeds. With units 7 times smaller, "
        f"rounding hyperparameters to {DIGITS} digits makes the difference {max(seven):.1g} SD.",
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
"""the guarantee: the largest share of wrong winners and the smallest coverage"""


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
        "Everything on this page is computed by `make statistics`. It simulates whole studies on loss surfaces whose "
        "true optimum is known, and searches, confirms and judges them with the suite's own code "
        "(experiments/study/surrogate.py and statistics.py). The simulation is seeded, so the same sources give the "
        f"same bytes. The suite's search has {effort.replicates} simulated replicates on every surface (box searches "
        f"have {effort.box_replicates}, the other alternatives {effort.alternative_replicates}), from which "
        f"{effort.studies} studies are drawn for each cell.",
        "## What is estimated?",
        "**The estimand is the mean, over replicates, of the loss of the first optimizer's winner minus that of the "
        "second's, each in expectation over fresh seeds, where a winner is what a search of "
        f"{CHOSEN.trials} trials finds.** It is about optimizers *tuned with this much search*; its true value is "
        "the mean over all simulated replicates. It differs from the difference between the two optimizers at their "
        "optima, which an endless search would find and which readers may take a verdict to mean. Here that difference "
        f"is known, because losses are measured from each optimizer's optimum: a search of {LONG.trials} trials "
        f"without noise ends within {left_by_a_long_search(effort, RIVALS):.1g} SD of it. The two differ by the regret "
        "that searches leave.",
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
