"""The section of docs/statistics.md that compares search procedures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from experiments.report.labels import number, percent
from experiments.report.tables import markdown_table
from experiments.simulation.designs import CHOSEN, MARGIN, Cell, Simulated
from experiments.simulation.studies import RIVALS, Contestant, Design

CHOSEN_NAME = "8 x (8 + 34 GP + 2): the suite's own"
BOXES = {
    "8 x (4 + 1)": Design(8, (4,), 1, 1.0),
    "4 x (5+3+2 + 1), boxes 0.4": Design(4, (5, 3, 2), 1, 0.4),
    "11 x (12+10+8 + 2), boxes 0.25": Design(11, (12, 10, 8), 2, 0.25),
    "11 x (12+10+8 + 2), boxes 0.4": Design(11, (12, 10, 8), 2, 0.4),
    "11 x (12+10+8 + 2), boxes 0.6": Design(11, (12, 10, 8), 2, 0.6),
    "11 x (12+10+8 + 2), boxes 0.4, a new seed for each trial": Design(11, (12, 10, 8), 2, 0.4, fresh_seeds=True),
    "11 x (30 + 2), one stage": Design(11, (30,), 2, 1.0),
    "11 x (15+15 + 2), boxes 0.4": Design(11, (15, 15), 2, 0.4),
    "11 x (6+6+6+6+6 + 2), boxes 0.6": Design(11, (6, 6, 6, 6, 6), 2, 0.6),
    "16 x (8+6+6 + 2), boxes 0.4": Design(16, (8, 6, 6), 2, 0.4),
    "8 x (16+14+12 + 2), boxes 0.4": Design(8, (16, 14, 12), 2, 0.4),
}
PROCESS = {
    "8 x (8 + 34 GP + 2), one seed": replace(CHOSEN, fresh_seeds=False),
    "11 x (8 + 22 GP + 2), one seed": Design(11, (8, 12, 10), 2),
    "11 x (8 + 22 GP + 2)": Design(11, (8, 12, 10), 2, fresh_seeds=True),
    "16 x (8 + 12 GP + 2)": Design(16, (8, 6, 6), 2, fresh_seeds=True),
    "6 x (8 + 48 GP + 2)": Design(6, (8, 30, 18), 2, fresh_seeds=True),
}
SOME = (RIVALS[1], RIVALS[2], RIVALS[-1])
"""the rivals in the simulations of the slower alternatives"""


def compared(chosen: Simulated) -> dict[str, tuple[Design, list[Cell]]]:
    """The suite's own design, as simulated in ``chosen``, and its alternatives, by name."""
    effort, tables = chosen.effort, {}
    for name, design in BOXES.items():
        tables[name] = design, Simulated(effort, design, RIVALS, effort.box_replicates).cells()
    tables[CHOSEN_NAME] = CHOSEN, chosen.cells()
    for confirm in (1, 4):
        design = replace(CHOSEN, confirm=confirm)
        tables[f"8 x (8 + 34 GP + {confirm})"] = design, chosen.cells(confirm)
    for name, design in PROCESS.items():
        tables[name] = design, Simulated(effort, design, SOME, effort.alternative_replicates).cells()
    return tables


def of_rival(cells: Sequence[Cell], rival: Contestant, value: Callable[[Cell], float]) -> float | None:
    """Mean over the surfaces; None where the rival was not simulated."""
    found = [value(cell) for cell in cells if cell.rival is rival]
    return fmean(found) if found else None


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
    (_, chosen), (_, boxes) = tables[CHOSEN_NAME], tables["8 x (16+14+12 + 2), boxes 0.4"]
    others = {name: of_rival(tables[name][1], SOME[1], lambda cell: cell.wrong) or 0.0 for name in PROCESS}
    three_times = of_rival(chosen, SOME[1], lambda cell: cell.wrong) or 0.0
    narrow = [percent(of_rival(cells, SOME[0], lambda cell: cell.wrong) or 0.0) for cells in (chosen, boxes)]
    return [
        "## How do search procedures compare?",
        f"**With equal optima and one basin 2 times narrower, {narrow[0]} % of the studies name a wrong winner if a "
        f"Gaussian process (GP) chooses the trials one by one, and {narrow[1]} % if they are drawn at random in boxes "
        f"that shrink in stages, on one seed, in the same {CHOSEN.replicates} replicates of {CHOSEN.trials} trials.**",
        markdown_table(
            [
                "replicates x (trials + confirm seeds)",
                "runs per optimizer",
                "regret: first / 2 times narrower",
                *(f"wrong: {rival.name}, %" for rival in RIVALS),
                "95 % interval contains the estimand: mean / least, %",
                "half-width: 2 times narrower",
            ],
            rows,
        ),
        "All entries are means over the surfaces. Trials such as `12+10+8` are those of successive stages; with `boxes "
        "0.4`, each stage searches a box 0.4 times as wide as the one before. With `8 + 34 GP`, the GP chooses 34 "
        "trials after 8 initial ones. Unless stated otherwise, box searches use one seed for all their trials, and GP "
        "searches use a new seed for each trial. *Wrong*: the study names a winner although both optimizers are "
        f"equally good at their optima; the margin is {MARGIN:g} SD, and no verdict is withheld. *Least*: coverage for "
        "the worst pair of surface and rival, where a few searches leave many times the regret of the others, which an "
        "interval from few replicates cannot reflect. Every search does worse in a narrow basin than in a wide one, so "
        "more replicates of a poor search only make a study more confident in the wrong answer. A search on one seed "
        "overfits to that seed: at the same cost, "
        f"{percent(others['8 x (8 + 34 GP + 2), one seed'])} % of its studies name a wrong winner against the basin 3 "
        f"times narrower, compared with {percent(three_times)} % with a new seed for each trial. Fewer and longer "
        "searches seem to do even better, most clearly against the rival that combines everything, but then a "
        "replicate of your own would take still longer.",
    ]
