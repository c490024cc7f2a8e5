"""The plan of an experiment, compared with hand counts."""

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from experiments.diffusion.models import meta_model, meta_output
from experiments.harness.composition import composed, scale_of
from experiments.harness.config import typed
from experiments.harness.errors import ConfigError
from experiments.harness.source_code import ROOT, our_tasks, task_name
from experiments.plan.plan import claim_words, main, memory, plan
from experiments.plan.table import print_table, show, show_cells
from experiments.plan.utilisation import FAMILIES, PEAK
from tests.conftest import AVERAGED, MakeConfig, executed


def shown(table: Any, width: int = 200) -> str:
    output = io.StringIO()
    Console(file=output, width=width).print(table)
    return output.getvalue()


def vit_flops_per_image(width: int, depth: int, tokens: int, patch_values: int, classes: int) -> int:
    """Forward multiplications and additions by hand; a backward pass makes twice as many, without the input's."""
    block = 2 * tokens * 12 * width**2 + 2 * 2 * tokens**2 * width
    patches = 2 * (tokens - 1) * patch_values * width
    return 3 * (depth * block + 2 * width * classes) + 2 * patches


def test_a_vision_transformers_flops_and_state_match_a_hand_calculation() -> None:
    planned = plan("image_classification", ["experiment=image_classification/vit_b16_aug", "scale=paper"])
    assert planned.parameters == 86567656
    by_hand = 4096 * vit_flops_per_image(768, 12, 197, 3 * 16 * 16, 1000)
    assert planned.flops_per_step == pytest.approx(by_hand, rel=1e-3)
    assert (planned.samples, planned.runs) == (93835 * 4096, 6)
    assert planned.epochs == pytest.approx(300, abs=0.01)
    assert planned.run_flops == 93835 * planned.flops_per_step
    assert planned.state_bytes["lion"] == 4 * planned.parameters
    assert planned.state_bytes["adamw"] == pytest.approx(8 * planned.parameters, rel=1e-4)


def test_the_planned_runs_are_the_search_confirm_and_length_runs() -> None:
    planned = plan("language_modeling", ["experiment=language_modeling/mini", "scale=mini"])
    assert planned.runs == 8 * (2 * 42 + 2 * (2 + 2))


def test_the_plan_states_the_papers_claim_and_the_pairs_needed() -> None:
    claim = plan("image_classification", ["experiment=image_classification/vit_b16_aug", "scale=paper"]).claim
    # 80.77 vs 80.12. By tables of the power of the paired t test (80 %, two-sided 5 %): 34 pairs for an effect of
    # half a standard deviation, 10 for a whole one.
    assert claim.startswith("+0.65 in test/top1 (Table 2); ")
    assert "10 at 0.65, 34 at 1.3" in claim
    assert plan("language_modeling", ["experiment=language_modeling/mini"]).claim == ""


def test_equal_published_numbers_are_planned_as_a_tie() -> None:
    cfg = composed("diffusion", ["experiment=diffusion/imagen_sr", "scale=paper"])  # 39 against 39
    assert claim_words(cfg) == "+0 in samples/fid (Fig. 6), no more than its precision or noise: a tie"


def test_a_cpu_plan_states_minutes_only_for_measured_settings() -> None:
    def page_of(*more: str) -> str:
        overrides = ["experiment=image_classification/mini", "scale=mini", *more]
        planned = plan("image_classification", overrides)
        return shown(show(planned, memory("image_classification", overrides, planned)))

    page = page_of()
    assert "15 minutes per replicate, 19 s per run (two at a time), 2.0 h in all" in page  # 96 runs: 2 * 900 / 96 s
    assert " 0.47 MiB" in page  # weights and gradients of 61,338 parameters
    assert " 0 MiB" not in page
    assert "H100" not in page
    assert "minutes" not in page_of("train.steps=1000")


def test_a_plan_states_the_memory_of_a_sharded_model_per_gpu() -> None:
    asked = ["scale=gpu", "run.gpus=4", "run.nodes=2", "run.shards=2", "train.micro_batch_size=4"]
    planned = plan("language_modeling", asked)
    page = shown(show(planned, memory("language_modeling", asked, planned)))
    parameters = planned.parameters / 2**20  # 8 bytes of weights and gradients, 4 of Lion's state, halved
    assert f" {4 * parameters:.2g} MiB on each of 2 GPUs" in page
    assert f" {2 * parameters:.2g} MiB on each of 2 GPUs" in page
    assert " h, on 8 " in page


