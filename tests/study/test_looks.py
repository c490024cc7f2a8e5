"""Looks at a study's results: which were declared, which were taken, and what each may take of the 5 %."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.study.looks import judged, looks_at
from tests.study.test_study import run_study, studies


def described(seeds: int, looks: list[int], lr: float = 0.1, digest: str = "a") -> dict[str, Any]:
    contestants = {name: {"winner": {"lr": lr, "weight_decay": 1.0}} for name in ("lion", "adamw")}
    study = {"confirm_seeds": list(range(seeds)), "looks": looks}
    return {"study": study, "contestants": contestants, "sources_digest": digest}


def published(results: Path, description: dict[str, Any]) -> dict[str, Any]:
    """The judged looks of a study that is published among others; its seeds make its folder."""
    description["looks"] = looks_at(results, description)
    folder = results / str(len(description["study"]["confirm_seeds"]))
    folder.mkdir(exist_ok=True)
    (folder / "study.json").write_text(json.dumps(description))
    return judged(description["looks"])


def test_a_study_that_is_judged_once_takes_all_of_the_5_percent_however_often_it_is_published(tmp_path: Path) -> None:
    for _ in range(2):
        looks = published(tmp_path, described(8, []))
        assert looks == {"declared": [8], "taken": [8], "alpha": 0.05, "exploratory": False}


def test_declared_looks_share_the_5_percent(tmp_path: Path) -> None:
    for seeds, taken in ((8, [8]), (16, [8, 16])):
        looks = published(tmp_path, described(seeds, [8, 16]))
        assert looks == {"declared": [8, 16], "taken": taken, "alpha": 0.025, "exploratory": False}


@pytest.mark.parametrize("seeds", [16, 4])
def test_a_look_at_another_number_of_seeds_is_exploratory(tmp_path: Path, seeds: int) -> None:
    published(tmp_path, described(8, []))
    assert published(tmp_path, described(seeds, []))["exploratory"]
    assert published(tmp_path, described(8, []))["exploratory"], "what was seen stays seen"


def test_looks_cannot_be_declared_after_the_first(tmp_path: Path) -> None:
    published(tmp_path, described(8, []))
    looks = published(tmp_path, described(16, [8, 16]))
    assert (looks["declared"], looks["exploratory"]) == ([8], True)


@pytest.mark.parametrize("anew", [{"digest": "b"}, {"lr": 0.2}])
def test_other_sources_or_other_winners_make_another_study(tmp_path: Path, anew: dict[str, Any]) -> None:
    published(tmp_path, described(8, []))
    assert published(tmp_path, described(16, [], **anew))["taken"] == [16]


def test_a_study_to_which_seeds_are_added_says_so(command_line: list[str], tmp_path: Path) -> None:
    overrides = ["optimizer=lion,adamw", "study.lr_multipliers=[1.0]"]
    for seeds, exploratory in ([0, 1], False), ([0, 1, 2], True):
        result = run_study(command_line, *overrides, f"study.confirm_seeds={seeds}".replace(" ", ""))
        assert result.returncode == 0, result.stderr
        (summary,) = (one for one in studies(tmp_path) if one["seeds"] == seeds)
        assert summary["looks"]["exploratory"] is exploratory
        assert ("Exploratory: " in " ".join(result.stdout.split())) is exploratory
