"""Optimizers with quantized state, from bitsandbytes and torchao: whether they can run, and their state in checkpoints.

torch is imported only by functions that need it, because a config is checked without it.
"""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from experiments.harness.errors import ConfigError, refused_as

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.optim import Optimizer

PACKAGES = ("bitsandbytes", "torchao")
QUANTIZED_FROM = 4096
"""Entries from which both packages quantize the state of a tensor (bitsandbytes' ``min_8bit_size``; torchao's
``_new_buffer``, which also needs a multiple of the block size). Smaller tensors have float32 state."""
FP8_FROM = (8, 9)
"""Compute capability from which Triton, into which PyTorch compiles torchao's step, converts to float8_e4m3fn."""
NO_PAGES = (
    "whose state moves in pages between GPU and host memory. On a CPU, bitsandbytes silently runs the same optimizer "
    "without pages: choose that one, or set run.device to cuda."
)


def check_low_bit(plain: Mapping[str, Any]) -> None:
    """Raise ConfigError for a resolved config whose optimizer is of PACKAGES and cannot run as configured."""
    optimizer, run = plain["optimizer"], plain["run"]
    target = str(optimizer.get("_target_"))
    package = target.partition(".")[0]
    if package not in PACKAGES:
        return
    # On import, bitsandbytes warns of a missing kernel for 4-bit weights, and torch of an enumeration in torchao that a
    # later torch will not accept; nothing here uses either.
    for noisy in ("bitsandbytes.backends.cpu.ops", "torch.utils._pytree"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    what = f"optimizer={optimizer.get('name')} is {target}"
    if find_spec(package) is None:
        raise ConfigError(
            f"{what}, but {package} is not installed: run `{sys.executable} -m pip install -c constraints.txt -e "
            "'.[lowbit]'` in the checkout, or choose another optimizer."
        )
    if run["shards"] > 1:
        raise ConfigError(
            f"{what}, which quantizes the state of whole tensors, but run.shards={run['shards']} gives each process a "
            "part of them: set run.shards to 1, or choose another optimizer."
        )
    if run["device"] == "cpu" and ("Paged" in target or optimizer.get("is_paged")):
        raise ConfigError(f"{what}, {NO_PAGES}")


def prepare_low_bit(
    optimizer: "Optimizer",
    name: str,
    make: Callable[[list[dict[str, Any]]], "Optimizer"],
    groups: Sequence[Mapping[str, Any]],
) -> None:
    """Prepare an optimizer that ``make`` has just made from ``groups``, if it is of PACKAGES. Raises ConfigError if it
    cannot take a step on the device of its parameters with the installed torch.
    """
    import torch

    package = type(optimizer).__module__.partition(".")[0]
    if package not in PACKAGES:
        return
    parameters = [parameter for group in groups for parameter in group["params"]]
    device = parameters[0].device
    if package == "bitsandbytes":
        if optimizer.is_paged and device.type == "cpu":  # type: ignore[attr-defined]
            raise ConfigError(f"optimizer={name} is bitsandbytes.optim.{type(optimizer).__name__}, {NO_PAGES}")
        if device.type == "meta":  # which has no pages either; they would take the same bytes
            optimizer.is_paged = False  # type: ignore[attr-defined]
        for parameter in parameters:  # as its first step does, so that a resumed run starts with the same layout
            parameter.data = parameter.data.contiguous()

    where = _device_words(device, type(optimizer).__name__)
    with refused_as(f"optimizer={name} cannot take a step on this {where} with torch {torch.__version__}"):
        compiles = package == "torchao" and device.type not in ("cpu", "meta")
        trial = make([{**group, "params": _stand_ins(group["params"], compiles)} for group in groups])
        for each in (optimizer, trial):
            if package == "torchao" and not compiles:
                # Compiling takes 5 to 60 s per shape on a core, and the code can be wrong: see compile_and_warm_up.
                each.step = torch.compiler.set_stance("force_eager")(each.step)  # type: ignore[method-assign]
        trial.step()


def _device_words(device: "torch.device", kind: str) -> str:
    """``cpu``, or ``cuda``; for a ``kind`` with fp8 state on an older GPU, also what such a GPU lacks."""
    import torch

    if device.type == "cuda" and "Fp8" in kind and (own := torch.cuda.get_device_capability(device)) < FP8_FROM:
        own_words, needed = ("{}.{}".format(*each) for each in (own, FP8_FROM))
        return f"cuda of compute capability {own_words} (Triton converts to float8_e4m3fn from {needed} on)"
    return device.type


def _stand_ins(parameters: Sequence["Tensor"], every_shape: bool) -> list["Tensor"]:
    """New tensors with a gradient of zeros: one, or one of every layout and dtype, to compile code for all of them."""
    import torch

    if every_shape:
        stand_ins = [*{(each.shape, each.stride(), each.dtype): torch.zeros_like(each) for each in parameters}.values()]
    else:
        stand_ins = [torch.zeros(QUANTIZED_FROM, dtype=each.dtype, device=each.device) for each in parameters[:1]]
    for each in stand_ins:
        each.grad = torch.zeros_like(each)
    return stand_ins


def saved_state(optimizer: "Optimizer") -> dict[str, Any]:
    """``optimizer.state_dict()`` in plain tensors: instead of a tensor subclass, such as torchao's quantized state, the
    tensors inside it and what it takes to rebuild it, so that a checkpoint can be read without torchao.
    """
    from torch.utils._pytree import tree_map

    saved = optimizer.state_dict()
    return {**saved, "state": tree_map(_flattened, saved["state"])}


def load_saved_state(optimizer: "Optimizer", saved: Mapping[str, Any]) -> None:
    """Restore what ``saved_state`` gave."""
    from torch.utils._pytree import tree_map

    optimizer.load_state_dict({**saved, "state": tree_map(_rebuilt, saved["state"], is_leaf=_is_flattened)})
    if type(optimizer).__module__.partition(".")[0] == "bitsandbytes":
        _restore_memory(optimizer)


def _flattened(value: Any) -> Any:
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    if not is_traceable_wrapper_subclass(value) or hasattr(value, "full_tensor"):  # shards have files of their own
        return value
    names, context = value.__tensor_flatten__()
    tensors = {name: getattr(value, name) for name in names}
    return {"subclass": _qualified(type(value)), "context": context, "tensors": tensors}


def _is_flattened(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"subclass", "context", "tensors"}


def _rebuilt(value: Any) -> Any:
    import torch

    if not _is_flattened(value):
        return value
    # Only what its package has declared safe to load; the optimizer, which exists already, has imported it.
    declared = torch.serialization.get_safe_globals()
    safe: dict[str, Any] = {_qualified(each): each for each in declared if isinstance(each, type)}
    return safe[value["subclass"]].__tensor_unflatten__(value["tensors"], value["context"], None, None)


def _qualified(subclass: type) -> str:
    return f"{subclass.__module__}.{subclass.__qualname__}"


def _restore_memory(optimizer: Any) -> None:
    """Undo bitsandbytes' ``load_state_dict``, which gives each tensor its own code books, and state without pages."""
    for group_number, group in enumerate(optimizer.param_groups):
        for number, parameter in enumerate(group["params"]):
            if loaded := optimizer.state.pop(parameter, None):
                optimizer.init_state(group, parameter, group_number, number)
                state = optimizer.state[parameter]
                for name, value in loaded.items():
                    if name.startswith(("state", "absmax")):
                        state[name].copy_(value)
                    elif not name.startswith("qmap"):
                        state[name] = value