@pytest.mark.parametrize(("package", "module"), [("my_package", "config"), ("my_other", "models")])
def test_a_task_without_a_model_to_plan_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, module: str
) -> None:
    task = tmp_path / package / "ranks"
    (task / "conf").mkdir(parents=True)
    register = "from experiments.harness.config import Config, register\nregister('ranks', Config)\n"
    for name in {"config", module}:  # a module models without meta_model, or none
        (task / f"{name}.py").write_text(register)
    (task / "conf/ranks.yaml").write_text("defaults: [base_ranks, _self_]\n")
    monkeypatch.syspath_prepend(tmp_path)
    needed = f"A plan of {package}.ranks needs a module {package}.ranks.models with meta_model"
    with pytest.raises(ConfigError, match=needed):
        main(f"{package}.ranks", [])
    with pytest.raises(ConfigError, match="There is no task nope"):
        main("nope", ["experiment=nope/mini"])


def test_make_accepts_both_spellings_of_a_task() -> None:
    for spelt in ("language-modeling", "language_modeling"):
        made = subprocess.run(
            ["make", "-n", "plan", f"TASK={spelt}"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert f"plan {spelt} experiment=language_modeling/mini" in made.stdout
        assert task_name(spelt) == "language_modeling"


@pytest.mark.slow
def test_a_plan_without_a_cell_lists_all_paper_cells(capsys: pytest.CaptureFixture[str]) -> None:
    main("lit", ["experiment=lit/paper", "scale=paper"])
    cells = capsys.readouterr().out.splitlines()[3:]
    assert [cell.split()[0] for cell in cells] == ["b16_b", "b32_b", "g14_288_l"]


def test_a_plan_in_a_pipe_is_neither_cut_nor_wrapped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["experiment=lit/gpu", "scale=gpu"]
    planned = plan("lit", asked)
    one = show(planned, memory("lit", asked, planned))
    planned.cfg.train.steps, planned.cfg.train.batch_size = 6_005_470, 16_384
    all_cells = show_cells([("vit_b16_aug_batch16384", planned)])
    for columns in ("80", "40"):
        monkeypatch.setenv("COLUMNS", columns)
        print_table(one)
        assert "eight runs at 36 to 42 steps per second each on an H200)\n" in capsys.readouterr().out
        print_table(all_cells)
        *_, row = capsys.readouterr().out.splitlines()
        assert row.split()[:4] == ["vit_b16_aug_batch16384", "11.1", "6,005,470", "16,384"]


def test_the_table_of_all_cells_fits_into_80_characters_and_loses_no_digit_in_fewer() -> None:
    planned = plan("lit", ["experiment=lit/smoke", "scale=smoke"])
    planned.cfg.train.steps, planned.cfg.train.batch_size = 6_005_470, 16_384
    planned = replace(planned, parameters=10**9)

    table = show_cells([("vit_b16_aug_batch16384", planned)])
    *_, row = shown(table, width=80).splitlines()
    assert row.split()[:4] == ["vit_b16_aug_batch16384", "1,000.0", "6,005,470", "16,384"]
    assert "…" not in shown(table, width=60)


def test_resnet50_flops_match_the_published_number() -> None:
    planned = plan("image_classification", ["experiment=image_classification/resnet50", "scale=paper"])
    # 4.09 G multiplications per forward pass (torchvision's model card); the first layer has no gradient to its input.
    assert planned.flops_per_step / 1024 == pytest.approx(3 * 2 * 4.09e9, rel=0.015)


def test_epochs_are_omitted_where_the_number_of_images_is_unknown() -> None:
    assert plan("image_classification", ["experiment=image_classification/i21k_vit_b16", "scale=paper"]).epochs is None


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_size=4096 is not a multiple"):
        plan("image_classification", ["experiment=image_classification/vit_b16_aug", "train.micro_batch_size=100"])


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "code"), [("vit_s16", 0), ("vit_s17", 2)])
def test_the_plan_command_needs_no_data(cell: str, code: int) -> None:
    command = [sys.executable, "-m", "experiments.plan", "image_classification"]
    result = subprocess.run(
        [*command, f"experiment=image_classification/{cell}"], capture_output=True, text=True, check=False
    )
    assert result.returncode == code
    assert ("22.05 M" in result.stdout) == (code == 0)
    assert ("vit_s17" in result.stderr) == (code == 2)


@pytest.mark.parametrize(
    ("cell", "millions"),
    [
        ("smoke", 1.88),
        ("mini", 2.20),
        ("gpu", 11.07),
        pytest.param("b16_b", 123.60, marks=pytest.mark.slow),
        pytest.param("g14_288_l", 354.36, marks=pytest.mark.slow),
    ],
)
def test_a_two_tower_plan_counts_trained_parameters(cell: str, millions: float) -> None:
    planned = plan("lit", [f"experiment=lit/{cell}", f"scale={scale_of(f'lit/{cell}')}"])
    assert planned.parameters / 1e6 == pytest.approx(millions, abs=0.01)
    assert planned.flops_per_step > 0


