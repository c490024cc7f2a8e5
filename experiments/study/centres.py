"""What a pilot is for: the winners of its coarse search become the centres of an experiment's tuning grids."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments.harness.errors import ConfigError
from experiments.study.sweep import Study

HEAD = """\
# Centres of the tuning grids, one an optimizer. `make pilot-<task>` writes lr and weight_decay of those that it
# searched; an entry that points to another optimizer's was never searched itself.
"""


def write_centres(study: Study, conf: Path) -> Path:
    """Write the winners' lr and weight_decay to ``conf``/settings/<task>/<experiment>.yaml, and return that file.

    Whatever else the file says of an optimizer (betas) stays, and so do optimizers that the study did not search.
    """
    path = conf / "settings" / f"{study.config['experiment']}.yaml"
    settings: Any = OmegaConf.load(path)
    for contestant in study.contestants:
        assert contestant.winner is not None
        if contestant.name not in settings:
            raise ConfigError(f"{path} has no entry {contestant.name} for the pilot's winner: give it one with lr.")
        tuned = {"lr": contestant.winner.lr, "weight_decay": contestant.winner.weight_decay}
        found = {key: value for key, value in tuned.items() if value is not None}
        settings[contestant.name] = {**settings[contestant.name], **found}
    path.write_text(HEAD + OmegaConf.to_yaml(settings))
    return path
