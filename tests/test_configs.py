"""The files under conf/, for every task alike: each composes, an experiment brings its scale, sources are pinned."""

import math
import re
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from hydra.utils import get_method
from omegaconf import OmegaConf, open_dict, read_write

from experiments.data.stored_sources import check_stored_sources
from experiments.harness.composition import composed, configs_of, scale_of
from experiments.harness.config import processes_on_node, resolved
from experiments.harness.errors import ConfigError
from experiments.harness.limits import check_conflicts, check_limits
from experiments.harness.run_name import result_config
from experiments.harness.source_code import ROOT, our_tasks
from experiments.harness.sources import check_sources
from experiments.study.directions import with_directions
from tests.harness.test_config import refusal
from tests.study.test_launchers import with_launcher

CONF = ROOT / "conf"
SCALES = sorted(path.stem for path in (CONF / "scale").glob("*.yaml"))
EXPERIMENTS = sorted(f"{path.parent.name}/{path.stem}" for path in (CONF / "experiment").glob("*/*.yaml"))
DEFAULTS = [name for name in EXPERIMENTS if name.partition("/")[2] in SCALES]
"""Chosen by scale=<name> alone"""
DATA = sorted(path.stem for path in (CONF / "data").glob("*.yaml"))
TASK_OF = {"lm": "language_modeling", "ft": "finetuning", "lit": "lit", "diffusion": "diffusion"}
"""by the beginning of a data set's name; image classification's have none"""
PARTS = ("minilm", "efficientnet_lite0", "lit_coco", "lit_flickr30k", "lit_imagenet", "lit_pets")
"""Weights, and sets that are only evaluated: part of another data set's config"""
LAUNCHERS = ["basic", "submitit_local", *sorted(path.stem for path in (CONF / "hydra" / "launcher").glob("*.yaml"))]


