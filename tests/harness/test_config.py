import re
import sys
from pathlib import Path

import pytest
import torch
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from experiments.harness import offline, run
from experiments.harness.composition import composed
from experiments.harness.config import resolved
from experiments.harness.entry import execute
from experiments.harness.errors import ConfigError, RunError
from experiments.harness.run import locate
from experiments.harness.run_name import run_id
from experiments.harness.source_code import ROOT
from experiments.study.identity import check_folder
from tests import forked
from tests.conftest import MakeConfig

EXPERIMENTS, FINETUNING = (
    sorted(path.stem for path in (ROOT / f"conf/experiment/{task}").glob("*.yaml"))
    for task in ("image_classification", "finetuning")
)
IN_FULL = ", image_classification/".join(EXPERIMENTS)
MILLION_PARAMETERS = {"convnet": 0.242, "convnet_small": 0.061, "vit_s4": 21.3, "resnet18": 11.2}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiments_model_can_be_built(make_config: MakeConfig, name: str) -> None:
    cfg = make_config(f"experiment=image_classification/{name}")
    size = cfg.data.image_size
    with torch.device("meta"):
        model = instantiate(cfg.model, _convert_="all")
    assert model(torch.zeros(2, cfg.data.channels, size, size, device="meta")).shape == (2, cfg.data.num_classes)


@pytest.mark.parametrize("model", sorted(MILLION_PARAMETERS))
def test_models_have_the_documented_parameter_counts(make_config: MakeConfig, model: str) -> None:
    cfg = make_config("experiment=image_classification/mini", "data=cifar10", f"model={model}")
    with torch.device("meta"):
        parameters = sum(p.numel() for p in instantiate(cfg.model, _convert_="all").parameters())
    assert parameters / 1e6 == pytest.approx(MILLION_PARAMETERS[model], rel=0.01)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        *((f"{key}=3", key) for key in ("train.stepz", "optimizer.beta", "data.sise", "study.margins", "modle")),
        ("train.steps=many", "many"),
    ],
)
def test_a_mistyped_key_or_value_is_refused_by_name(make_config: MakeConfig, override: str, named: str) -> None:
    with pytest.raises(ConfigCompositionException, match=named):
        make_config(override)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("train.stepz=4", "There is no setting train.stepz: did you mean train.steps?"),
        ("modle=convnet", "There is no setting modle: did you mean model?"),
        ("train.steps=many", "train.steps must be a whole number, but it is 'many'."),
        ("seed=abc", "seed must be a whole number, but it is 'abc'."),
        ("train.tf32=maybe", "train.tf32 must be true or false, but it is 'maybe'."),
        (
            "schedule=cosine",
            "schedule holds several settings: set one of schedule.shape, schedule.warmup_steps, schedule.init_factor, "
            "schedule.end_factor.",
        ),
        ("optimizer=lyon", "There is no optimizer=lyon: did you mean optimizer=lion?"),
        ("scale=qqq", "There is no scale=qqq: there are gpu, mini, paper, smoke."),
        ("train.steps", "Error parsing override 'train.steps'. missing EQUAL at '<EOF>'."),
        ("~train.steps", "train.steps cannot be removed (~train.steps), because every run needs it: give it a value."),
        *(
            (f"seed={value}", f"seed={value} cannot be read, because the value must be quoted: write 'seed={quoted}'.")
            for value, quoted in {"/ünïcode": '"/ünïcode"', "/a=b": '"/a=b"', 'it"s': '"it\\"s"'}.items()
        ),
        (
            "run.runs_dir=~/zz",
            "run.runs_dir=~/zz cannot be read, because the shell expands ~ only at the start of a word: write "
            f"run.runs_dir={Path.home()}/zz.",
        ),
        ("train.steps=[1,2", "no viable alternative at input '[1,2'."),
        (
            "experiment=lit/mini",
            "experiment=lit/mini is an experiment of lit, not of image_classification: run it with python -m "
            "experiments.lit.",
        ),
        ("experiment=nope", f"There is no experiment=nope: there are image_classification/{IN_FULL}."),
        ("experiment=mini", "There is no experiment=mini: did you mean experiment=image_classification/mini?"),
        (
            "optimizer=lion,adamw",
            "optimizer=lion,adamw gives several values: -m runs one after the other (with hydra/sweeper=study it is a "
            "study); a single list is written optimizer=[lion,adamw].",
        ),
        (
            "experiment=finetuning/nope",
            f"There is no experiment=finetuning/nope: there are finetuning/{', finetuning/'.join(FINETUNING)}.",
        ),
    ],
)
@pytest.mark.parametrize("flags", [[], ["-m"]])
def test_command_line_mistakes_end_in_one_sentence_that_suggests_a_correction(
    argument: str, sentence: str, flags: list[str]
) -> None:
    if "," in argument and flags:
        return  # a sweep, not an error
    assert refusal(*flags, argument) == f"error: {sentence}\n"


