"""Lion's state: the dtype of the momentum, and how state dicts are checked and loaded."""

from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lion.arithmetic import LOW_PRECISION

SETTINGS_OF_ALL = {"lr", "betas", "weight_decay"}
SETTINGS_OF_OURS = {"momentum_dtype", "kahan_sum", "cautious"}

# What other optimizers keep with or instead of a first moment: Adam variants, SGD and Muon, Adamax, AdaBelief, Sophia.
STATE_OF_OTHERS = {"exp_avg_sq", "momentum_buffer", "exp_inf", "exp_avg_var", "hessian"}


def momentum_dtype(param: Tensor, requested: str | None) -> torch.dtype:
    """Dtype of a parameter's momentum: as requested, else the parameter's own, but at least float32."""
    if requested is None:
        return torch.promote_types(param.dtype, torch.float32)
    if param.is_complex():
        raise ValueError(f"momentum_dtype={requested} does not work for complex parameters ({param.dtype}): use None.")
    dtype: torch.dtype = getattr(torch, requested)
    return dtype


def match_compensation(param: Tensor, state: dict[str, Any], kahan_sum: bool) -> None:
    """Create the compensation of a low-precision parameter; once the parameter has been cast up, add it and drop it."""
    if param.dtype in LOW_PRECISION:
        if kahan_sum and "compensation" not in state:
            state["compensation"] = torch.zeros_like(param, memory_format=torch.preserve_format)
    elif "compensation" in state:
        with torch.no_grad():
            param.add_(state.pop("compensation"))


def register_exact_loading(optimizer: torch.optim.Optimizer) -> tuple[RemovableHandle, RemovableHandle]:
    """Make the next `load_state_dict` reject another optimizer's state and restore Lion's state bit for bit.

    On its own, `Optimizer.load_state_dict` casts the momentum to the parameter's dtype, which loses bits of the float32
    momentum of bfloat16 parameters, and shares memory with the state dict wherever no cast is needed. The two hooks run
    after the user's pre-hooks, which may rewrite the state dict, and before the user's post-hooks, which may read the
    state.

    Raises:
        ValueError: when loading, if another optimizer wrote the state dict or the shape of a saved momentum differs
            from its parameter's.
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
    """Raise ValueError if another optimizer wrote this: its lr and betas would silently be used.

    Extra entries are accepted, such as a wrapper's copies of the weights or a user's own settings.
    """
    for index, group in enumerate(state_dict["param_groups"]):
        if missing := SETTINGS_OF_ALL - group.keys():
            _refuse(f"param group {index} lacks {sorted(missing)}")
        # All optimizers of torch.optim that have betas also have eps.
        if "eps" in group and SETTINGS_OF_OURS.isdisjoint(group):
            _refuse(f"param group {index} has 'eps'")
        states = {key: state_dict["state"].get(key, {}) for key in group["params"]}
        for key, state in states.items():
            if foreign := STATE_OF_OTHERS & state.keys():
                _refuse(f"the state of parameter {key} has {sorted(foreign)}")
            if state and "exp_avg" not in state and SETTINGS_OF_OURS.isdisjoint(group):
                _refuse(f"the state of parameter {key} has no 'exp_avg'")


def _refuse(reason: str) -> NoReturn:
    raise ValueError(
        f"This is not the state dict of a Lion: {reason}. Load it into the optimizer that wrote it, or start Lion "
        "without it."
    )


def _restore(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    for group, saved_group in zip(optimizer.param_groups, state_dict["param_groups"], strict=True):
        for param, saved_id in zip(group["params"], saved_group["params"], strict=True):
            state = state_dict["state"].get(saved_id, {})
            for name in state.keys() & {"exp_avg", "compensation"}:
                saved = state[name]
                if saved.shape != param.shape:
                    raise ValueError(
                        f"The state dict holds {name} of shape {tuple(saved.shape)} for parameter {saved_id}, which "
                        f"has shape {tuple(param.shape)}: build the optimizer with its parameters in the saved order."
                    )
                exact = saved.dtype if name == "compensation" else momentum_dtype(param, group["momentum_dtype"])
                optimizer.state[param][name] = saved.to(device=param.device, dtype=exact, copy=True)