def test_a_plan_excludes_the_flops_of_a_cached_tower() -> None:
    planned = plan("lit", ["experiment=lit/mini"])
    # Forward and backward: a layer of 384 on 12 tokens, and maps from 1 280 (without its gradient) and 384 to 256.
    layer = 2 * 12 * 12 * 384**2 + 2 * 2 * 12**2 * 384
    by_hand = 3 * layer + 2 * 2 * 1280 * 256 + 3 * 2 * 384 * 256
    assert planned.flops_per_step / 128 == pytest.approx(by_hand, rel=0.15)


@pytest.mark.parametrize("task", our_tasks())
def test_the_plan_of_every_tasks_gpu_experiment(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(task, [f"experiment={task}/gpu", "scale=gpu"])
    page = " ".join(capsys.readouterr().out.split())
    for told in ("FLOPs of all runs", "of its peak", "in evaluation", "checkpoint with lion", "checkpoint with adamw"):
        assert told in page
    assert ("FLOPs of sampling, per run" in page) == (task == "diffusion")
    assert ("FLOPs of the image tower's features" in page) == (task == "lit")


def test_the_operations_of_sampling_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["experiment=diffusion/gpu", "scale=gpu", "train.sample_every=100"]
    guided = [*asked, "noise.condition_dropout=0.1", "sampling.guidance=2.0"]
    planned = plan("diffusion", asked)
    cfg = typed(composed("diffusion", asked))
    model, by_hand = meta_model(cfg), []

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            by_hand.append(2 * output.numel() * module.weight[0].numel())
        if isinstance(module, nn.Linear):
            by_hand.append(2 * output.numel() * module.in_features)

    def attention(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Tensor:
        by_hand.append(2 * 2 * query.numel() * key.shape[-2])
        return query

    for module in model.modules():
        module.register_forward_hook(count)
    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    with torch.no_grad():
        meta_output(model, cfg, 1)
    monkeypatch.undo()
    # 10 steps for 1 024 samples after steps 100, 200 and 250
    assert planned.tested["sampling"] == pytest.approx(3 * 10 * 1024 * sum(by_hand), rel=1e-3)
    assert plan("diffusion", guided).tested["sampling"] == 2 * planned.tested["sampling"]
    trials, confirmed = 8 * 2 * 42, planned.runs - 8 * 2 * 42
    runs = trials * planned.run_flops + confirmed * (planned.run_flops + planned.tested["sampling"])
    assert planned.study_flops == runs


def test_a_checkpoint_is_as_large_as_planned(overrides: list[str], make_config: MakeConfig) -> None:
    wider = [AVERAGED, "model.widths=[32,64,128,128]"]  # names and alignment take 16 KB, more than smoke's tiny model
    directory = executed(make_config(*wider))
    planned = plan("image_classification", [*overrides, *wider])
    size = max(directory.glob("step-*.pt")).stat().st_size
    assert planned.checkpoint_bytes["lion"] == pytest.approx(size, rel=0.05)
    lion, adamw = (planned.checkpoint_bytes[name] for name in ("lion", "adamw"))
    assert adamw - lion == planned.state_bytes["adamw"] - planned.state_bytes["lion"]


@pytest.mark.parametrize(
    ("task", "cell", "batch_ms", "batch"),
    [
        ("language_modeling", "gpu", 1000 / (8 * 39), 32),
        ("image_classification", "gpu", 16, 512),
        ("diffusion", "gpu_ddpm", 117, 128),
    ],
)
def test_the_measured_utilisation_follows_from_docs_gpu_md(task: str, cell: str, batch_ms: float, batch: int) -> None:
    planned = plan(task, [f"experiment={task}/{cell}", "scale=gpu"])
    flops = planned.flops_per_step / planned.cfg.train.batch_size * batch
    assert FAMILIES[planned.family].source.startswith("measured")
    assert FAMILIES[planned.family].share == pytest.approx(flops / (batch_ms / 1000) / PEAK, rel=0.02)


def test_a_sharded_model_is_whole_on_each_gpu_in_an_evaluation() -> None:
    alone, sharded = (
        ["scale=gpu", f"run.gpus={shards}", f"run.shards={shards}", "train.micro_batch_size=4"] for shards in (1, 2)
    )
    planned = plan("language_modeling", sharded)
    theirs, ours = (memory("language_modeling", each, planned).evaluation["lion"] for each in (alone, sharded))
    weights, rest = 4 * planned.parameters, 4 * planned.parameters + planned.state_bytes["lion"]
    assert ours == pytest.approx(theirs + weights - (weights + rest) / 2, rel=1e-3)
