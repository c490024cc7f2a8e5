"""Study designs, simulated on every surface against every rival: their verdicts, and how often these are wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from experiments.simulation.studies import (
    FIRST,
    SURFACES,
    Contestant,
    Design,
    Searches,
    Surface,
    coverage,
    half_width,
    searched,
    share,
    studied,
    verdicts,
)

CHOSEN = Design(8, (8, 20, 14), 2, fresh_seeds=True)
"""the suite's own design: conf/study/staged.yaml"""
MARGIN = 2.0
"""tie margin, in standard deviations of a run"""
LONG = Design(1, (300,) * 8, 1, shrink=0.5, fresh_seeds=True)
"""a search of 2 400 trials, which finds the optimum in the absence of noise"""


class Effort(NamedTuple):
    """How much is simulated."""

    surfaces: Sequence[Surface] = SURFACES
    replicates: int = 64
    """of the chosen design, for every surface and contestant"""
    box_replicates: int = 160
    alternative_replicates: int = 24
    studies: int = 2000


@dataclass
class Cell:
    """A design against one rival on one surface; shares of the studies."""

    surface: Surface
    rival: Contestant
    regrets: tuple[float, float]
    """of first and rival, in standard deviations of a run"""
    tuned: float
    wrong: float
    """a winner is named although neither is better"""
    wrong_told: float
    """the same with unsettled verdicts withheld"""
    withheld: float
    tie: float
    holds_tuned: float
    holds_best: float
    half_width: float


class Simulated:
    """The simulated searches of one design, and the studies composed of them."""

    def __init__(self, effort: Effort, design: Design, rivals: Sequence[Contestant], replicates: int) -> None:
        self.effort, self.design, self.rivals = effort, design, rivals
        self._searches: dict[tuple[str, str], Searches] = {
            (surface.name, each.name): searched(surface, each, design, replicates)
            for surface in effort.surfaces
            for each in (FIRST, *rivals)
        }

    def cells(self, confirm: int | None = None) -> list[Cell]:
        """All surfaces and rivals with equal optima, with a different number of confirm seeds if given."""
        design = replace(self.design, confirm=confirm or self.design.confirm)
        return [self._cell(design, surface, rival) for surface in self.effort.surfaces for rival in self.rivals]

    def _cell(self, design: Design, surface: Surface, rival: Contestant) -> Cell:
        first, other = self.pair(surface, rival)
        studies = studied(surface, design, first, other, studies=self.effort.studies)
        plain, told = (verdicts(studies, MARGIN, withhold=withhold) for withhold in (False, True))
        first_regret, rival_regret = (float(of[1].regrets(design.trials).mean()) for of in (first, other))
        return Cell(
            surface=surface,
            rival=rival,
            regrets=(first_regret / surface.noise, rival_regret / surface.noise),
            tuned=studies.tuned,
            wrong=share(plain, "first", "rival"),
            wrong_told=share(told, "first", "rival"),
            withheld=share(told, "withheld"),
            tie=share(told, "tie"),
            holds_tuned=coverage(studies.differences, studies.tuned),
            holds_best=coverage(studies.differences, 0.0),
            half_width=half_width(studies.differences),
        )

    def pair(self, surface: Surface, rival: Contestant) -> tuple[tuple[Contestant, Searches], ...]:
        """The first contestant and the rival, with their searches."""
        return tuple((each, self._searches[surface.name, each.name]) for each in (FIRST, rival))


def left_by_a_long_search(effort: Effort, rivals: Sequence[Contestant]) -> float:
    """The largest mean regret of LONG without noise, in standard deviations of a run: the precision of the truth."""
    left = []
    for surface in effort.surfaces:
        silent = replace(surface, noise=0.0, noise_growth=0.0)
        found = [searched(silent, each, LONG, 8).regrets(LONG.trials).mean() for each in (FIRST, *rivals)]
        left.append(float(max(found)) / surface.noise)
    return max(left)
