"""The update by PyTorch's operators, one tensor or a list of tensors at a time."""

import torch
from torch import Tensor

from lion.arithmetic import arithmetic_dtype


def _single_tensor_lion(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    compensations: list[Tensor | None],
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    weight_decay: float,
    cautious: bool,
    maximize: bool,
) -> None:
    for param, grad, exp_avg, compensation in zip(params, grads, exp_avgs, compensations, strict=True):
        dtype = arithmetic_dtype(param, exp_avg)
        p, g, m = param.to(dtype), grad.to(dtype), exp_avg.to(dtype)  # copies only in low precision
        if compensation is not None:
            p.add_(compensation)
        if maximize:
            g = -g

        if weight_decay != 0:
            p.mul_(1 - lr * weight_decay)
        # addcmul by 1 rounds the product before adding it, like google/automl's code and unlike add_(g, alpha).
        # Adding g * (1 - beta1) would round the same way, but its second temporary more than doubles the time on a CPU.
        update = (m * beta1).addcmul_(g, p.new_ones(()), value=1 - beta1).sign_()
        if cautious:
            _drop_disagreeing_entries_(update, g)
        if isinstance(lr, Tensor):
            p.sub_(update * lr)
        else:
            p.add_(update, alpha=-lr)
        del update  # so that the next one can reuse its memory
        m.mul_(beta2).add_(g, alpha=1 - beta2)

        if param.dtype != dtype:
            param.copy_(p)
        if compensation is not None:
            compensation.copy_(p - param)  # not in place: for float32 p is the parameter itself
        if exp_avg.dtype != dtype:
            exp_avg.copy_(m)


def _multi_tensor_lion(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    compensations: list[Tensor | None],
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    weight_decay: float,
    cautious: bool,
    maximize: bool,
) -> None:
    # One call takes tensors of one device and dtype. torch's own grouping needs the momentum in the parameter's dtype.
    groups: dict[tuple[object, ...], list[tuple[Tensor, Tensor, Tensor, Tensor | None]]] = {}
    for tensors in zip(params, grads, exp_avgs, compensations, strict=True):
        *operands, compensation = tensors
        key = (tensors[0].device, *(tensor.dtype for tensor in operands), compensation is None)
        groups.setdefault(key, []).append(tensors)

    for group in groups.values():
        group_params, group_grads, group_exp_avgs, group_compensations = map(list, zip(*group, strict=True))
        dtype = arithmetic_dtype(group_params[0], group_exp_avgs[0])
        ps, gs, ms = ([tensor.to(dtype) for tensor in column] for column in (group_params, group_grads, group_exp_avgs))
        compensated = group_compensations[0] is not None
        if compensated:
            torch._foreach_add_(ps, group_compensations)
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
        if compensated:
            torch._foreach_copy_(group_compensations, torch._foreach_sub(ps, group_params))


def _drop_disagreeing_entries_(update: Tensor, grad: Tensor) -> None:
    mask = update * grad > 0
    update.mul_(mask).mul_(mask.numel() / (mask.sum() + 1))
