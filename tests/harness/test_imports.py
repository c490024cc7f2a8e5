"""What a run imports: every library delays its first step and stays in memory until the end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.harness.source_code import ROOT, our_tasks
from tests.conftest import unpinned

ELSEWHERE = {
    *("bitsandbytes", "datasets", "matplotlib", "open_clip", "pandas", "plotly", "pyarrow", "ray", "sklearn", "timm"),
    *("torch_fidelity", "torchao", "wandb"),
}
"""Installed, but of no use to any task's mini run whose data are in the cache."""
OF_OTHER_TASKS = {"diffusers", "huggingface_hub", "scipy", "tokenizers", "transformers"}

ONE_TASK_AFTER_THE_OTHER = f"""
import sys
from importlib import import_module

elsewhere, of_other_tasks = {ELSEWHERE!r}, {OF_OTHER_TASKS!r}

def check(task, model, unused):
    import_module("experiments.harness.train"), import_module(f"experiments.{{task}}.task")
    module, _, name = model.rpartition(".")
    getattr(import_module(module), name)
    if task == "lit":
        import torch
        from experiments.lit.class_names import class_names, templates
        from experiments.lit.models import contrastive_loss
        contrastive_loss(torch.eye(2), torch.eye(2), torch.ones(()))
        assert len(templates("imagenet")) == 80 and len(class_names("imagenet")) == 1000
    assert not unused & set(sys.modules), (task, unused & set(sys.modules))

check("image_classification", "experiments.image_classification.convnet.ConvNet", elsewhere | of_other_tasks)
elsewhere -= {{"torchao"}}  # which transformers imports wherever it is installed
check("finetuning", "experiments.pretrained.minilm.UpperLayers", elsewhere | {{"diffusers"}})
check("lit", "experiments.pretrained.minilm.UpperLayers", elsewhere | {{"diffusers"}})
check("language_modeling", "transformers.GPT2LMHeadModel", elsewhere | {{"diffusers"}})
check("diffusion", "diffusers.UNet2DModel", elsewhere)
"""


def test_a_task_and_its_mini_model_import_only_needed_libraries() -> None:
    command = [sys.executable, "-c", ONE_TASK_AFTER_THE_OTHER]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("task", our_tasks())
def test_a_study_opens_its_data_without_importing_training_libraries(task: str) -> None:
    heavy = {"torch", "torchvision", "scipy", *ELSEWHERE, *OF_OTHER_TASKS}
    check = f"import sys, experiments.{task}.data; sys.exit(repr({heavy!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.stderr.strip() == "set()"


def test_a_whole_run_imports_no_library_of_other_tasks_or_reports_or_before_its_pins(
    command_line: list[str], tmp_path: Path
) -> None:
    python, *arguments = command_line
    said = run_unpinned([python, "-X", "importtime", *arguments], tmp_path)
    lines = [line for line in said.splitlines() if line.startswith("import time:")]
    imported = {line.rsplit("|", 1)[1].strip().partition(".")[0] for line in lines}
    assert "torch" in imported
    assert not imported & (ELSEWHERE | OF_OTHER_TASKS)


@pytest.mark.parametrize(
    "more",
    [
        ["hydra/sweeper=plain", "optimizer=lion"],
        ["hydra/sweeper=study", "study=fixed", "study.numbers=0", "study.confirm=1", "optimizer=lion,adamw"],
    ],
)
def test_no_library_is_loaded_before_a_sweep_or_study_pins_its_instruction_set(
    command_line: list[str], tmp_path: Path, more: list[str]
) -> None:
    run_unpinned([*command_line, "--multirun", *more], tmp_path)


@pytest.mark.parametrize("command", ["harness.fetch", "harness.pack", "study.verify"])
def test_no_library_is_loaded_before_a_command_that_opens_data_pins_its_instruction_set(command: str) -> None:
    check = f"import sys, experiments.{command}; sys.exit(repr({{'numpy', 'torch'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.stderr.strip() == "set()"


def run_unpinned(command: list[str], folder: Path) -> str:
    """What a command says in a new shell, where it pins its instruction set. Otherwise a library would keep the
    processor's widest one, and the rows of two processors would differ.
    """
    command = [*command, f"run.runs_dir={folder / 'unpinned'}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=unpinned())
    assert result.returncode == 0, result.stderr
    paths = list(folder.glob("unpinned/*/*/environment.json"))
    assert paths
    assert all(json.loads(path.read_text())["arithmetic"]["openblas"] == ["Haswell"] for path in paths)
    return result.stderr
