"""On a machine with a network, prepare everything a cell's runs need: data, weights, tokenizers, shared features.

    python -m experiments.harness.fetch image_classification mini

Everything goes into the cache (LION_CACHE), including what the Hugging Face libraries cache; after that, LION_OFFLINE=1
runs the cell without a network. The task ``all`` stands for every task of the suite.
"""

import argparse
import importlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.harness.composition import composed
from experiments.harness.config import resolved
from experiments.harness.errors import DataError
from experiments.harness.explained import one_sentence
from experiments.harness.offline import FETCHES_ALL, HUB, cache_of, is_offline, keep_hub_files_in
from experiments.harness.run import locate
from experiments.harness.source_code import our_tasks, task_name, task_package

MODEL_FILES = ["*.json", "*.safetensors", "*.model", "*.txt"]
"""Files to download from a model's repository: its config, weights (never pickles) and tokenizer."""


@dataclass(frozen=True)
class Fetched:
    """What a cell's runs need from the cache because they cannot compute it."""

    cache_dir: Path
    folders: list[Path]
    """relative to cache_dir"""
    read_in_place: list[Path]
    """the user's own local folders, which are not part of the cache"""


def fetch(cfg: DictConfig) -> Fetched:
    """Fetch data, weights and tokenizers that are not in the cache. Raises DataError if one cannot be obtained."""
    if is_offline():
        raise DataError("LION_OFFLINE=1 forbids the network, so nothing can be fetched: unset it.")
    plain = resolved(cfg)
    cache_dir = cache_of(plain)
    os.environ[FETCHES_ALL] = "1"
    keep_hub_files_in(cache_dir)
    data = locate(cfg).data
    undecoded = [place for place in _mappings(plain["data"]) if "kind" in place and "decode" not in place]
    tables = [f"datasets--{place['repo']}" for place in undecoded if place["kind"] == "hub" and "repo" in place]
    models = [f"models--{repo}" for repo in _fetched_models(plain)]
    hub = [cache_dir / HUB / "hub" / name.replace("/", "--") for name in [*tables, *models]]
    local = [Path(source["path"]).expanduser().absolute() for source in undecoded if source["kind"] == "local"]
    return Fetched(
        cache_dir,
        [folder.relative_to(cache_dir) for folder in dict.fromkeys([*_opened(data), *hub]) if folder.exists()],
        [folder for folder in dict.fromkeys(local) if folder.exists()],
    )


def compute_features(cfg: DictConfig) -> bool:
    """Have the task compute and cache the features that its runs share. Returns False, computing nothing, if the runs
    need a GPU and there is none: elsewhere the bits, and so the name in the cache, would differ.
    """
    run = locate(cfg)
    import torch

    from experiments.harness.accelerator import make_accelerator

    if cfg.run.device != "cpu" and not torch.cuda.is_available():
        return False
    make_accelerator(run.cfg)  # sets the thread count and the like, which affect features
    importlib.import_module(f"{task_package(cfg.task)}.task").build(run.cfg, run.data)
    return True


def _opened(opened: Any) -> Iterator[Path]:
    """The cache folders of the data that a task has opened, found by walking its fields."""
    if isinstance(directory := getattr(opened, "directory", None), Path):
        yield directory
    elif is_dataclass(opened):
        for field in fields(opened):
            yield from _opened(getattr(opened, field.name))
    elif isinstance(opened, Mapping):
        for one in opened.values():
            yield from _opened(one)


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping in a config, at any depth."""
    if isinstance(value, Mapping):
        yield value
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else []:
        yield from _mappings(item)


def _fetched_models(plain: Mapping[str, Any]) -> Iterator[str]:
    """Fetch the networks and tokenizers that a config takes from the hub; yields the names of their repositories."""
    from huggingface_hub import snapshot_download
    from hydra.utils import get_object, instantiate

    for node in _mappings({key: plain[key] for key in ("model", "text") if plain.get(key)}):
        target = str(node.get("_target_", ""))
        weights = node.get("weights")
        repo, revision = node.get("pretrained_model_name_or_path"), node.get("revision")
        if isinstance(weights, Mapping):
            repo, revision = weights["path"], weights.get("revision")
        if repo and not Path(repo).exists():
            snapshot_download(repo, revision=revision, allow_patterns=MODEL_FILES)
            yield repo
        elif target == "timm.create_model" and node.get("pretrained"):
            import timm

            instantiate(node)
            described = timm.get_pretrained_cfg(node["model_name"])
            assert described, node
            yield str(described.hf_hub_id)
        elif target and (own := getattr(get_object(target), "fetch", None)):
            yield own()
        elif node.get("clip_model"):
            import open_clip

            open_clip.create_model(node["clip_model"], pretrained=node["clip_weights"])
            yield open_clip.get_pretrained_cfg(node["clip_model"], node["clip_weights"])["hf_hub"].strip("/")


def cell_configs(task: str, cell: str, overrides: list[str]) -> dict[str, DictConfig]:
    """The config of one of a cell's runs, by task: of ``task`` alone, or of every task of the suite for ``all``."""
    tasks = our_tasks() if task == "all" else [task_name(task)]
    return {name: composed(name, [f"experiment={name}/{cell}", *overrides]) for name in tasks}


def bytes_below(folder: Path) -> int:
    """Total size of the files in a folder; a link does not count the file it points to."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def main(task: str, cell: str, overrides: list[str]) -> None:
    """Fetch what the experiment ``cell`` of ``task`` needs, and print where it is."""
    for name, cfg in cell_configs(task, cell, overrides).items():
        fetched = fetch(cfg)
        size = sum(bytes_below(fetched.cache_dir / folder) for folder in fetched.folders)
        print(f"{name}/{cell}: {size / 1e6:,.1f} MB in {fetched.cache_dir}", flush=True)
        for folder in fetched.read_in_place:
            print(f"{name}/{cell}: {folder} is read in place; keep it at that path.", flush=True)
        if not compute_features(cfg):
            print(f"{name}/{cell}: features of frozen networks, if any, are computed by the first run on a GPU.")
    print(f"To run without a network: LION_OFFLINE=1 LION_CACHE={fetched.cache_dir}")


def arguments(program: str, description: str) -> dict[str, Any]:
    """The keyword arguments of ``main``, from the command line."""
    parser = argparse.ArgumentParser(prog=program, description=description.splitlines()[0])
    parser.add_argument("task", help="lit, for example, my_package.my_task, or all")
    parser.add_argument("cell", help="an experiment of the task: mini, for example")
    parser.add_argument("overrides", nargs="*", default=[], help="Hydra's, such as data=cifar100")
    return vars(parser.parse_args())


if __name__ == "__main__":
    with one_sentence():
        main(**arguments("python -m experiments.harness.fetch", __doc__))