def refusal(*arguments: str, task: str = "image_classification") -> str:
    """All that a command says that must be refused."""
    result = forked.run([sys.executable, "-m", f"experiments.{task}", *arguments])
    assert result.returncode == 2
    return result.stdout + result.stderr


def test_an_undeclared_key_in_a_users_file_is_refused_by_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.yaml").write_text("defaults: [mnist5k, _self_]\nnum_clases: 3\n")
    said = refusal("--config-dir", str(tmp_path), "data=mine")
    assert said.startswith("error: data/mine.yaml sets data.num_clases, which ImageDataConfig does not decl")


def test_the_error_for_a_missing_paper_experiment_lists_the_cells() -> None:
    said = refusal("-m", "experiment=image_classification/paper", "scale=paper", "hydra/sweeper=study")
    first, *cells, last = said.splitlines()
    assert first == "error: There is no experiment=image_classification/paper: choose one of these with CELL=."
    named = [cell.split()[0].removeprefix("CELL=") for cell in cells]
    assert named == [name for name in EXPERIMENTS if not name.startswith(("smoke", "mini", "gpu"))]
    assert all(len(cell.split()) > 3 for cell in cells)  # each with its description
    assert last == "`make plan SCALE=paper` shows what each costs."


def test_overrides_are_accepted_before_and_after_flags(command_line: list[str], tmp_path: Path) -> None:
    for place in (3, 5, len(command_line)):
        result = forked.run([*command_line[:place], "-m", *command_line[place:], "seed=1,2", "train.evaluate_every=8"])
        assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "runs/image_classification").glob("lion-s[12]-*"))) == 2


def test_the_error_for_missing_data_describes_the_expected_folder(tmp_path: Path) -> None:
    places = [f"run.cache_dir={tmp_path}/cache", f"run.runs_dir={tmp_path}/runs"]
    keys = f"kind: local, path: {tmp_path}/nowhere, splits: {{train: train, test: val}}, image: image, label: label"
    images = ["experiment=image_classification/resnet50", f"data.sources=[{{{keys}}}]", *places]
    first, *parts = refusal(*images).splitlines()[-5:]
    assert first.startswith("ImageNet as files goes to $LION_DATA/imagenet")
    assert [line.split()[0].split("/")[0] for line in parts[:2]] == ["train", "val"]
    texts = refusal("scale=smoke", "data=lm_folder", *places, task="language_modeling")
    assert texts.splitlines()[-1].startswith("One document a file, in UTF-8: train/*.txt, validation/*.txt and test/*")
    assert "cifar10" not in texts
    (tmp_path / "nowhere").mkdir()  # the folder exists: something else is wrong
    assert "ImageNet as files" not in refusal(*images)


