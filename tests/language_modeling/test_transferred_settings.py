"""The settings that the speeches borrow are those that won on the articles."""

import json

import pytest
import yaml

from experiments.harness.provenance import ROOT


@pytest.mark.parametrize("optimizer", ["lion", "adamw"])
def test_transferred_settings_are_the_winners_of_the_committed_study(optimizer: str) -> None:
    summary = json.loads((ROOT / "results/language_modeling/mini/mini/summary.json").read_text())
    borrowed = yaml.safe_load((ROOT / "conf/settings/language_modeling/mini_articles_winners.yaml").read_text())
    won = summary["optimizers"][optimizer]["settings"]
    assert borrowed[optimizer] == {name: won[name] for name in ("lr", "weight_decay", "betas")}