@pytest.fixture(scope="module", params=EXPERIMENTS)
def cell(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """Each experiment, and its config with Hydra's own part."""
    task, _, name = request.param.partition("/")
    chosen = [f"scale={name}"] if request.param in DEFAULTS else [f"experiment={request.param}"]
    return request.param, with_launcher(task, *chosen)


def test_every_experiment_composes_with_its_scale_and_declared_metrics(cell: tuple[str, Any]) -> None:
    experiment, cfg = cell
    plain = resolved(cfg)
    check_limits(plain)
    check_conflicts(plain)
    run = plain["run"]
    assert run["gpus"] == 0 or processes_on_node(run["gpus"]) * run["nodes"] % run["shards"] == 0
    assert plain["experiment"] == experiment
    assert plain["scale"] == scale_of(experiment)
    assert "sources" not in str(result_config(plain, "0" * 64))
    study = with_directions(plain)
    assert study["better"] in ("higher", "lower")
    assert study["margin_reason"]
    assert study["primary_reason"]


@cache
def optimizer_config(name: str) -> Any:
    """An optimizer's config as Hydra composes it, not resolved."""
    return composed("image_classification", [f"optimizer={name}"]).optimizer


def test_an_experiment_without_a_search_has_settings_for_each_optimizer_that_it_compares(cell: tuple[str, Any]) -> None:
    experiment, cfg = cell
    assert cfg.study.reference in cfg.study.contestants
    for name in cfg.study.contestants if not cfg.study.stages else []:
        assert name in cfg.settings, f"{experiment} compares {name}"
        taken = OmegaConf.create({"settings": cfg.settings, "optimizer": optimizer_config(name)}).optimizer
        assert {key: taken.get(key) for key in cfg.settings[name]} == cfg.settings[name]


@cache
def launcher_settings(launcher: str) -> Any:
    """A launcher's config as Hydra composes it, not resolved."""
    return with_launcher("lit", f"hydra/launcher={launcher}").hydra.launcher


def test_every_launcher_can_request_what_each_experiment_needs(cell: tuple[str, Any]) -> None:
    """Composing each experiment with each launcher would take minutes, so the launchers' settings, which differ only in
    what they interpolate, are put into the config of the experiment.
    """
    _, cfg = cell
    run = cfg.run
    gpus, cores = 0 if run.device == "cpu" else run.gpus, run.cpus * max(1, int(run.gpus))
    for launcher in LAUNCHERS:
        with read_write(cfg), open_dict(cfg):
            cfg.hydra.launcher = launcher_settings(launcher)
        settings: Any = OmegaConf.to_container(cfg.hydra.launcher, resolve=True)
        if launcher.startswith("ray"):
            assert settings["ray"]["remote"] == {"num_cpus": cores, "num_gpus": gpus}
        if launcher == "slurm":
            assert settings["nodes"] == run.nodes
            assert settings["cpus_per_task"] == cores
            assert settings["gpus_per_node"] == math.ceil(gpus)  # it does not allocate shares


@pytest.mark.parametrize(
    ("overrides", "needed"),
    [
        (["experiment=lit/mini", "scale=gpu"], "mini"),
        (["experiment=lit/b16_b", "scale=mini"], "paper"),
        (["experiment=lit/gpu"], "gpu"),
    ],
)
def test_an_experiment_at_the_wrong_scale_is_refused(overrides: list[str], needed: str) -> None:
    with pytest.raises(ConfigError, match=f"is for scale={needed}, not for scale=.*: pass scale={needed} "):
        check_conflicts(resolved(composed("lit", overrides)))


@pytest.mark.parametrize("flags", [[], ["-m", "hydra/sweeper=study"]])
def test_contradictory_scales_on_the_command_line_end_in_one_sentence(flags: list[str]) -> None:
    assert refusal(*flags, "experiment=image_classification/mini", "scale=gpu") == (
        "error: experiment=image_classification/mini is for scale=mini, not for scale=gpu: pass scale=mini (with make, "
        "SCALE=mini).\n"
    )


@pytest.mark.parametrize("flags", [["-m"], ["-m", "hydra/sweeper=study"]])
def test_sweeping_experiments_at_another_scale_than_the_launchers_is_refused(flags: list[str]) -> None:
    cells = "experiment=image_classification/vit_b16,image_classification/vit_s16"
    assert refusal(*flags, "data=mnist5k", "run.device=cpu", cells, "hydra/launcher=basic") == (
        "error: The swept values choose scale=paper, but the launcher is set up for scale=mini: pass scale=paper too, "
        "and sweep one scale at a time.\n"
    )


@pytest.mark.parametrize(
    ("variables", "chosen"),
    [
        ([], "lit/mini scale=mini"),
        (["SCALE=gpu"], "lit/gpu scale=gpu"),
        (["CELL=gpu"], "lit/gpu scale=gpu"),
        (["CELL=b16_b"], "lit/b16_b"),
        (["CELL=b16_b", "SCALE=mini"], "lit/b16_b scale=mini"),  # which is then refused
    ],
)
def test_make_turns_scale_and_cell_into_an_experiment(variables: list[str], chosen: str) -> None:
    command = ["make", "-n", "reproduce-lit", "plan", "TASK=lit", *variables]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = [re.findall(r" (?:experiment|scale)=\S+", line) for line in made.splitlines() if "experiment=" in line]
    assert ["".join(words) for words in found] == [f" experiment={chosen}"] * 2


@pytest.mark.parametrize("named", [[], ["optimizer=lion,adamw_8bit"]])
def test_make_names_contestants_only_where_asked_to(named: list[str]) -> None:
    """Otherwise they are the experiment's own: `oneshot_1b1` compares Lion with Adafactor."""
    variables = [each.replace("optimizer", "OPTIMIZERS") for each in named]
    command = ["make", "-n", "reproduce-language-modeling", "plan", "CELL=oneshot_1b1", *variables]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = [re.findall(r"optimizer=\S+", line) for line in made.splitlines() if "experiment=" in line]
    assert found == [named] * 2


@pytest.mark.parametrize("task", our_tasks())
@pytest.mark.parametrize("study", sorted(path.stem for path in (CONF / "study").glob("*.yaml")))
def test_every_study_config_is_valid_for_every_task(task: str, study: str) -> None:
    check_limits(resolved(composed(task, [f"study={study}"])))


@pytest.mark.parametrize("optimizer", sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml")))
def test_every_optimizer_composes_under_its_own_name(optimizer: str) -> None:
    plain = resolved(composed("image_classification", [f"optimizer={optimizer}"]))
    check_conflicts(plain)
    assert plain["optimizer"]["name"] == optimizer


@pytest.mark.parametrize("name", sorted({*DATA} - {*PARTS}))
def test_every_data_set_composes_with_its_task(name: str) -> None:
    task = TASK_OF.get(name.partition("_")[0], "image_classification")
    overrides = ["data.image_size=32"] if name.startswith("diffusion_") else []
    assert resolved(composed(task, [f"data={name}", *overrides]))["data"]["name"] == name.removesuffix("_alone")


def sources(data: Any) -> Iterator[Mapping[str, Any]]:
    """Every source in a data set's config, at any depth; of several archives, each of them too."""
    for item in data.values() if isinstance(data, Mapping) else data if isinstance(data, list) else []:
        if isinstance(item, Mapping) and "kind" in item:
            yield item
        yield from sources(item)


@pytest.mark.parametrize("name", DATA)
def test_every_data_source_is_valid_and_pinned_by_hash_or_revision(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(f"data/{name}").data
    data: Any = OmegaConf.to_container(OmegaConf.create({"data": cfg, "model": {"image_size": 96}}), resolve=True)
    data = data["data"]
    assert data["name"] == name.removesuffix("_alone")
    assert data.get("fingerprint") is None or re.fullmatch("[0-9a-f]{64}", data["fingerprint"])
    if "access" in data:
        assert callable(get_method(data["access"]))
    assert bool(data.get("v2_sources")) == bool(data.get("real_sources")) == (name == "imagenet")
    if "mean" in data:
        assert len(data["mean"]) == len(data["std"]) == data["channels"]
    found = list(sources(data))
    assert found
    for source in found:
        assert re.fullmatch("[0-9a-f]{64}", source.get("sha256", "0" * 64))
        if source["kind"] in ("pip", "npm", "apt"):
            assert "sha256" in source
        if name != "imagenet21k":  # its file says why not
            assert re.fullmatch("[0-9a-f]{40}", source.get("revision", "0" * 40))
        if "decode" in source:
            check_sources({"name": name, "sources": [source]}, {"decode"}, {"options"})
            assert callable(get_method(source["decode"]))
        elif source["kind"] in ("local", "hub") and name != "ft_glue":  # rows that stay encoded
            check_stored_sources({"name": name, "sources": [source]})


@pytest.mark.parametrize(
    "overrides",
    [
        ["scale=smoke", "train.steps=3", "optimizer=adamw", "optimizer.lr=1", "seed=2", "data.sources=[{kind: local}]"],
        ["optimizer.lr=1", "+optimizer.space={one: 1}", "optimizer=adamw", "model=convnet_tiny"],
        ["run.runs_dir=a", "study=fixed", "run.runs_dir=b"],
        ["hydra/launcher=slurm", "hydra.launcher.partition=a", "scale=smoke", "train.steps=3"],
        ["optimizer.lr=1", "~optimizer.space", "optimizer.lr=2"],
    ],
)
def test_values_set_in_a_composed_config_give_what_hydra_composes_from_all_overrides(overrides: list[str]) -> None:
    with initialize_config_dir(str(configs_of("image_classification")), version_base="1.3"):
        expected = compose("image_classification", overrides)
    for _ in range(2):
        assert composed("image_classification", overrides) == expected
    with pytest.raises(ConfigCompositionException, match=r"Could not override 'train\.step'"):
        composed("image_classification", ["scale=smoke", "train.step=1"])
