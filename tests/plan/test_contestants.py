"""The contestants of a plan, and the bytes of their state and checkpoints, compared with real runs."""

import pytest
import torch

from experiments.harness import low_bit
from experiments.harness.errors import ConfigError
from experiments.plan.plan import memory, plan
from experiments.plan.table import show
from tests.conftest import MakeConfig, executed, values_of
from tests.harness.test_optimizer_configs import every_optimizer, unless_missing
from tests.plan.test_plan import shown

MINI = ["experiment=language_modeling/mini", "scale=mini"]
GPU = ["experiment=language_modeling/gpu", "scale=gpu"]


@every_optimizer
def test_state_and_checkpoint_of_every_optimizer_are_as_large_as_planned(
    overrides: list[str], make_config: MakeConfig, name: str
) -> None:
    wider = "model.widths=[32,64,128,128]"  # names and alignment take 16 KB, more than smoke's tiny model
    directory = executed(make_config(wider, f"optimizer={name}"))
    planned = plan("image_classification", [*overrides, wider, f"optimizer={name}"])
    assert values_of(directory, "cost/state_bytes")[-1] == planned.state_bytes[name]
    size = max(directory.glob("step-*.pt")).stat().st_size
    assert planned.checkpoint_bytes[name] == pytest.approx(size, rel=0.05)


def test_a_plan_has_the_contestants_that_the_command_line_names() -> None:
    three = [*MINI, "optimizer=lion,signum_b9,adamw"]
    planned, default = plan("language_modeling", three), plan("language_modeling", MINI)
    assert [*planned.state_bytes] == [*planned.checkpoint_bytes] == ["lion", "signum_b9", "adamw"]
    assert planned.runs == 8 * (3 * 42 + 2 * (3 + 2))
    assert planned.study_flops == planned.runs * default.run_flops
    assert planned.minutes is None
    used, default_used = (memory("language_modeling", *each) for each in ((three, planned), (MINI, default)))
    assert used.peak == {**default_used.peak, "signum_b9": default_used.peak["lion"]}
    page = shown(show(planned, used))
    assert "42 trials each of lion, signum_b9 and adamw, and 10 on fresh seeds" in page
    assert "state of signum_b9" in page


@pytest.mark.parametrize("given", ["optimizer=nadam", "study.contestants=[nadam]"])
def test_a_plan_includes_the_reference(given: str) -> None:
    assert [*plan("language_modeling", [*MINI, given]).state_bytes] == ["nadam", "adamw"]


def test_a_plan_without_lion_leaves_out_the_claim_about_it() -> None:
    cell = ["experiment=image_classification/resnet50", "scale=paper"]
    assert plan("image_classification", cell).claim.startswith("+0.11 in test/top1")
    assert plan("image_classification", [*cell, "optimizer=nadam"]).claim == ""


@pytest.mark.parametrize("name", [unless_missing("lion_8bit"), unless_missing("adamw_8bit")])
def test_pages_are_planned_as_the_state_in_them(name: str) -> None:
    paged = name.replace("_8bit", "_paged_8bit")
    planned = plan("language_modeling", [*GPU, f"optimizer={name},{paged}"])
    assert planned.parameters > 10**6  # tensors from 10^5 entries on are in pages
    for sizes in (planned.state_bytes, planned.checkpoint_bytes):
        assert sizes[paged] == sizes[name]
    with pytest.raises(ConfigError, match=rf"optimizer={paged} .* set run\.device to cuda"):
        plan("language_modeling", [*MINI, f"optimizer={paged}"])


@pytest.mark.parametrize("name", [unless_missing("adamw_ao_8bit")])
def test_a_plan_compiles_no_step(name: str) -> None:
    """As torchao's would be on a GPU, which takes seconds per shape."""
    torch._dynamo.reset()
    before = dict(torch._dynamo.utils.counters["stats"])
    plan("language_modeling", [*MINI, f"optimizer={name}"])
    assert torch._dynamo.utils.counters["stats"] == before


def test_a_plan_says_how_to_install_a_contestants_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_bit, "find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=r"optimizer=adamw_ao_fp8 is .* not installed: run .*'\.\[lowbit\]'"):
        plan("language_modeling", [*MINI, "optimizer=lion,adamw_ao_fp8"])


def test_an_optimizer_that_needs_values_is_not_planned() -> None:
    with pytest.raises(ConfigError, match=r"optimizer=adamw cannot be planned: .* on the device meta: .*capturable"):
        plan("language_modeling", [*MINI, "optimizer=adamw", "+optimizer.capturable=true"])
