"""Write docs/statistics.md: how far verdicts can be trusted, from simulated studies whose true answer is known.

make statistics, or python -m experiments.simulation.statistics_page: 3 minutes on one core
"""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev, variance

import numpy as np
import yaml

from experiments.harness.source_code import ROOT
from experiments.report.labels import deciding, differences, number, pair_name, percent, significant
from experiments.report.rebuild import read_summary
from experiments.report.tables import markdown_table
from experiments.simulation.designs import CHOSEN, LONG, MARGIN, Cell, Effort, Simulated, left_by_a_long_search
from experiments.simulation.rescaled import copy_differences
from experiments.simulation.statistics_designs import CHOSEN_NAME, compared, designs_section
from experiments.simulation.studies import RANDOM_EFFECT, RIVALS, SHARES, Contestant, share, studied, verdicts
from experiments.study.replicates import Replicate, read_replicates
from experiments.study.search import DIGITS, space_of
from experiments.study.summary import study_folders

EFFECTS = (0.0, 1.0, 2.0, 4.0)
"""true advantage of the better optimizer, in standard deviations of a run"""


def surfaces_section(effort: Effort) -> list[str]:
    """The loss surfaces and the contestants."""
    rows = [
        [
            each.name,
            f"{each.curvature:g}",
            f"{each.noise:g}",
            f"{(each.noise / each.curvature) ** 0.5:.2f}",
            f"{each.height:g}",
            "none" if each.cliff is None else f"{each.cliff:g} above the best learning rate",
        ]
        for each in effort.surfaces
    ]
    return [
        "## Which loss surfaces are simulated?",
        "The loss over the unit cube of hyperparameters is `q / (1 + q / height)`, where q is a quadratic form. Its "
        "curvature along the learning rate was fitted to trials of earlier studies (commit 0ee1841); along the two "
        f"memories, the decay and a fifth dimension, it is {', '.join(f'{x:g}' for x in SHARES[1:])} times as large, "
        "in this order. A diagonal valley couples the learning rate and the first memory. The optimum moves from "
        "replicate to replicate, partly by the same amount for both optimizers; it also moves with the seed of the "
        "search. Noise grows with the loss. The true difference between two optimizers varies between replicates with "
        f"a standard deviation of {RANDOM_EFFECT:g} SD of a run.",
        markdown_table(
            ["surface", "curvature", "SD of a run", "learning-rate shift that costs 1 SD", "height", "runs diverge"],
            rows,
        ),
        "The first contestant meets five rivals, all with *equal optima*: at its own optimum, each is exactly as good "
        "as the first. One is just like it (*equal*). Two have basins that are 2 and 3 times narrower in every "
        "dimension (those of Lion and AdamW differ by a factor of 1.1 to 2.5 along the learning rate). One has its "
        "optimum at a different point (*elsewhere*). One combines these (*all at once*): its basin is 2 times narrower "
        "and elsewhere, with a fifth dimension, a cliff just above its best learning rate, where runs diverge, and a "
        "heavy upper tail of the noise. All losses below are in standard deviations of a run (SD).",
    ]


def committed_section(results: Path) -> list[str]:
    """Noise and margins of the committed studies, in the units of the simulation."""
    rows, margins = [], []
    for folder in study_folders(results):
        summary = read_summary(folder)
        counting = [each for each in read_replicates(folder) if each.number in summary["replicates"]]
        for row in deciding(summary):
            noise = noise_of_runs([row["a"], row["b"]], row["metric"], counting)
            points, _ = differences(summary, row)
            if not noise or row["margin"] is None or len(points) < 2:
                continue
            margins.append(row["margin"] / noise)
            name = f"{folder.relative_to(results).as_posix()}: {pair_name(row)}"
            rows.append([name, *map(significant, (noise, margins[-1], stdev(points.values()) / noise))])
    if not rows:
        return []
    return [
        "## Do the committed studies resemble these?",
        f"**Only in part: their margins are {significant(min(margins))} to {significant(max(margins))} SD of a run, "
        f"where the simulations use {MARGIN:g}. With a much smaller margin, hardly any study is a tie, and the share "
        'of wrong winners comes close to 100 % minus the column "interval contains 0", if nothing is withheld.**',
        markdown_table(["study", "SD of a run", "margin, SD", "SD of the replicates' differences, SD"], rows),
        "The SD of a run is that of the confirm runs of one optimizer in one replicate, in the deciding metric, pooled "
        "over all. In the simulations, the differences of replicates between optimizers that are equally easy to tune "
        f"vary by {significant(math.hypot(RANDOM_EFFECT, 1))} SD: the true difference by {RANDOM_EFFECT:g}, and that "
        "of the means of two confirm runs by 1.",
    ]


