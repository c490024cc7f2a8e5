"""A trained run's way from noise to images, denoising.png in its directory: a row for each sample, a column a step.

    python -m experiments.diffusion.denoising_strip run=runs/diffusion/lion-s0-0123456789 experiment=diffusion/mini

After ``run`` come overrides that choose the model and data of the run; scale=mini's need none. What is drawn are the
weights of the last checkpoint, averaged if the run averages them.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from experiments.diffusion import config  # noqa: F401  # registers the schema
from experiments.diffusion.task import build
from experiments.harness.checkpoint import load_checkpoint
from experiments.harness.config import result_config
from experiments.harness.entry import locate
from experiments.harness.errors import RunError, SuiteError
from experiments.harness.provenance import ROOT

SHOWN_STEPS = 10
"""evenly spread over those of the sampler"""


def write_strip(directory: Path, cfg: Any) -> Path:
    """Draw the strip of the run in ``directory``, whose model and data are those of the composed config ``cfg``."""
    plain, data, _ = locate(cfg)
    recorded = OmegaConf.to_container(OmegaConf.load(directory / "config.yaml"))
    ours = result_config(plain, data.fingerprint)
    assert isinstance(recorded, dict)
    for key in ("model", "data", "noise", "text"):
        if recorded[key] != ours[key]:
            raise RunError(
                f"The run {directory} has another {key} than experiment={plain['experiment']}: name its own."
            )
    saved = load_checkpoint(directory)
    if saved is None:
        raise RunError(f"The run {directory} has no checkpoint to generate with: run it again.")
    task = build(cfg, data)
    model = task.model()
    averaged = {name.removeprefix("module."): value for name, value in (saved["ema"] or {}).items()}
    model.load_state_dict({name: averaged.get(name, value) for name, value in saved["model"].items()})
    with torch.no_grad():
        states = list(task.denoised(model.eval(), range(cfg.sampling.shown)))
    chosen = torch.linspace(0, len(states) - 1, min(SHOWN_STEPS, len(states))).round().long()
    columns = [np.concatenate(list(states[place].movedim(1, 3).numpy())) for place in chosen.tolist()]
    path = directory / "denoising.png"
    Image.fromarray(np.concatenate(columns, axis=1)).save(path)
    return path


def main(arguments: list[str]) -> None:
    """``arguments`` are ``run=<directory>`` and overrides."""
    if not arguments or not arguments[0].startswith("run="):
        sys.exit(
            "usage: python -m experiments.diffusion.denoising_strip run=<directory> [experiment=diffusion/<name> ...]"
        )
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("diffusion", overrides=arguments[1:])
    try:
        print(write_strip(Path(arguments[0].removeprefix("run=")), cfg))
    except SuiteError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
