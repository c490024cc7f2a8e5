"""Requesting a study again after the code of one of its optimizers has changed."""

from pathlib import Path

import pytest

from experiments.harness.errors import ConfigError
from experiments.harness.source_code import has_own_code, own_digest
from experiments.study.identity import check_source_code
from tests.synthetic_study import write_study

OURS = {"task": "image_classification", "optimizer": {"_target_": "lion.Lion"}}
THEIRS = {"task": "image_classification", "optimizer": {"_target_": "my_vote.Vote"}}


def test_old_results_of_a_changed_custom_optimizer_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_vote.py").write_text("class Vote: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    # An optimizer's synthetic runs have the digest abcdef0123456789-<name of the optimizer>.
    directory = write_study(tmp_path, numbers=range(1), optimizers=["vote", "adamw"])
    with pytest.raises(ConfigError, match=r"Replicate 0 .* was made by different code of vote .*FRESH=1"):
        check_source_code(directory, [0], {"vote": THEIRS, "adamw": OURS})
    check_source_code(directory, [], {"vote": THEIRS, "adamw": OURS})
    monkeypatch.setattr("experiments.study.identity.own_digest", lambda config: "vote")
    check_source_code(directory, [0], {"vote": THEIRS, "adamw": OURS})


def test_results_of_the_suites_own_optimizers_survive_a_change_to_the_suite(tmp_path: Path) -> None:
    directory = write_study(tmp_path, numbers=range(1))
    assert not has_own_code(OURS)
    assert own_digest(OURS) != "lion"
    check_source_code(directory, [0], {"lion": OURS, "adamw": OURS})
