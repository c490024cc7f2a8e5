"""results/protocols.md on synthetic studies."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from experiments.simulation import protocols_page as page_of
from experiments.simulation import scored
from experiments.simulation.protocols import EmulatedSearches
from experiments.simulation.protocols_page import check, protocols_page
from tests.synthetic_study import write_study


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_of, "TIMES", 20)
    monkeypatch.setattr(scored, "SEARCHES", 4)
    monkeypatch.setattr(page_of, "SEARCHES", 4)


def rows_of(page: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_the_protocols_page_scores_every_protocol_reproducibly(tmp_path: Path) -> None:
    write_study(tmp_path, stages=(8, 4, 3), gain=0.5, margin=0.03)
    page = protocols_page(tmp_path)
    rows = rows_of(page)
    assert [name.split(",")[0] for name in list(rows)[2:8]] == [
        "default settings",
        "4 rates on one seed",
        "mean of 3 bests of 5 random points",
        "best of 30 on one seed",
        "this suite",
        "this suite",
    ]
    runs, itself, *both = rows["this suite, 6 replicates"]
    assert runs == str(6 * 17)
    assert float(itself) < 50, "of identical optimizers it names few"
    assert both == ["100.0", "0.0", "0.0", "0.0", "100.0"], "and the better one of unlike optimizers always"
    assert float(rows["best of 30 on one seed"][1]) > float(itself)
    assert "the verdict is *Lion*" in page
    assert "Lion: peak learning rate" in rows
    assert "nan" not in page
    assert protocols_page(tmp_path) == page


def test_protocols_of_two_replicates_are_scored_without_a_verdict(tmp_path: Path) -> None:
    write_study(tmp_path, stages=(8, 4, 3), numbers=[0, 1])
    page = protocols_page(tmp_path)
    assert "verdict of the study: *none yet*" in page
    assert rows_of(page)["best of 30 on one seed"][-1] == "n/a"
    assert "is not known yet: a verdict needs 4 replicates" in page


def test_the_protocols_page_says_why_a_study_is_not_scored(tmp_path: Path) -> None:
    assert "No study is committed yet." in protocols_page(tmp_path)
    write_study(tmp_path, numbers=[0])
    assert "Not scored: it has 1 of at least 2 replicates." in protocols_page(tmp_path)


def test_reproductions_are_excluded_from_the_protocols_page(tmp_path: Path) -> None:
    write_study(tmp_path, stages=(4, 3, 2), numbers=[0, 1, 6, 7], declared=6)
    assert "2 replicates, 36 trials" in protocols_page(tmp_path)


@pytest.mark.parametrize(("spread", "shift", "said"), [(1, 0, ()), (5, 0, ("vary",)), (1, 3, ("means disagree",))])
def test_emulators_that_do_not_vary_or_lie_like_the_study_are_exposed(
    spread: float, shift: float, said: tuple[str, ...]
) -> None:
    quantiles = stats.norm.ppf((np.arange(48) + 0.5) / 48)
    zeros = np.zeros(48)
    a = EmulatedSearches(zeros, zeros, shift + spread * quantiles)
    observed = SimpleNamespace(differences=stats.norm.ppf((np.arange(8) + 0.5) / 8), pair={"a": "lion", "b": "adamw"})
    sentence = check(observed, {"a": a, "b": EmulatedSearches(zeros, zeros, zeros)})  # type: ignore[arg-type]
    for words in ("vary", "means disagree"):
        assert (words in sentence) == (words in said)
