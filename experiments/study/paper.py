"""The published numbers in results/paper.yaml, and whether a study at the paper's own scale confirms them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from experiments.harness.errors import ConfigError
from experiments.harness.metric import Better
from experiments.harness.source_code import ROOT
from experiments.study.statistics import Difference, pairs_needed, sign_of

PAPER = ROOT / "results" / "paper.yaml"
SEED_NOISE = 0.25
"""Percentage points of accuracy. If the paper's two numbers differ by no more, that is not a claimed gain: two standard
errors of the difference of two means of 3 runs, with a standard deviation of 0.15 between seeds of an ImageNet run.
"""


@dataclass(frozen=True)
class PaperCell:
    """One published number for each optimizer; results/paper.yaml explains ``trust`` and the units."""

    values: Mapping[str, float]
    """by optimizer"""
    better: Better
    source: str
    trust: str
    """exact, good, digitised or unverified"""
    uncertainty: float | None = None
    """half-width, in the metric's units; only for digitised values"""


@dataclass(frozen=True)
class Claim:
    """The paper's claim about two optimizers, and a study's outcome for it."""

    kind: str
    """gain or tie"""
    by: str | None
    """the optimizer that the paper finds better; None for a tie"""
    outcome: str | None
    """confirmed, contradicted, cannot tell; None with fewer than 2 pairs"""
    pairs_needed: int | None
    """pairs that would show the claim in 80 % of studies if it is true, given this study's spread; None if unknown or
    above 10 000"""


def paper_cell(key: str, metric: str) -> PaperCell | None:
    """The paper's numbers for ``metric`` (``top1``, or as recorded by runs: ``test/top1``) in the cell
    ``key = "<task>.<cell>"`` of PAPER; None if the paper does not report that metric.

    Raises ConfigError if the file has no such cell.
    """
    cells: dict[str, dict[str, Any]] = yaml.safe_load(PAPER.read_text(encoding="utf-8"))["cells"]
    task, _, name = key.partition(".")
    if name not in cells.get(task, {}):
        known = ", ".join(f"{task}.{cell}" for cell in cells.get(task, {})) or "its tasks are " + ", ".join(cells)
        raise ConfigError(f"study.paper={key} is not a cell in {PAPER.name}: {known}.")
    entry = cells[task][name]["metrics"].get(metric.rpartition("/")[2])
    return PaperCell(**entry) if entry else None


def claim_of(
    cell: PaperCell, a: str, b: str, difference: Difference | None, *, percent: bool, margin: float | None
) -> Claim:
    """The paper's claim about a and b, compared with our paired ``difference`` a - b.

    The claim is a gain if the paper's two numbers differ by more than the precision of reading them off a figure or the
    noise of 3 seeds (``percent``: the metric is an accuracy in per cent); otherwise it is a tie.

    A gain is *contradicted* if the 90 % interval lies below half of it (a one-sided test at 5 %), and otherwise
    *confirmed* if the 95 % interval lies above 0. A tie is *confirmed* if the 90 % interval lies within ``margin``, by
    default twice that precision, and contradicted if it lies outside. Otherwise we *cannot tell*.
    """
    claimed = cell.values[a] - cell.values[b]
    resolution = 2 * cell.uncertainty if cell.uncertainty else SEED_NOISE if percent else 0.0
    if abs(claimed) > resolution:
        by = a if sign_of(cell.better) * claimed > 0 else b
        if difference is None:
            return Claim("gain", by, None, None)
        direction = 1 if claimed > 0 else -1
        half, sure = (sorted(direction * end for end in ends) for ends in (difference.ci90, difference.ci95))
        outcome = "contradicted" if half[1] < abs(claimed) / 2 else "confirmed" if sure[0] > 0 else "cannot tell"
        return Claim("gain", by, outcome, pairs_needed(claimed, difference.sd))
    width = margin if margin is not None else 2 * resolution
    if difference is None or not width:
        return Claim("tie", None, "cannot tell" if difference else None, None)
    low, high = difference.ci90
    outcome = "confirmed" if -width <= low and high <= width else "cannot tell"
    if low > width or high < -width:
        outcome = "contradicted"
    return Claim("tie", None, outcome, pairs_needed(width, difference.sd, tie=True))