def noise_of_runs(optimizers: Sequence[str], metric: str, replicates: Sequence[Replicate]) -> float:
    """Pooled standard deviation of confirm runs of the same optimizer in the same replicate; 0 if none has two."""
    squares, freedom = 0.0, 0
    for each in replicates:
        for name in optimizers:
            confirm = [run.last(metric) for run in each.of(name, "confirm")]
            if len(values := [value for value in confirm if value is not None]) > 1:
                squares, freedom = squares + (len(values) - 1) * variance(values), freedom + len(values) - 1
    return math.sqrt(squares / freedom) if freedom else 0.0


def chosen_section(cells: Sequence[Cell]) -> list[str]:
    """The suite's own design, by surface and rival."""
    rows = [
        [
            f"{cell.surface.name}: {cell.rival.name}",
            " / ".join(number(regret, 1) for regret in cell.regrets),
            number(cell.tuned, 2, "+"),
            number(cell.half_width, 2),
            *map(percent, (cell.holds_tuned, cell.holds_best, cell.wrong, cell.wrong_told, cell.withheld, cell.tie)),
        ]
        for cell in cells
    ]
    inside = [cell for cell in cells if cell.holds_tuned >= COVERED]
    unsound = [cell for cell in cells if cell.wrong_told > WRONG]
    sound = len(cells) - len(unsound)
    missed = [f"{cell.surface.name}, {cell.rival.name} ({percent(cell.wrong_told)} %)" for cell in unsound]
    return [
        "## How reliable is the suite's own design?",
        f"**For {sound} of {len(cells)} pairs of surface and rival, at most {percent(WRONG)} % of the studies "
        f"name a wrong winner once unsettled verdicts are withheld; for {len(inside)}, the interval contains "
        f"the estimand in at least {percent(COVERED)} % of the studies.**",
        markdown_table(
            [
                "surface: rival",
                "regret: first / rival",
                "estimand",
                "half-width",
                "interval contains the estimand, %",
                "interval contains 0, %",
                "wrong, nothing withheld, %",
                "wrong, unsettled withheld, %",
                "withheld, %",
                "tie, %",
            ],
            rows,
        ),
        "The optima are equal, so the true difference between the optimizers at their optima is 0, and every winner is "
        f"wrong. The *estimand* differs from 0 where {CHOSEN.trials} trials leave more regret in one basin than in the "
        "other. "
        + (
            f"These pairs exceed the limit for wrong winners: {'; '.join(missed)}. For them, the interval is right "
            "about what searches of this length find, but misleads readers who take it to be about the optimizers at "
            "their optima: read the verdict together with the figure of the best value so far."
            if missed
            else "No pair exceeds the limit for wrong winners."
        ),
    ]


def judged(
    simulated: Simulated, rival: Contestant, rival_better_by: float, *, last: int | None = None, withhold: bool = True
) -> list[np.ndarray]:
    """The verdicts of studies against a rival, an array for each surface; ``last`` as for ``studied``."""
    found, studies = [], simulated.effort.studies
    for surface in simulated.effort.surfaces:
        pair = simulated.pair(surface, rival)
        made = studied(surface, simulated.design, *pair, studies=studies, rival_better_by=rival_better_by, last=last)
        found.append(verdicts(made, MARGIN, withhold=withhold))
    return found


