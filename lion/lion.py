"""The Lion optimizer: class, state, step, functional form."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT, _default_to_fused_or_foreach, _use_grad_for_differentiable

from lion.arithmetic import as_real
from lion.fused import _fused_lion, compile_kernels, takes_fused
from lion.plain import _multi_tensor_lion, _single_tensor_lion
from lion.settings import (
    LATER_SETTINGS,
    as_saved,
    check_back_end,
    check_capture,
    check_rows,
    check_settings,
    warn_of_low_precision,
)
from lion.state import match_compensation, momentum_dtype, register_exact_loading


class Lion(Optimizer):
    """Lion, EvoLved Sign Momentum (Chen et al. 2023, arXiv:2302.06675, Algorithm 2).

    One step with gradient g, momentum m (0 at first) and weight w, entry by entry and in this order::

        w = w * (1 - lr * weight_decay)
        w = w - lr * sign(beta1 * m + (1 - beta1) * g)
        m = beta2 * m + (1 - beta2) * g

    In float32 on a CPU the result is bit for bit that of google/automl's lion_pytorch.py
    (github.com/google/automl/blob/master/lion/lion_pytorch.py). There is no epsilon and no bias correction: the sign
    removes the scale.

    State: only `exp_avg`, the momentum, with the parameter's shape and layout. Its dtype is the parameter's, or float32
    for bfloat16 and float16 parameters, unless `momentum_dtype` is given. The step computes in float32 or better. With
    `kahan_sum`, bfloat16 and float16 parameters also have a `compensation` with their own shape, layout and dtype.

    Tuning (README of google/automl/lion; paper, section 5): compared with a tuned AdamW, use an lr 3 to 10 times
    smaller and a weight_decay 3 to 10 times larger, so that their product stays the same, and scale the schedule's end
    points with lr. If training is unstable, use betas (0.95, 0.98). Do not expect a gain over AdamW at batch sizes
    below 64.

    sign(nan) is 0: a NaN gradient freezes its weight permanently while the loss stays finite. `lion.measure_step`
    detects this.

    Args:
        params: tensors, (name, tensor) pairs, or dicts that define parameter groups, as in torch.optim.
        lr: learning rate; a 1-element tensor can be changed under torch.compile and, if on the GPU, in a CUDA graph.
        betas: (beta1, beta2), each in [0, 1).
        weight_decay: decoupled decay, multiplied by lr.
        momentum_dtype: floating dtype of `exp_avg`, or its name; the groups store the name. bfloat16, as in the paper,
            halves the state of float32 parameters.
        kahan_sum: keep the rounding error of bfloat16 and float16 parameters and add it back in the next step. Without
            it, a weight that is large relative to lr never moves (Zamirai et al. 2020, arXiv:2010.06192, section 4).
        cautious: zero the entries of the update whose sign differs from the gradient's and scale the others by
            size / (kept + 1) (Cautious Optimizers, arXiv:2411.16085; github.com/kyleliang919/C-Optim).
        maximize: maximize the objective instead of minimizing it.
        foreach: use multi-tensor kernels, at the cost of two temporary copies of the parameters. Where the fused kernel
            is not used, None chooses as torch.optim does.
        capturable: the step may be captured in a CUDA graph, after a first step outside the graph.
        differentiable: autograd may run through the step.
        fused: use a compiled kernel, see below. None uses it on CPUs and CUDA devices, unless another back end was
            requested. False uses the loop where `foreach` is None, as in torch.optim.

    Back ends; on a given device all produce the same bits:
        loop: PyTorch's operators, one tensor at a time. Supports every setting.
        foreach: the same operators on lists of tensors.
        fused: one kernel for all dense float32 and bfloat16 tensors, and the other back ends for the rest. The default.
            The constructor compiles it, in about a second with a C++ compiler or a few seconds with Triton on a GPU;
            later processes reuse it.

    Raises:
        ValueError: a setting is out of range or incompatible with another; the message quotes it.
        RuntimeError: in a step, for sparse gradients, for shapes that changed since the last step, for fused=True on a
            device that is neither a CPU nor a CUDA device, and for a CUDA graph that could not be replayed correctly.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        momentum_dtype: torch.dtype | str | None = None,
        kahan_sum: bool = False,
        cautious: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        defaults: dict[str, Any] = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "momentum_dtype": momentum_dtype,
            "kahan_sum": kahan_sum,
            "cautious": cautious,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
        }
        check_settings(defaults)
        super().__init__(params, as_saved(defaults))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as torch.optim does, and check its own settings as the constructor does."""
        check_settings(self.defaults | param_group)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group.update(as_saved(group))
        warn_of_low_precision(self.param_groups)
        choices = {name: group[name] for name in ("fused", "foreach", "differentiable", "cautious")}
        if takes_fused(group["params"], **choices):
            compile_kernels(group)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether torch.amp.GradScaler leaves it to the step to unscale gradients and to skip steps that overflowed.

        Callers such as Lightning take it to mean that fused=True was given, and then refuse to clip gradients.
        """
        return all(group["fused"] for group in self.param_groups)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore, with defaults for the settings that the version that saved it did not have."""
        super().__setstate__(state)
        for settings in (self.defaults, *self.param_groups):
            for name, default in LATER_SETTINGS.items():
                settings.setdefault(name, default)
            settings.update(as_saved(settings))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a copy of what a Lion saved, with each momentum exact, whatever its parameter's dtype.

        Raises:
            ValueError: another optimizer saved it, or its groups or shapes differ from this optimizer's.
        """
        hooks = register_exact_loading(self)
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def _init_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        exp_avgs: list[Tensor],
        compensations: list[Tensor | None],
    ) -> None:
        # torch.compile calls a method of this name and signature instead of tracing it.
        for param in group["params"]:
            grad = param.grad
            if grad is None:
                continue
            if grad.layout != torch.strided:
                raise RuntimeError(
                    f"Lion does not support sparse gradients, got layout {grad.layout} for a parameter of shape "
                    f"{tuple(param.shape)}: build the embedding with sparse=False, or make the gradient dense."
                )
            state = self.state[param]
            exp_avg = state.get("exp_avg")  # other code may store something in the state before the first step
            if exp_avg is None:
                dtype = momentum_dtype(param, group["momentum_dtype"])
                exp_avg = state["exp_avg"] = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
            if group["kahan_sum"] or "compensation" in state:
                match_compensation(param, state, group["kahan_sum"])
            params.append(param)
            grads.append(grad)
            exp_avgs.append(exp_avg)
            compensations.append(state.get("compensation"))

    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Perform one step. A closure is called first to recompute loss and gradients; its loss is returned."""
        if (
            not torch.compiler.is_compiling()
            and torch.cuda.is_initialized()
            and torch.cuda.is_current_stream_capturing()
        ):
            check_capture(self)

        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        for group in self.param_groups:
            params: list[Tensor] = []
            grads: list[Tensor] = []
            exp_avgs: list[Tensor] = []
            compensations: list[Tensor | None] = []
            self._init_group(group, params, grads, exp_avgs, compensations)
            beta1, beta2 = group["betas"]
            lion(
                params,
                grads,
                exp_avgs,
                compensations,
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                cautious=group["cautious"],
                maximize=group["maximize"],
                foreach=group["foreach"],
                capturable=group["capturable"],
                differentiable=group["differentiable"],
                fused=group["fused"],
                grad_scale=getattr(self, "grad_scale", None),
                found_inf=getattr(self, "found_inf", None),
            )
        return loss


def lion(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    compensations: list[Tensor | None] | None = None,
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    weight_decay: float,
    cautious: bool = False,
    maximize: bool = False,
    foreach: bool | None = None,
    capturable: bool = False,
    differentiable: bool = False,
    fused: bool | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Take one step: the functional form of `Lion`, which documents settings and errors.

    `grad_scale` and `found_inf` (both 1-element) are what torch.amp.GradScaler leaves to a fused step: the gradients
    are divided by `grad_scale`, in place, and nothing is done if `found_inf` is not 0.

    The lists have the same length. Parameters, momenta and compensations are updated in place; gradients are otherwise
    only read. At each index the tensors have the same shape, and all are complex if one is; devices and dtypes may be
    mixed. A compensation is the rounding error of a bfloat16 or float16 parameter. Call it under `torch.no_grad()`:
    while gradients are recorded, or torch.func transforms the step, the operators run instead of the kernel.

    Raises:
        ValueError: two settings are incompatible.
        RuntimeError: a gradient, momentum or compensation differs in shape from its parameter, or `fused=True` is
            given for a device that is neither a CPU nor a CUDA device.
    """
    check_back_end(lr, foreach, capturable, differentiable, cautious, fused)
    compensations = compensations or [None] * len(params)
    fused_here = takes_fused(params, fused=fused, foreach=foreach, differentiable=differentiable, cautious=cautious)
    if not fused_here and (grad_scale is not None or found_inf is not None):
        raise ValueError("grad_scale and found_inf are for the fused step: let GradScaler unscale the gradients.")
    if not fused_here:
        check_rows(params, grads, exp_avgs, compensations)
    if foreach is None and fused is not False and not fused_here:
        _, foreach = _default_to_fused_or_foreach(params, differentiable, use_fused=False)
        foreach = foreach and (capturable or not isinstance(lr, Tensor))
    if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
        foreach = False  # torch.func.vmap supports only the operators on single tensors

    if any(map(torch.is_complex, params)):
        params, grads, exp_avgs = ([as_real(tensor) for tensor in column] for column in (params, grads, exp_avgs))
    tensors = (params, grads, exp_avgs, compensations)
    settings: dict[str, Any] = {
        "lr": lr.squeeze() if isinstance(lr, Tensor) else lr,
        "beta1": beta1,
        "beta2": beta2,
        "weight_decay": weight_decay,
        "maximize": maximize,
    }
    if fused_here:
        _fused_lion(*tensors, **settings, fused=fused, grad_scale=grad_scale, found_inf=found_inf)
    elif foreach:
        _multi_tensor_lion(*tensors, **settings, cautious=cautious)
    else:
        _single_tensor_lion(*tensors, **settings, cautious=cautious)
