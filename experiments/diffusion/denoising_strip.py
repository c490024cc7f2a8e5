"""Draw a trained run's path from noise to images as denoising.png in its folder: one row per sample, one column per
step.

    python -m experiments.diffusion.denoising_strip run=runs/diffusion/lion-s0-0123456789 experiment=diffusion/mini

After ``run`` come overrides that select the run's model and data; runs at scale=mini need none. The weights are those
of the last checkpoint, averaged if the run averages them.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from experiments.diffusion.task import build
from experiments.harness.load_run import draw, load_run

SHOWN_STEPS = 10
"""evenly spread over the sampler's steps"""


def write_strip(directory: Path, cfg: Any) -> Path:
    """Draw the strip for the run in ``directory``, whose model and data must match the composed config ``cfg``."""
    _, task, model = load_run(directory, cfg, build, same=("model", "data", "noise", "text"))
    with torch.no_grad():
        states = list(task.denoised(model.eval(), range(cfg.sampling.shown)))
    chosen = torch.linspace(0, len(states) - 1, min(SHOWN_STEPS, len(states))).round().long()
    columns = [np.concatenate(list(states[place].movedim(1, 3).numpy())) for place in chosen.tolist()]
    path = directory / "denoising.png"
    Image.fromarray(np.concatenate(columns, axis=1)).save(path)
    return path


if __name__ == "__main__":
    draw("diffusion", write_strip, sys.argv[1:])
