"""Lion's state: the dtype of the momentum, and how the state comes out of a state dict."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle


def momentum_dtype(param: Tensor, requested: torch.dtype | None) -> torch.dtype:
    """Dtype of a parameter's momentum: as requested, else the parameter's own, but no less than float32."""
    if requested is None:
        return torch.promote_types(param.dtype, torch.float32)
    if param.is_complex():
        raise ValueError(f"momentum_dtype={requested} is not for complex parameters ({param.dtype}): leave it None.")
    return requested


def register_exact_loading(optimizer: torch.optim.Optimizer) -> tuple[RemovableHandle, RemovableHandle]:
    """Let the next `load_state_dict` refuse foreign state and take over the state bit for bit.

    By itself, `Optimizer.load_state_dict` casts the momentum to the parameter's dtype, which drops bits of a float32
    momentum of bfloat16 parameters, and shares memory with the state dict wherever it need not cast. The two hooks run
    after the user's pre-hooks, which may rewrite the state dict, and before the user's post-hooks, which may read the
    state.

    Raises:
        ValueError: when loading, if another optimizer wrote the state dict or a saved momentum has another shape than
            its parameter.
    """
    loaded: dict[str, Any] = {}

    def check_and_keep(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
        _check_written_by_lion(state_dict)
        loaded.update(state_dict)

    return (
        optimizer.register_load_state_dict_pre_hook(check_and_keep),
        optimizer.register_load_state_dict_post_hook(lambda _: _restore(optimizer, loaded), prepend=True),
    )


def _check_written_by_lion(state_dict: dict[str, Any]) -> None:
    """Raise ValueError if another optimizer wrote this: its lr and betas would be taken over without a word."""
    way_out = "Load it into the optimizer that wrote it, or start Lion without it."
    for index, group in enumerate(state_dict["param_groups"]):
        # All of torch.optim's optimizers that have betas have eps as well.
        missing = {"lr", "betas", "weight_decay"} - group.keys()
        if missing or "eps" in group:
            reason = f"lacks {sorted(missing)}" if missing else "has 'eps'"
            raise ValueError(f"This is not the state dict of a Lion: param group {index} {reason}. {way_out}")
    for key, state in state_dict["state"].items():
        if foreign := state.keys() - {"exp_avg", "compensation"}:
            raise ValueError(
                f"This is not the state dict of a Lion: the state of parameter {key} has {sorted(foreign)}. {way_out}"
            )


def _restore(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    for group, saved_group in zip(optimizer.param_groups, state_dict["param_groups"], strict=True):
        for param, saved_id in zip(group["params"], saved_group["params"], strict=True):
            for name, saved in state_dict["state"].get(saved_id, {}).items():
                if saved.shape != param.shape:
                    raise ValueError(
                        f"The state dict holds {name} of shape {tuple(saved.shape)} for parameter {saved_id}, which "
                        f"has shape {tuple(param.shape)}: build the optimizer with the parameters in the order saved."
                    )
                dtype = momentum_dtype(param, group["momentum_dtype"]) if name == "exp_avg" else param.dtype
                optimizer.state[param][name] = saved.to(device=param.device, dtype=dtype, copy=True)
