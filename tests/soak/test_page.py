"""The page of ``make soak`` adds sessions up."""

import re
from collections import Counter
from pathlib import Path

from experiments.harness.source_code import ROOT
from tests.soak.page import FRESH, RAY, TWO, page_with

FIRST = "60", "7", "abcdef0", "2 cores (x86_64)", "3", "8", "0"
SECOND = "120", "8", "abcdef1", "4 cores (x86_64)", "5", "6", "2"


def counts(page: str) -> dict[str, tuple[int, int, int]]:
    """Injected, identical and lost faults by kind, as a reader sees them."""
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ") and ":--" not in line]
    return {kind: (int(all_), int(same), int(lost)) for kind, all_, same, lost in rows if kind != "fault"}


def test_a_second_session_is_added_to_the_first() -> None:
    first = page_with("", FIRST, Counter({TWO: 5, FRESH: 3}), Counter())
    both = page_with(first, SECOND, Counter({FRESH: 4, RAY: 2}), Counter({FRESH: 2}))
    assert counts(both)[TWO] == (5, 5, 0)
    assert counts(both)[FRESH] == (7, 5, 2)
    assert counts(both)[RAY] == (2, 2, 0)
    assert "In total, 14 faults were injected in these sessions, 2 of them in lost trials" in both
    assert [line for line in both.splitlines() if line.startswith("- make soak")] == [
        "- make soak SECONDS=60 SEED=7: commit abcdef0, 2 cores (x86_64): 3 trials, 8 faults,",
        "- make soak SECONDS=120 SEED=8: commit abcdef1, 4 cores (x86_64): 5 trials, 6 faults,",
    ]


def test_totals_on_the_committed_page_match_its_rows() -> None:
    page = Path(ROOT / "docs" / "reliability.md").read_text()
    injected, _, lost = (sum(column) for column in zip(*counts(page).values(), strict=True))
    sessions = re.findall(r"trials, (\d+) faults,\s+(\d+) of them in", page)
    assert f"In total, {injected} faults were injected in these sessions, {lost} of them in lost trials" in page
    assert injected == sum(int(faults) for faults, _ in sessions)
    assert lost == sum(int(gone) for _, gone in sessions)
