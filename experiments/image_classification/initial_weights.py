"""Final weights of one run as the initial weights of another, at another resolution and with another head."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments.harness.averages import evaluated_weights
from experiments.harness.checkpoint import load_checkpoint
from experiments.harness.errors import RunError
from experiments.harness.initial_scale import mark_pretrained


def load_initial_weights(model: Any, run_directory: Path) -> None:
    """Load the last checkpoint of a complete run into ``model``, a vision transformer of timm: the averaged weights if
    the run has them, position embeddings resampled to the model's resolution. The head keeps its own initialisation.

    Raises RunError for a run whose last checkpoint is gone or damaged, or of another model.
    """
    from timm.models.vision_transformer import checkpoint_filter_fn

    saved = load_checkpoint(run_directory)
    if saved is None or saved["step"] != OmegaConf.load(run_directory / "config.yaml").train.steps:
        raise RunError(
            f"The last checkpoint of {run_directory}, from which training is to start, is gone or damaged: the command "
            "that made the run computes its end again."
        )
    kept = {name: value for name, value in evaluated_weights(saved).items() if not name.startswith("head.")}
    try:
        mismatch = model.load_state_dict(checkpoint_filter_fn(kept, model), strict=False)
        missing = [name for name in mismatch.missing_keys if not name.startswith("head.")]
        fault = (
            f"it lacks {missing}, and has {mismatch.unexpected_keys} over"
            if missing or mismatch.unexpected_keys
            else ""
        )
    except RuntimeError as error:  # tensors of other shapes
        fault = str(error)
    if fault:
        raise RunError(f"The run {run_directory}, from which training is to start, is of another model: {fault}.")
    for name, part in model.named_children():
        if name != "head":
            mark_pretrained(part)
