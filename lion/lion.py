"""The Lion optimizer: class, state, step, functional form, then the loop and the foreach back end."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT, _default_to_fused_or_foreach, _use_grad_for_differentiable

from lion.arithmetic import arithmetic_dtype, as_real
from lion.settings import LATER_SETTINGS, check_back_end, check_capture, check_settings, warn_of_low_precision
from lion.state import momentum_dtype, register_exact_loading


class Lion(Optimizer):
    """Lion, EvoLved Sign Momentum (Chen et al. 2023, arXiv:2302.06675, Algorithm 2).

    One step with gradient g, momentum m (0 at first) and weight w, entry by entry and in this order::

        w = w * (1 - lr * weight_decay)
        w = w - lr * sign(beta1 * m + (1 - beta1) * g)
        m = beta2 * m + (1 - beta2) * g

    In float32 on a CPU every bit is that of github.com/google/automl/blob/master/lion/lion_pytorch.py. There is no
    epsilon and no bias correction: the sign removes the scale.

    State: `exp_avg` alone, the momentum, of the parameter's shape and layout. Its dtype is the parameter's, or float32
    for bfloat16 and float16 parameters, unless `momentum_dtype` is given. The step computes in float32 or better.

    Tuning (README of google/automl/lion; paper, section 5): against a tuned AdamW, lr 3 to 10 times smaller and
    weight_decay 3 to 10 times larger, so that their product stays, and the schedule's end points scaled with lr. If
    training is unstable, betas (0.95, 0.98). Below a batch size of 64 no gain over AdamW is to be expected.

    sign(nan) is 0: a NaN gradient freezes its weight for ever and the loss stays finite. `lion.measure_step` shows it.

    Args:
        params: tensors, (name, tensor) pairs, or dicts that define parameter groups, as torch.optim takes them.
        lr: learning rate; as a 1-element tensor it may change under torch.compile and, on the GPU, in a CUDA graph.
        betas: (beta1, beta2), each in [0, 1).
        weight_decay: decoupled decay, multiplied by lr.
        momentum_dtype: floating dtype of `exp_avg`; bfloat16, as in the paper, halves the state of float32 parameters.
        cautious: drop the entries of the update whose sign is not the gradient's and scale the others by
            size / (kept + 1) (Cautious Optimizers, arXiv:2411.16085; github.com/kyleliang919/C-Optim).
        maximize: ascend.
        foreach: multi-tensor kernels, faster on a GPU, for two temporary copies of the parameters. None chooses as
            torch.optim does: where all parameters are plain tensors on a GPU.
        capturable: may be captured in a CUDA graph, after a first step outside of it.
        differentiable: autograd may run through the step.
        fused: True is not available; False chooses the loop where `foreach` is None, as in torch.optim.

    Raises:
        ValueError: a setting is out of range, or excluded by another; the message quotes it.
        NotImplementedError: `fused=True`.
        RuntimeError: at the step, for sparse gradients and for CUDA graphs that could not be replayed rightly.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        momentum_dtype: torch.dtype | None = None,
        cautious: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "momentum_dtype": momentum_dtype,
            "cautious": cautious,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
        }
        check_settings(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as torch.optim does, its own settings checked like the constructor's."""
        check_settings(self.defaults | param_group)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group["betas"] = tuple(group["betas"])  # a config library's list type must not end up in checkpoints
        warn_of_low_precision(self.param_groups)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore; what an older version saved gets the settings that came later."""
        super().__setstate__(state)
        for settings in (self.defaults, *self.param_groups):
            for name, default in LATER_SETTINGS.items():
                settings.setdefault(name, default)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load and copy what a Lion saved, each momentum exact, whatever its parameter's dtype.

        Raises:
            ValueError: another optimizer saved it, or its groups or shapes are not those of this one.
        """
        hooks = register_exact_loading(self)
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def _init_group(
        self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor]
    ) -> None:
        # torch.compile calls a method of this name and kind instead of tracing it.
        for param in group["params"]:
            if param.grad is None:
                continue
            if param.grad.layout != torch.strided:
                raise RuntimeError(
                    f"Lion does not support sparse gradients, got layout {param.grad.layout} for a parameter of shape "
                    f"{tuple(param.shape)}: build the embedding with sparse=False, or make the gradient dense."
                )
            state = self.state[param]
            if not state:
                dtype = momentum_dtype(param, group["momentum_dtype"])
                state["exp_avg"] = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
            params.append(param)
            grads.append(param.grad)
            exp_avgs.append(state["exp_avg"])

    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Perform one step; a closure computes loss and gradients anew before it, and its loss is returned."""
        if not torch.compiler.is_compiling() and torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            check_capture(self)

        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        for group in self.param_groups:
            params: list[Tensor] = []
            grads: list[Tensor] = []
            exp_avgs: list[Tensor] = []
            self._init_group(group, params, grads, exp_avgs)
            beta1, beta2 = group["betas"]
            lion(
                params,
                grads,
                exp_avgs,
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
            )
        return loss


def lion(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
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
) -> None:
    """Take one step: the functional form of `Lion`, which documents settings and errors.

    The three lists are equally long. Parameters and momenta are updated in place, gradients only read; at each index
    the three have one shape, and all are complex if one is; devices and dtypes may be mixed. Call it under
    `torch.no_grad()`, unless the step itself is to be differentiated.
    """
    if foreach is None and fused is None:
        _, foreach = _default_to_fused_or_foreach(params, differentiable, use_fused=False)
        foreach = foreach and (capturable or not isinstance(lr, Tensor))
    check_back_end(lr, foreach, capturable, differentiable, fused)

    step_function = _multi_tensor_lion if foreach else _single_tensor_lion
    step_function(
        [as_real(param) for param in params],
        [as_real(grad) for grad in grads],
        [as_real(exp_avg) for exp_avg in exp_avgs],
        lr=lr.squeeze() if isinstance(lr, Tensor) else lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=weight_decay,
        cautious=cautious,
        maximize=maximize,
    )


def _single_tensor_lion(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    weight_decay: float,
    cautious: bool,
    maximize: bool,
) -> None:
    for param, grad, exp_avg in zip(params, grads, exp_avgs, strict=True):
        dtype = arithmetic_dtype(param, exp_avg)
        p, g, m = param.to(dtype), grad.to(dtype), exp_avg.to(dtype)  # no copies unless in low precision
        if maximize:
            g = -g

        if weight_decay != 0:
            p.mul_(1 - lr * weight_decay)
        # addcmul by 1 rounds the product before adding it, as google/automl's code does and add_(g, alpha) does not.
        # Adding g * (1 - beta1) would round alike, but its second temporary more than doubles the time on a CPU.
        update = (m * beta1).addcmul_(g, p.new_ones(()), value=1 - beta1).sign_()
        if cautious:
            _drop_disagreeing_entries_(update, g)
        if isinstance(lr, Tensor):
            p.sub_(update * lr)
        else:
            p.add_(update, alpha=-lr)
        del update  # so that the next one can take its memory
        m.mul_(beta2).add_(g, alpha=1 - beta2)

        if param.dtype != dtype:
            param.copy_(p)
        if exp_avg.dtype != dtype:
            exp_avg.copy_(m)


def _multi_tensor_lion(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    weight_decay: float,
    cautious: bool,
    maximize: bool,
) -> None:
    # One call takes tensors of one device and dtype. torch's own grouping wants the momentum in the parameter's dtype.
    groups: dict[tuple[object, ...], list[tuple[Tensor, Tensor, Tensor]]] = {}
    for tensors in zip(params, grads, exp_avgs, strict=True):
        groups.setdefault((tensors[0].device, *(tensor.dtype for tensor in tensors)), []).append(tensors)

    for group in groups.values():
        group_params, group_grads, group_exp_avgs = (list(column) for column in zip(*group, strict=True))
        dtype = arithmetic_dtype(group_params[0], group_exp_avgs[0])
        ps, gs, ms = ([tensor.to(dtype) for tensor in column] for column in (group_params, group_grads, group_exp_avgs))
        if maximize:
            gs = list(torch._foreach_neg(gs))

        if weight_decay != 0:
            torch._foreach_mul_(ps, 1 - lr * weight_decay)
        updates = torch._foreach_mul(ms, beta1)
        torch._foreach_add_(updates, torch._foreach_mul(gs, 1 - beta1))
        torch._foreach_sign_(updates)
        if cautious:
            for update, g in zip(updates, gs, strict=True):
                _drop_disagreeing_entries_(update, g)
        if isinstance(lr, Tensor):
            torch._foreach_mul_(updates, lr)
            torch._foreach_sub_(ps, updates)
        else:
            torch._foreach_add_(ps, updates, alpha=-lr)
        torch._foreach_mul_(ms, beta2)
        torch._foreach_add_(ms, gs, alpha=1 - beta2)

        for low, high in zip(group_params + group_exp_avgs, ps + ms, strict=True):
            if low.dtype != dtype:
                low.copy_(high)


def _drop_disagreeing_entries_(update: Tensor, grad: Tensor) -> None:
    mask = update * grad > 0
    update.mul_(mask).mul_(mask.numel() / (mask.sum() + 1))