def test_help_explains_only_existing_keys() -> None:
    result = forked.run([sys.executable, "-m", "experiments.image_classification", "--help"])
    assert result.returncode == 0, result.stderr
    named = set(re.findall(r"^  .*?((?:train|optimizer|schedule|study|run)\.[a-z_]+)=", result.stdout, re.MULTILINE))
    assert {"train.steps", "optimizer.lr", "study.numbers", "run.runs_dir"} <= named
    cfg = composed("image_classification", [])
    for key in named:
        assert OmegaConf.select(cfg, key, default="absent") != "absent", key


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.micro_batch_size=12", r"train\.batch_size=32 is not a multiple of train\.micro_batch_size=12"),
        ("train.steps=0", r"train\.steps must be at least 1"),
        ("schedule.warmup_steps=8", r"schedule\.warmup_steps=8 leaves no step of train\.steps=8"),
        ("train.precision=fp16", r"train\.precision must be one of fp32, bf16, but it is 'fp16'"),
        ("run.device=tpu", r"run\.device must be one of auto, cpu, cuda, but it is 'tpu'"),
        ("schedule.shape=cosin", r"schedule\.shape must be one of"),
        ("study.stages=[12,0]", r"study\.stages must be numbers of trials of at least 1"),
        ("study.confirm=0", r"study\.confirm must be from 1 to 100"),
        ("study.confirm=101", r"study\.confirm must be from 1 to 100"),
        ("study.replicates=-1", r"study\.replicates must be at least 0"),
        ("study.lengths=[0.7,1.0]", r"study\.lengths must be above 0 and not 1"),
        ("study.margin_percent=0", r"study\.margin_percent must be between 0 and 100"),
        ("study.margin=-1", r"study\.margin must be at least 0, or null"),
        ("study.margin=nan", r"study\.margin must be at least 0, or null"),
        ("+study.nuisance.seed=3", r"study\.nuisance\.seed needs choices, or low and high"),
        ("+study.nuisance.seed={low:0,high:1,log:true}", r"study\.nuisance\.seed is log-uniform"),
        ("train.clip_norm=nan", r"train\.clip_norm must be above 0, or null"),
        ("train.threads=0", r"train\.threads must be at least 1"),
        ("optimizer.lr=-0.1", r"optimizer\.lr must be at least 0"),
        ("optimizer.lr=nan", r"optimizer\.lr must be a finite number, but it is nan"),
        ("optimizer.lr=abc", r"optimizer\.lr must be a finite number, but it is 'abc'"),
        ("optimizer.weight_decay=[1]", r"optimizer\.weight_decay must be a finite number, but it is \[1\]"),
        ("optimizer.weight_decay=inf", r"optimizer\.weight_decay must be a finite number, but it is inf"),
        ("optimizer.betas=0.9", r"optimizer\.betas must be a list of finite numbers, .* but it is 0\.9"),
        ("optimizer.betas=[0.9,nan]", r"optimizer\.betas must be a list of finite numbers"),
        ("augmentation.crop_area=[1,0]", r"augmentation\.crop_area must be the smallest and the largest share"),
        ("augmentation.crop_area=[0.5]", r"augmentation\.crop_area must be the smallest and the largest share"),
        ("augmentation.crop_area=[0,1]", r"augmentation\.crop_area must be the smallest and the largest share"),
        ("augmentation.crop_area=[0.5,1.5]", r"augmentation\.crop_area must be the smallest and the largest share"),
        ("optimizer.lr=null", r"optimizer lacks lr"),
        ("run.keep_checkpoints=-1", r"run\.keep_checkpoints must be at least 1"),
        ("run.num_workers=-1", r"run\.num_workers must be at least 0"),
        ("run.gpus=-1", r"run\.gpus must be at least 0"),
        ("run.wandb=ofline", r"run\.wandb must be one of auto, online, offline, disabled, but it is 'ofline'"),
        ("run.wandb_project='a:b'", r"run\.wandb_project must be a name that W&B accepts"),
        ("run.cache_dir=''", r"run\.cache_dir is empty \(LION_CACHE\)"),
        ("optimizer.name='a/../../x'", r"optimizer\.name must be up to 64 letters"),
        (f"optimizer.name={'x' * 300}", r"optimizer\.name must be up to 64 letters"),
        ("data.name='../x'", r"data\.name must be up to 200 characters without"),
        ("~flatness", r"flatness was removed .* leave it in"),
        ("train.clip_norm=0", r"train\.clip_norm must be above 0, or null for no clipping, but it is 0"),
        ("train.ema_decay=1", r"train\.ema_decay must be from 0 to below 1, or null, but it is 1"),
        ("train.ema_decay=-0.5", r"train\.ema_decay must be from 0 to below 1, or null, but it is -0\.5"),
        ("schedule.warmup_steps=-3", r"schedule\.warmup_steps must be at least 0, but it is -3"),
        ("schedule.end_factor=-1", r"schedule\.end_factor must be at least 0, but it is -1"),
        ("schedule.init_factor=nan", r"schedule\.init_factor must be a finite number, but it is nan"),
        ("flatness.draws=-1", r"flatness\.draws must be at least 0, but it is -1"),
        ("run.checkpoint_every=0", r"run\.checkpoint_every must be at least 1, but it is 0"),
        ("train.sample_every=0", r"train\.sample_every must be at least 1, but it is 0"),
        ("train.sample_every=2", r"train\.sample_every=2, but image_classification generates no samples"),
        ("data.std=[0.0]", r"data\.std"),
        ("data.mean=[0.5,0.5,0.5]", r"data\.mean"),
        ("data.val_size=300", r"data\.val_size=300"),
        ("+optimizer.nesterov=true", r"optimizer=lion cannot be built .*nesterov"),
        ("+train.stepz=4", r"There is no setting train\.stepz, so \+train\.stepz would change nothing"),
        ("++typo=4", "There is no setting typo"),
    ],
)
def test_an_invalid_setting_is_refused_by_name(make_config: MakeConfig, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        execute(make_config(override))


def test_the_run_name_depends_on_exactly_the_settings_that_affect_results(make_config: MakeConfig) -> None:
    def name(*overrides: str) -> str:
        return locate(make_config(*overrides)).directory.name

    first = name()
    assert first.startswith("lion-s0-")
    same = ["run.num_workers=3", "run.device=cpu", "run.checkpoint_every=7", "study.margin=3", "settings.adamw.lr=1"]
    assert {name(override) for override in same} == {first}
    different = ["seed=1", "train.steps=9", "optimizer.lr=1", "train.threads=2", "label_smoothing=0.1"]
    different += ["model.widths=[4,4,8]", "optimizer=adamw"]
    assert len({first, *(name(override) for override in different)}) == 1 + len(different)


def test_the_run_name_does_not_depend_on_where_the_data_lie(make_config: MakeConfig) -> None:
    plain = resolved(make_config())
    elsewhere = {**plain, "data": {**plain["data"], "sources": []}}
    assert run_id(plain, "f" * 64) == run_id(elsewhere, "f" * 64)
    assert run_id(plain, "f" * 64) != run_id(plain, "e" * 64)


def test_the_error_for_an_unwritable_folder_names_the_setting(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot be written .*: set run\.runs_dir"):
        execute(make_config(f"run.runs_dir={tmp_path}/file/runs"))
    with pytest.raises(ConfigError, match=r"file cannot be written \(Not a directory\), .* set run\.results_dir"):
        check_folder(tmp_path / "file" / "results", {})
    with pytest.raises(ConfigError, match=r"/proc cannot be written .* set run\.results_dir"):
        check_folder(Path("/proc/results"), {})


def test_relative_folders_do_not_depend_on_the_working_directory(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (run, offline):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    cfg = make_config("run.cache_dir=cache", "run.runs_dir=runs")
    directory = locate(cfg).directory
    monkeypatch.chdir(tmp_path.parent)
    assert locate(cfg).directory == directory
    assert (tmp_path / "cache").is_dir()
