"""The checks of `lion.doctor`. Each yields its findings: a fault for wrong behaviour, a note for a design choice."""

import copy
import inspect
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lion.doctor_rule import MISTAKES
from lion.doctor_trial import SETTINGS, Make, Problem, Trial, clone, random_problem, same, share_off_the_rule

EXACT, QUANTISED = 1e-4, 0.04
"""Largest share of updates that may differ from the rule's: in float32, and with 8-bit momentum."""


@dataclass(frozen=True)
class Finding:
    """One sentence, and whether it is a fault; otherwise it is a note."""

    sentence: str
    is_fault: bool = True


Check = Callable[[Make, float], Iterator[Finding]]


def check_rule(make: Make, allowed: float) -> Iterator[Finding]:
    """The order of decay and update, the roles of the two betas, various shapes, and many steps."""
    problems = [
        random_problem(),
        random_problem(betas=(0.5, 0.75)),
        random_problem(betas=(0.95, 0.98), weight_decay=0.0),
        random_problem(shapes=((41,),), steps=300, lr=2**-9),
    ]
    for problem in problems:
        trial = Trial(make, problem).run()
        share = share_off_the_rule(trial)
        if share <= allowed:
            continue
        for mistake in MISTAKES:
            if share_off_the_rule(trial, mistake) <= min(allowed, share / 4):
                yield Finding(mistake)
                return
        settings = ", ".join(f"{name} {value}" for name, value in problem.settings[0].items())
        yield Finding(f"{share:.2%} of its updates differ from Lion's rule (float32, {settings}).")
        return


def check_numbers(make: Make, allowed: float) -> Iterator[Finding]:
    """Gradients of zero, very small, very large, infinite and NaN."""
    names = ["0", "-0", "1e-30", "-1e30", "inf", "-inf", "nan", "1"]
    gradient = torch.tensor([float(name) for name in names])
    problem = Problem([torch.ones(8)], [[gradient]], [{"lr": 0.25, "betas": (0.9, 0.99), "weight_decay": 0.0}])
    moved = (Trial(make, problem).run().params[0].detach() - 1).tolist()
    for name, expected, actual in zip(names, (0, 0, -0.25, 0.25, -0.25, 0.25, None, -0.25), moved, strict=True):
        if expected is None:
            meaning = "does not change, so the NaN is never visible in it" if actual == 0 else f"changes by {actual}"
            yield Finding(f"A weight whose gradient is NaN {meaning}.", is_fault=False)
        elif not abs(actual - expected) < 1e-6:
            yield Finding(f"With lr 0.25, a gradient of {name} changes a weight by {actual} instead of {expected}.")


def check_schedules(make: Make, allowed: float) -> Iterator[Finding]:
    """Settings that change between steps, as schedulers change them in a parameter group."""
    changes: dict[str, list[Any]] = {
        "lr": [2**-4, 2**-5, 0.0, 0.0, 2**-6, 2**-3],
        "weight_decay": [0.5, 0.0, 0.25, 1.0, 0.0, 0.5],
        "betas": [(0.9, 0.99), (0.5, 0.75), (0.0, 0.5), (0.9, 0.5), (0.95, 0.98), (0.5, 0.99)],
    }
    for name, values in changes.items():
        problem = random_problem(steps=len(values))
        problem = replace(problem, settings=[SETTINGS | {name: value} for value in values])
        if name not in Trial(make, problem).optimizer.param_groups[0]:
            yield Finding(f"Its groups have no {name}, so a scheduler cannot change {name}.", is_fault=False)
            continue
        if share_off_the_rule(Trial(make, problem).run()) > allowed:
            yield Finding(f"Its steps differ from Lion's rule when {name} changes in its group.")


def check_groups(make: Make, allowed: float) -> Iterator[Finding]:
    """Two parameter groups, together or with one added later, step like two separate optimizers."""
    changes: dict[str, Any] = {"lr": 2**-6, "weight_decay": 0.0, "betas": (0.5, 0.75)}
    known = make([Parameter(torch.ones(1))], **SETTINGS).param_groups[0]
    for name, value in changes.items():
        for later in (False, True) if name in known else ():
            problems = random_problem(((70, 3), (9,))), random_problem(((5,), (4, 4)), **{name: value})
            alone = [Trial(make, problems[0]).run(), Trial(make, problems[1]).run(range(2 if later else 0, 12))]
            params = [[Parameter(clone(start)) for start in problem.starts] for problem in problems]
            groups = [{"params": params[group], **problems[group].settings[0]} for group in (0, 1)]
            optimizer = make(groups[:1] if later else groups, **SETTINGS)
            for index in range(12):
                if later and index == 2:
                    optimizer.add_param_group(groups[1])
                for of_group, problem in zip(params, problems, strict=True):
                    for param, gradient in zip(of_group, problem.gradients[index], strict=True):
                        param.grad = None if gradient is None else clone(gradient)
                optimizer.step()
            expected = [param for trial in alone for param in trial.params]
            if any((a - b).abs().max() > 1e-5 for a, b in zip(params[0] + params[1], expected, strict=True)):
                added = ", one of them added later," if later else ""
                yield Finding(f"Parameter groups with different {name}{added} do not step like separate optimizers.")
                break