def withholding_section(simulated: Simulated) -> list[str]:
    """How withholding by the last gains affects wrong winners and right ones."""
    design = simulated.design
    spans = (design.stages[-1], design.trials // 4, design.trials - design.stages[0])
    cases = ((0.0, ("first", "rival")), (MARGIN, ("tie",)), (2 * MARGIN, ("rival",)))
    rows, shares_by_search = [], {}
    for last in (None, *spans):
        row = ["nothing is withheld" if last is None else f"gains in the last {last} trials"]
        for rival in RIVALS:
            shares = []
            for better, names in cases:
                made = judged(simulated, rival, better, last=last, withhold=last is not None)
                shares.append(fmean(share(each, *names) for each in made))
            shares_by_search[last, rival.name] = shares
            row.append(" / ".join(map(percent, shares)))
        rows.append(row)
    narrow = RIVALS[1].name
    before, after = shares_by_search[None, narrow], shares_by_search[spans[0], narrow]
    return [
        "## What does withholding do?",
        "**A verdict is unsettled, and its winner withheld, if the winner leads by less than the difference between "
        f"the two optimizers' gains in the last {spans[0]} trials. Against a basin 2 times narrower, this reduces "
        f"wrong winners from {percent(before[0])} to {percent(after[0])} % of the studies, and right winners, if the "
        f"narrower one is truly {2 * MARGIN:g} SD better, from {percent(before[2])} to {percent(after[2])} %.**",
        markdown_table(["withheld by", *(rival.name for rival in RIVALS)], rows),
        "Each cell: a wrong winner is named when the optima are equal / a tie is found when the rival is better by "
        f"exactly the margin / the rival is named when it is better by {2 * MARGIN:g} SD; in % of the studies, "
        "averaged over the surfaces. A gain is the improvement of the best validation value. A longer span withholds "
        "more winners, both right and wrong.",
    ]


def power_section(simulated: Simulated) -> list[str]:
    """How large a difference must be to be detected."""
    rows, against_equal = [], {}
    for rival in RIVALS:
        for sign, better in ((1, "the rival"), (-1, "the first")) if rival is not RIVALS[0] else ((1, "either"),):
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
        "## How small a difference can be detected?",
        "**Between optimizers that are equally easy to tune, "
        f"{percent(against_equal[EFFECTS[2]][0])} % of the studies name the better one if the true difference is "
        f"{EFFECTS[2]:g} SD of a run, and {percent(against_equal[EFFECTS[3]][0])} % if it is {EFFECTS[3]:g} SD.**",
        markdown_table(["rival", *(f"{effect:g} SD" for effect in EFFECTS)], rows),
        "Each cell: the better one is named / the worse one is named / a tie is found; in % of the studies, averaged "
        f"over the surfaces, with a margin of {MARGIN:g} SD and unsettled verdicts withheld. At 0 SD, neither is "
        "better.",
    ]


def copy_section(replicates: int) -> list[str]:
    """An optimizer against a renamed copy of itself."""
    space = space_of({"name": "adamw", "space": AXES})
    thousand, seven = ([abs(d) for d in copy_differences(space, scale, replicates, CHOSEN)] for scale in (1000.0, 7.0))
    return [
        "## Does an optimizer differ from its own copy?",
        "**No: AdamW and a copy of it whose learning rate is given in thousandths, in a search space of its own, "
        f"differ by at most {max(thousand):.1g} SD in {replicates} replicates.**",
        "Points are drawn in the unit cube, so units cancel out; both use the same seeds. With units 7 times smaller, "
        f"rounding hyperparameters to {DIGITS} digits causes a difference of up to {max(seven):.1g} SD.",
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
WRONG, COVERED = 0.05, 0.94
"""the guarantee: the largest share of wrong winners and the smallest coverage"""


def statistics_page(effort: Effort, results: Path) -> str:
    """The whole page as Markdown."""
    chosen = Simulated(effort, CHOSEN, RIVALS, effort.replicates)
    tables = compared(chosen)
    sections = [
        "# Can the verdicts be trusted?",
        "Everything on this page is computed by `make statistics`. It simulates whole studies on loss surfaces whose "
        "true optimum is known, and searches, confirms and judges with the suite's own code "
        "(experiments/study/surrogate.py and statistics.py). The simulation is seeded, so the same sources reproduce "
        f"the page byte for byte. On every surface, the suite's own search is simulated in {effort.replicates} "
        f"replicates, box searches in {effort.box_replicates} and the other alternatives in "
        f"{effort.alternative_replicates}; from these replicates, {effort.studies} studies are drawn for each cell.",
        "## What is estimated?",
        "**The estimand is the mean, over replicates, of the expected loss of the first optimizer's winner on fresh "
        f"seeds minus that of the second's, where a winner is what a search of {CHOSEN.trials} trials finds.** It is "
        "about optimizers *tuned with this much search*; its true value is the mean over all simulated replicates. It "
        "is not the difference between the two optimizers at their optima, which an endless search would find and "
        "which readers may take a verdict to mean. In the simulation, that difference is known, because losses are "
        f"measured from each optimizer's optimum: a search of {LONG.trials} trials without noise ends within "
        f"{left_by_a_long_search(effort, RIVALS):.1g} SD of it. The two differ by what searches leave above the "
        "optima, their regret.",
        *surfaces_section(effort),
        *designs_section(tables),
        *chosen_section(tables[CHOSEN_NAME][1]),
        *committed_section(results),
        *withholding_section(chosen),
        *power_section(chosen),
        *copy_section(min(8, effort.replicates)),
    ]
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    page = ROOT / "docs" / "statistics.md"
    page.write_text(statistics_page(Effort(), ROOT / "results"), encoding="utf-8")
    print(page)
