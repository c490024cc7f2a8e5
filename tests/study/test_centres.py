from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.harness.errors import ConfigError
from experiments.study.centres import write_centres
from experiments.study.plan import Settings
from experiments.study.sweep import Study
from tests.conftest import MakeConfig

BEFORE = """\
lion: {lr: 1.0e-3, weight_decay: 0.1, betas: [0.9, 0.99]}
adamw: {lr: 5.0e-3, weight_decay: 0.02, betas: [0.9, 0.999]}
nadam: ${.adamw}
"""


def finished_pilot(make_config: MakeConfig, *optimizers: str) -> Study:
    study = Study(lambda overrides: make_config(*overrides), [], list(optimizers))
    for number, contestant in enumerate(study.contestants, start=1):
        contestant.winner = Settings(lr=number * 1e-2, weight_decay=number * 0.5)
    return study


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "settings/image_classification/smoke.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(BEFORE)
    return path


def test_winners_become_the_centres_and_all_else_stays(make_config: MakeConfig, path: Path, tmp_path: Path) -> None:
    assert write_centres(finished_pilot(make_config, "lion", "adamw"), tmp_path) == path
    settings = OmegaConf.load(path)
    assert settings.lion == {"lr": 0.01, "weight_decay": 0.5, "betas": [0.9, 0.99]}
    assert settings.adamw == {"lr": 0.02, "weight_decay": 1.0, "betas": [0.9, 0.999]}
    assert settings.nadam == settings.adamw, "an entry that points to another follows it"


def test_an_optimizer_that_was_searched_no_longer_points_to_another(
    make_config: MakeConfig, path: Path, tmp_path: Path
) -> None:
    write_centres(finished_pilot(make_config, "nadam", "adamw"), tmp_path)
    settings = OmegaConf.load(path)
    assert settings.nadam == {"lr": 0.01, "weight_decay": 0.5, "betas": [0.9, 0.999]}
    assert settings.lion.lr == 1e-3


def test_a_winner_without_an_entry_is_refused(make_config: MakeConfig, path: Path, tmp_path: Path) -> None:
    path.write_text("lion: {lr: 1.0e-3}\n")
    with pytest.raises(ConfigError, match=r"smoke\.yaml has no entry adamw"):
        write_centres(finished_pilot(make_config, "lion", "adamw"), tmp_path)
