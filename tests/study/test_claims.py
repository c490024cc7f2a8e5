"""The comparison of studies with the paper's claims, with the paper's own table and with hand-made intervals."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import yaml

from experiments.harness.metric import Better
from experiments.harness.source_code import ROOT
from experiments.study import statistics
from experiments.study.paper import Claim, PaperCell, claim_of
from experiments.study.statistics import Difference, paired_difference

CELLS = yaml.safe_load((ROOT / "results/paper.yaml").read_text())["cells"]
TABLE_2 = {
    name: PaperCell(**cell["metrics"]["top1"])
    for name, cell in CELLS["image_classification"].items()
    if "top1" in cell["metrics"] and cell["metrics"]["top1"]["source"] == "Table 2"
}
SEED_SD = 0.15
"""of one ImageNet run's top-1, in points: a realistic noise level"""


def gain(better: Better = "higher", a: float = 77.44, b: float = 75.48, **more: Any) -> PaperCell:
    return PaperCell({"lion": a, "adamw": b}, better, "Table 2", "exact", **more)


def claim(cell: PaperCell, difference: Difference | None = None, percent: bool = True) -> Claim:
    return claim_of(cell, "lion", "adamw", difference, percent=percent, margin=None)


def outcome(cell: PaperCell, ci90: tuple[float, float], ci95: tuple[float, float], **more: Any) -> str | None:
    difference = Difference(sum(ci95) / 2, ci95, ci90, 0.5, 3, 0.2, None, None)
    return claim_of(cell, "lion", "adamw", difference, **{"percent": True, "margin": None, **more}).outcome


def test_a_claimed_gain_is_confirmed_by_superiority_and_contradicted_below_half() -> None:
    claimed = gain()  # 1.96 points
    assert outcome(claimed, (0.4, 1.6), (0.1, 1.9)) == "confirmed"
    assert outcome(claimed, (0.4, 0.9), (0.3, 1.0)) == "contradicted", "better, but by less than half"
    assert outcome(claimed, (-0.4, 0.9), (-0.5, 1.0)) == "contradicted"
    assert outcome(claimed, (-0.4, 1.6), (-0.6, 1.8)) == "cannot tell"


def test_a_claim_follows_the_direction_of_its_metric() -> None:
    loss_gain = gain("lower", 2.5, 3.0)
    assert outcome(loss_gain, (-0.6, -0.4), (-0.7, -0.3), percent=False) == "confirmed"
    assert outcome(loss_gain, (0.4, 0.6), (0.3, 0.7), percent=False) == "contradicted"
    assert claim(loss_gain, percent=False).by == "lion"
    assert claim(gain(a=75.0, b=77.0)).by == "adamw"


def test_a_claimed_tie_is_confirmed_by_equivalence() -> None:
    on_par = gain(a=76.45, b=76.34)
    assert claim(on_par).kind == "tie"
    assert outcome(on_par, (-0.4, 0.4), (-0.5, 0.5)) == "confirmed"
    assert outcome(on_par, (0.6, 0.9), (0.5, 1.0)) == "contradicted"
    assert outcome(on_par, (0.1, 0.9), (0.0, 1.0)) == "cannot tell"
    assert outcome(on_par, (0.1, 0.9), (0.0, 1.0), margin=1.0) == "confirmed"


def test_a_claim_from_a_figure_within_reading_uncertainty_is_a_tie() -> None:
    read: dict[str, Any] = {"uncertainty": 0.05}
    assert claim(gain(a=2.80, b=2.85, **read), percent=False).kind == "tie"
    assert claim(gain(a=2.80, b=2.95, **read), percent=False).kind == "gain"


def test_one_pair_gives_no_outcome_for_a_claim() -> None:
    assert claim(gain()).outcome is None


def test_claims_simulated_from_the_papers_table_are_confirmed_and_not_contradicted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("_detectable", "_equivalence"):  # functions of the number of pairs alone, each called for 2200 studies
        monkeypatch.setattr(statistics, name, cache(getattr(statistics, name)))
    rng = np.random.default_rng(0)
    assert len(TABLE_2) == 11
    for name, cell in TABLE_2.items():
        difference = cell.values["lion"] - cell.values["adamw"]
        outcomes = []
        for _ in range(200):
            a, b = rng.normal(difference, SEED_SD, 3), rng.normal(0, SEED_SD, 3)
            outcomes.append(claim(cell, paired_difference(a.tolist(), b.tolist())).outcome)
        assert claim(cell).kind == ("tie" if name == "resnet50" else "gain")
        needed = claim(cell, Difference(0, (0, 0), (0, 0), 1, 3, SEED_SD * 2**0.5, None, None)).pairs_needed
        assert needed is not None
        share = outcomes.count("confirmed") / 200
        assert outcomes.count("contradicted") / 200 < 0.08, name
        assert (share >= 0.75) == (needed <= 3) or 3 < needed <= 4, (name, share, needed)