def check_idle(make: Make, allowed: float) -> Iterator[Finding]:
    """A parameter without a gradient keeps its weight and momentum."""
    problem = random_problem(shapes=((8, 8), (5000,)), steps=6)
    problem.gradients[0][1] = problem.gradients[3][1] = problem.gradients[4][1] = None
    if share_off_the_rule(Trial(make, problem).run()) > allowed:
        yield Finding("A parameter that has no gradient in some steps does not keep its weight and momentum in them.")


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed {}": lambda tensor: tensor.t().contiguous().t(),
    "{} with gaps between its entries": lambda tensor: torch.stack([tensor, -tensor], -1)[..., 0],
}


def check_layouts(make: Make, allowed: float) -> Iterator[Finding]:
    """Tensors that are not contiguous in memory."""
    problem = random_problem(shapes=((80, 70),))
    plain = Trial(make, problem).run()
    for words, lay_out in LAYOUTS.items():
        for of_what in ("parameter", "gradient"):
            other = copy.copy(problem)
            if of_what == "parameter":
                other.starts = [lay_out(start) for start in problem.starts]
            else:
                other.gradients = [[lay_out(g) for g in step if g is not None] for step in problem.gradients]
            if allowed == EXACT and not same(Trial(make, other).run(), plain):
                yield Finding(f"It misreads a {words.format(of_what)}.")


def check_gradients(make: Make, allowed: float) -> Iterator[Finding]:
    """The step does not change the gradients."""
    problem = random_problem()
    trial = Trial(make, problem).run()
    for param, gradient in zip(trial.params, problem.gradients[-1], strict=True):
        if param.grad is None or gradient is None or not torch.equal(param.grad, gradient):
            yield Finding("It writes to the gradients.")
            return


def check_closure(make: Make, allowed: float) -> Iterator[Finding]:
    """A closure is called once, with gradients recorded, and its loss is returned."""
    param = Parameter(torch.ones(3))
    optimizer = make([param], **SETTINGS)
    calls = []

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        param.sum().backward()
        return 7.0

    if optimizer.step(closure) != 7.0 or calls != [True]:
        yield Finding("It does not call a closure exactly once, with gradients recorded, and return its loss.")


def check_low_precision(make: Make, allowed: float) -> Iterator[Finding]:
    """Updates of bfloat16 and float16 weights, and the dtype of their momentum."""
    for dtype, tolerance in ((torch.bfloat16, 2**-6), (torch.float16, 2**-9)):
        problem = random_problem(shapes=((4000,),), dtype=dtype, magnitudes=2)
        try:
            trial = Trial(make, problem).run()
        except Exception as error:
            yield Finding(f"It does not support {dtype} parameters: {_first_line(error)}.", is_fault=False)
            continue
        share = share_off_the_rule(trial, tolerance=tolerance)
        if share > 1e-4:
            yield Finding(
                f"For {dtype} weights, {share:.2%} of the updates differ from Lion's rule.", is_fault=share > 0.02
            )
        kept = {value.dtype for value in _tensors_of(trial)}
        if dtype in kept:
            yield Finding(
                f"It keeps the momentum of {dtype} weights in {dtype}, which loses small gradients.", is_fault=False
            )


