"""The doctor names every planted mistake, and finds no fault in a correct Lion."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from lion import Lion
from lion.doctor import examine, main

pytestmark = pytest.mark.filterwarnings("ignore:Lion got bfloat16 or float16 parameters")


class Plain(Optimizer):
    """A minimal Lion; each planted mistake overrides one of its methods."""

    def __init__(
        self, params: Any, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    if not self.state[param]:
                        self.state[param]["exp_avg"] = self.new_momentum(param)
                    self.update(param, param.grad, self.state[param]["exp_avg"], self.settings(group))
        return loss

    def new_momentum(self, param: Tensor) -> Tensor:
        return torch.zeros_like(param)

    def settings(self, group: dict[str, Any]) -> dict[str, Any]:
        return group

    def direction(self, param: Tensor, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> Tensor:
        return (exp_avg * group["betas"][0] + grad * (1 - group["betas"][0])).sign()

    def average(self, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> None:
        exp_avg.lerp_(grad, 1 - group["betas"][1])

    def update(self, param: Tensor, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> None:
        param.mul_(1 - group["lr"] * group["weight_decay"])
        param.sub_(self.direction(param, grad, exp_avg, group), alpha=group["lr"])
        self.average(grad, exp_avg, group)


class DecayAfterwards(Plain):
    def update(self, param: Tensor, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> None:
        param.sub_(self.direction(param, grad, exp_avg, group), alpha=group["lr"])
        param.mul_(1 - group["lr"] * group["weight_decay"])
        self.average(grad, exp_avg, group)


class DecayInTheSign(Plain):
    def update(self, param: Tensor, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> None:
        mixed = exp_avg * group["betas"][0] + grad * (1 - group["betas"][0])
        param.sub_((mixed + group["weight_decay"] * param).sign(), alpha=group["lr"])
        self.average(grad, exp_avg, group)


class DecayInTheGradient(Plain):
    def update(self, param: Tensor, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> None:
        super().update(param, grad + group["weight_decay"] * param, exp_avg, group | {"weight_decay": 0.0})


class DecayWithoutTheRate(Plain):
    def update(self, param: Tensor, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> None:
        param.mul_(1 - group["weight_decay"])
        super().update(param, grad, exp_avg, group | {"weight_decay": 0.0})


class NoDecayOfVectors(Plain):
    def update(self, param: Tensor, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> None:
        super().update(param, grad, exp_avg, group | ({"weight_decay": 0.0} if param.ndim < 2 else {}))


class BetasExchanged(Plain):
    def settings(self, group: dict[str, Any]) -> dict[str, Any]:
        return group | {"betas": group["betas"][::-1]}


class SignOfTheNewMomentum(Plain):
    def update(self, param: Tensor, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> None:
        self.average(grad, exp_avg, group)
        param.mul_(1 - group["lr"] * group["weight_decay"])
        param.sub_(self.direction(param, grad, exp_avg, group), alpha=group["lr"])


class MomentumFromTheFirstGradient(Plain):
    def average(self, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> None:
        exp_avg.copy_(grad) if not exp_avg.any() else exp_avg.lerp_(grad, 1 - group["betas"][1])


class ZeroIsPositive(Plain):
    def direction(self, param: Tensor, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> Tensor:
        return torch.where(super().direction(param, grad, exp_avg, group) < 0, -1.0, 1.0).to(param.dtype)


class SoftSign(Plain):
    def direction(self, param: Tensor, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> Tensor:
        mixed = exp_avg * group["betas"][0] + grad * (1 - group["betas"][0])
        return mixed / (mixed.abs() + 1e-12)


class NanSpreads(Plain):
    def direction(self, param: Tensor, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> Tensor:
        return super().direction(param, grad / grad.square().mean().sqrt().clamp(min=1e-38), exp_avg, group)


class RateOfTheConstructor(Plain):
    def settings(self, group: dict[str, Any]) -> dict[str, Any]:
        return group | {"lr": self.defaults["lr"]}


class BetasOfTheConstructor(Plain):
    def settings(self, group: dict[str, Any]) -> dict[str, Any]:
        return group | {"betas": self.defaults["betas"]}


class DecayOfTheFirstGroup(Plain):
    def settings(self, group: dict[str, Any]) -> dict[str, Any]:
        return group | {"weight_decay": self.param_groups[0]["weight_decay"]}


class NothingAtRateZero(Plain):
    def update(self, param: Tensor, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> None:
        if group["lr"] > 0:
            super().update(param, grad, exp_avg, group)


class DecaysWithoutGradient(Plain):
    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    param.grad = torch.zeros_like(param)
        return super().step(closure)


class WritesToGradients(Plain):
    def average(self, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> None:
        exp_avg.mul_(group["betas"][1]).add_(grad.mul_(1 - group["betas"][1]))


class StateOnItself(Plain):
    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **settings)
        self.signs: dict[int, int] = {}

    def direction(self, param: Tensor, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> Tensor:
        signs = self.__dict__.setdefault("signs", {})
        signs[id(param)] = signs.get(id(param), 0) + 1
        first = signs[id(param)] == 1
        return super().direction(param, grad, exp_avg, group) if not first else grad.sign()


class MomentumIsCastOnLoading(Plain):
    def new_momentum(self, param: Tensor) -> Tensor:
        return torch.zeros_like(param, dtype=torch.float32)

    def update(self, param: Tensor, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> None:
        wide = param.float()
        super().update(wide, grad.float(), exp_avg, group)
        param.copy_(wide)


class ForgetsOnLoading(Plain):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"state": {}})


class KeepsItsOwnRateOnLoading(Plain):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        rate = self.param_groups[0]["lr"]
        super().load_state_dict(state_dict)
        self.param_groups[0]["lr"] = rate


class CoarseEightBits(Plain):
    """8-bit momentum with one scale for a whole tensor."""

    def new_momentum(self, param: Tensor) -> Tensor:
        return torch.zeros_like(param, dtype=torch.int8 if param.numel() > 4096 else param.dtype)

    def update(self, param: Tensor, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> None:
        if exp_avg.dtype != torch.int8:
            return super().update(param, grad, exp_avg, group)
        state = self.state[param]
        wide = exp_avg.float() * state.get("scale", 1.0)
        super().update(param, grad, wide, group)
        state["scale"] = wide.abs().max() / 127
        exp_avg.copy_((wide / state["scale"]).round())


class ReadsTransposedGradientsAsStored(Plain):
    def update(self, param: Tensor, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> None:
        stored = grad if grad.is_contiguous() or not grad.t().is_contiguous() else grad.t().reshape(grad.shape)
        super().update(param, stored, exp_avg, group)


class LeavesTheLastBlock(Plain):
    def update(self, param: Tensor, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> None:
        if param.ndim == 1 and param.numel() > 1024:
            whole = param.numel() // 1024 * 1024
            param, grad, exp_avg = param[:whole], grad[:whole], exp_avg[:whole]
        super().update(param, grad, exp_avg, group)


class OnlyMomentumInLowPrecision(Plain):
    def direction(self, param: Tensor, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> Tensor:
        return super().direction(param, grad, exp_avg, group) if param.dtype == torch.float32 else exp_avg.sign()


class ForeachForgetsToGoUphill(Plain):
    def __init__(self, params: Any, maximize: bool = False, foreach: bool | None = None, **settings: Any) -> None:
        super().__init__(params, **settings)
        self.defaults["uphill"] = maximize and not foreach

    def update(self, param: Tensor, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> None:
        super().update(param, -grad if self.defaults["uphill"] else grad, exp_avg, group)


class FusedIsAnother(Plain):
    def __init__(self, params: Any, fused: bool | None = None, **settings: Any) -> None:
        super().__init__(params, **settings)
        self.defaults["fused"] = fused

    def settings(self, group: dict[str, Any]) -> dict[str, Any]:
        return group | ({"betas": (0.95, 0.98)} if self.defaults["fused"] else {})


class IgnoresClosures(Plain):
    def step(self, closure: Any = None) -> Any:
        return super().step(None)


PLANTED = {
    DecayAfterwards: "decays the weight after the update",
    DecayInTheSign: "weight decay inside the sign",
    DecayInTheGradient: "adds the weight decay to the gradient",
    DecayWithoutTheRate: "not multiply the weight decay by the learning rate",
    NoDecayOfVectors: "of its updates differ from Lion's rule",
    BetasExchanged: "swaps the two betas",
    SignOfTheNewMomentum: "updates the momentum before it computes the update",
    MomentumFromTheFirstGradient: "of its updates differ from Lion's rule",
    ZeroIsPositive: "moves a weight whose gradient and momentum are 0",
    SoftSign: "a gradient of 1e-30 changes a weight",
    NanSpreads: "a gradient of|of its updates",
    RateOfTheConstructor: "steps differ from Lion's rule when lr changes",
    BetasOfTheConstructor: "steps differ from Lion's rule when betas changes",
    DecayOfTheFirstGroup: "groups with different weight_decay",
    NothingAtRateZero: "steps differ from Lion's rule when lr changes",
    DecaysWithoutGradient: "has no gradient",
    WritesToGradients: "writes to the gradients",
    StateOnItself: "does not continue as|do not step|of its updates",
    MomentumIsCastOnLoading: "changes the dtype of the state|in this check: Training continues after saving",
    ForgetsOnLoading: "training of torch.float32 weights does not continue",
    KeepsItsOwnRateOnLoading: "does not restore lr",
    CoarseEightBits: "8-bit momentum makes|of its updates",
    ReadsTransposedGradientsAsStored: "misreads a transposed gradient",
    LeavesTheLastBlock: "of its updates differ from Lion's rule",
    OnlyMomentumInLowPrecision: "For torch.bfloat16 weights",
    ForeachForgetsToGoUphill: "With maximize=True and foreach=True",
    FusedIsAnother: "With fused=True",
    IgnoresClosures: "closure",
}


@pytest.mark.parametrize(("planted", "words"), PLANTED.items(), ids=lambda given: getattr(given, "__name__", ""))
def test_the_doctor_names_each_planted_mistake(planted: Any, words: str) -> None:
    faults = [finding.sentence for finding in examine(planted) if finding.is_fault]
    assert any(alternative in " ".join(faults) for alternative in words.split("|")), faults
    assert len(faults) <= 4


@pytest.mark.parametrize("right", [Plain, Lion])
def test_the_doctor_finds_no_fault_in_a_correct_lion(right: Any) -> None:
    assert [finding.sentence for finding in examine(right) if finding.is_fault] == []


RIGHT = ["timm.optim:Lion", "optimi:Lion"]
LOST_BY_COPIES = [
    "lion_pytorch:Lion",
    "pytorch_optimizer:Lion",
    "bitsandbytes.optim:Lion",
    "bitsandbytes.optim:Lion8bit",
]


@pytest.mark.parametrize("name", RIGHT + LOST_BY_COPIES)
def test_the_doctor_reports_the_known_faults_of_public_lions(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Some keep settings as attributes of the optimizer, which a deep copy loses, so that its next step fails."""
    exit_code = main([name])
    faults = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fault")]
    assert exit_code == (name in LOST_BY_COPIES)
    assert len(faults) == (name in LOST_BY_COPIES)
    assert all("AttributeError" in fault and "A deep copy" in fault for fault in faults)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("torch.optim:SGD", "could not be checked: TypeError"),
        ("no_such_module:Lion", "could not be checked: ModuleNotFoundError"),
        ("timm.optim", "usage: python -m lion.doctor module:Class"),
    ],
)
def test_the_doctor_explains_why_a_class_cannot_be_checked(
    argument: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument]) == 2
    assert words in capsys.readouterr().err


def test_the_doctors_command_line_reports_a_fault() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "lion.doctor", "tests.lion.test_lion_doctor:DecayAfterwards"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert finished.returncode == 1
    assert finished.stdout == (
        "fault: It decays the weight after the update, so the update is decayed too.\n"
        "tests.lion.test_lion_doctor:DecayAfterwards is incorrect.\n"
    )
