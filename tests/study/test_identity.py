"""A study that is asked for again after a contestant's own code has changed."""

from pathlib import Path

import pytest

from experiments.harness.errors import ConfigError
from experiments.harness.sources import has_own_code, own_digest
from experiments.study.identity import check_sources
from tests.synthetic_study import write_study

OURS = {"task": "image_classification", "optimizer": {"_target_": "lion.Lion"}}
THEIRS = {"task": "image_classification", "optimizer": {"_target_": "my_vote.Vote"}}


def test_results_of_a_changed_optimizer_of_ones_own_are_not_passed_off_as_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_vote.py").write_text("class Vote: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    # The synthetic runs of an optimizer have the digest abcdef0123456789-<name of the optimizer>.
    directory = write_study(tmp_path, numbers=range(1), optimizers=["vote", "adamw"])
    with pytest.raises(ConfigError, match=r"Replicate 0 .* was made by other code of vote .*FRESH=1"):
        check_sources(directory, [0], {"vote": THEIRS, "adamw": OURS})
    check_sources(directory, [], {"vote": THEIRS, "adamw": OURS})
    monkeypatch.setattr("experiments.study.identity.own_digest", lambda config: "vote")
    check_sources(directory, [0], {"vote": THEIRS, "adamw": OURS})


def test_results_of_the_suites_optimizers_outlive_a_change_of_the_suite(tmp_path: Path) -> None:
    directory = write_study(tmp_path, numbers=range(1))
    assert not has_own_code(OURS)
    assert own_digest(OURS) != "lion"
    check_sources(directory, [0], {"lion": OURS, "adamw": OURS})