def check_loading(make: Make, allowed: float) -> Iterator[Finding]:
    """Training continues after saving and loading as it would have without, and the state keeps its dtype."""
    for dtype in (torch.float32, torch.bfloat16):
        problem = random_problem(shapes=((33, 17), (5000,)), dtype=dtype)

        def reload(trial: Trial, index: int) -> None:
            if index == 6:
                file = io.BytesIO()
                torch.save(trial.optimizer.state_dict(), file)
                file.seek(0)
                trial.optimizer = make(trial.params, **SETTINGS | {"lr": 1.0, "weight_decay": 0.0})
                trial.optimizer.load_state_dict(torch.load(file, weights_only=False))

        try:
            plain = Trial(make, problem).run()
        except Exception:  # unknown optimizers may raise anything
            continue  # check_low_precision has reported it
        reloaded = Trial(make, problem).run(between=reload)
        if [value.dtype for value in _tensors_of(plain)] != [value.dtype for value in _tensors_of(reloaded)]:
            yield Finding(f"Loading its own state dict changes the dtype of the state of {dtype} weights.")
        elif not all(map(torch.equal, plain.params, reloaded.params)):
            yield Finding(
                f"After saving and loading, training of {dtype} weights does not continue as it would have without."
            )
        trial = Trial(make, problem)
        state_dict = trial.optimizer.state_dict()
        other = make(trial.params, lr=1.0, betas=(0.5, 0.5), weight_decay=0.1)
        other.load_state_dict(state_dict)
        for name in SETTINGS.keys() & other.param_groups[0].keys():
            if torch.tensor(other.param_groups[0][name]).ne(torch.tensor(SETTINGS[name])).any():
                yield Finding(f"Loading its own state dict does not restore {name}.")


def check_copies(make: Make, allowed: float) -> Iterator[Finding]:
    """A deep copy of model and optimizer continues training as the original does."""

    def copied(trial: Trial, index: int) -> None:
        if index == 6:
            trial.optimizer, trial.params = copy.deepcopy((trial.optimizer, trial.params))

    problem = random_problem()
    trials = Trial(make, problem).run(), Trial(make, problem).run(between=copied)
    if not all(map(torch.equal, trials[0].params, trials[1].params)):
        yield Finding("A deep copy of it and the parameters does not continue as the original does.")


def check_back_ends(make: Make, allowed: float) -> Iterator[Finding]:
    """Its back ends all take the same step, and so does maximize with negated gradients."""
    known = inspect.signature(make).parameters
    problem = random_problem()
    flags: list[dict[str, Any]] = [{}, {"maximize": True}]
    for flag in flags[: 1 + ("maximize" in known)]:
        negated = replace(problem, gradients=[[None if g is None else -g for g in step] for step in problem.gradients])
        plain = Trial(make, negated if flag else problem).run()
        for name in ["", *sorted(known.keys() & {"foreach", "fused", "triton", "use_triton"})]:
            for value in (True, False) if name else (None,):
                try:
                    trial = Trial(make, problem, **flag, **({name: value} if name else {})).run()
                except Exception as error:
                    yield Finding(f"{name}={value} does not work here: {_first_line(error)}.", is_fault=False)
                    continue
                if not same(trial, plain):
                    words = [f"{key}={setting}" for key, setting in {**flag, name: value}.items() if key]
                    yield Finding(f"With {' and '.join(words)} its steps are different.")


def check_quantisation(make: Make, allowed: float) -> Iterator[Finding]:
    """How many updates have a different sign because the momentum has 8 bits."""
    if allowed == EXACT:
        return
    generator = torch.Generator().manual_seed(0)
    size = 10 ** torch.empty(50_000).uniform_(-2, 1, generator=generator)  # fixed per entry, so that momentum matters
    gradients: list[list[Tensor | None]] = [
        [size * (1 + 3 * torch.randn(50_000, generator=generator))] for _ in range(50)
    ]
    share = share_off_the_rule(Trial(make, Problem([torch.ones(50_000)], gradients, [SETTINGS] * 50)).run())
    yield Finding(f"Its 8-bit momentum makes {share:.2%} of the updates differ from Lion's.", is_fault=share > allowed)


OF_THE_RULE: list[Check] = [check_numbers, check_schedules, check_idle, check_low_precision, check_quantisation]
"""Checks against the rule. They add nothing once `check_rule` has failed."""

OF_ITSELF: list[Check] = [
    check_groups,
    check_layouts,
    check_gradients,
    check_closure,
    check_loading,
    check_copies,
    check_back_ends,
]


def _tensors_of(trial: Trial) -> list[Tensor]:
    """State tensors with as many entries as their parameter, in order."""
    return [
        value
        for param in trial.params
        for value in trial.optimizer.state.get(param, {}).values()
        if isinstance(value, Tensor) and value.numel() == param.numel() > 1
    ]


def is_quantised(make: Make) -> bool:
    """Whether it keeps the momentum of a large tensor in 8 bits."""
    state = _tensors_of(Trial(make, random_problem(shapes=((10_007,),), steps=1)).run())
    return any(value.dtype.itemsize == 1 for value in state)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip().partition("\n")[0].rstrip(".")
