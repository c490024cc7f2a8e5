"""ImageNet and similar sets: training and test split, and extras (ImageNetV2, reassessed labels, the run to start
from).

``open_stored`` is the ``data.access`` of these sets.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from experiments.data.stored import StoredSplit, check_fingerprint, check_splits, open_splits
from experiments.harness.errors import DataError
from experiments.harness.provenance import ROOT
from experiments.harness.record import read_status
from experiments.image_classification.reassessed_labels import read_reassessed_labels


@dataclass(frozen=True)
class StoredSet:
    """A labelled image set of encoded files, and the extras in its config."""

    train: StoredSplit
    test: StoredSplit
    v2: StoredSplit | None
    real_labels: np.ndarray | None
    """int64 [test rows, most labels of one image]; see reassessed_labels.py"""
    initial_run: Path | None
    """folder of the run whose final weights training starts from"""
    fingerprint: str
    """SHA-256 over all of the above: labels, encoded lengths, the run's name"""


def open_stored(data: Mapping[str, Any], cache_dir: Path) -> StoredSet:
    """The set that the config group ``data`` declares, from the first of its sources that has it.

    The fingerprint depends on the order of the rows, so runs on a hub's copy and on a folder have different names.
    ``cache_dir`` is unused: the ``datasets`` library has its own cache. Raises DataError if the set is not what the
    config says.
    """
    splits = open_splits(data["name"], data["places"], data["num_classes"])
    check_splits(splits, ("train", "test"), data["name"])
    train, test = splits["train"], splits["test"]
    if data["train_images"] not in (None, len(train)):
        raise DataError(
            f"data={data['name']} has {len(train)} training images here, but data.train_images={data['train_images']}: "
            f"complete it, or set data.train_images={len(train)} to train on these and count epochs accordingly."
        )
    v2 = None
    if data["v2_places"]:
        of_v2 = open_splits(f"{data['name']}/v2", data["v2_places"], data["num_classes"], train.class_names)
        check_splits(of_v2, ("test",), f"{data['name']}/v2")
        v2 = of_v2["test"]
    real_file = _first_file(data["name"], data["real_places"]) if data["real_places"] else None
    initial_run = _find_run(data["initial_run"], data["initial_places"]) if data["initial_run"] else None
    content = {
        **{split.name: split.fingerprint() for split in (train, test, v2) if split},
        "real": hashlib.sha256(real_file.read_bytes()).hexdigest() if real_file else None,
        "initial_run": initial_run.name if initial_run else None,
    }
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    check_fingerprint(data, fingerprint)
    real_labels = read_reassessed_labels(real_file, test.file_names()) if real_file else None
    return StoredSet(train, test, v2, real_labels, initial_run, fingerprint)


def _first_file(name: str, paths: list[str]) -> Path:
    found = [Path(path).expanduser() for path in paths if Path(path).expanduser().is_file()]
    if not found:
        raise DataError(
            f"data={name} has no reassessed labels (ReaL): put real.json of github.com/google-research/"
            f"reassessed-imagenet at {' or '.join(paths)}, or use data=imagenet_alone, which needs neither these nor "
            "ImageNetV2."
        )
    return found[0]


def _find_run(name: str, places: list[dict[str, Any]]) -> Path:
    """The folder of the one complete run on the data set ``name`` that matches a source's path pattern (relative to the
    repository, or absolute) and model.
    """
    found = []
    for place in places:
        for run in (ROOT / place["path"]).parent.glob(Path(place["path"]).name):
            if (read_status(run) or {}).get("status") == "complete":
                config = OmegaConf.load(run / "config.yaml")
                if (config.data.name, config.model.get("model_name")) == (name, place["model_name"]):
                    found.append(run)
    if len(found) != 1:
        looked = " or ".join(f"{place['path']} with model {place['model_name']}" for place in places)
        raise DataError(
            f"Training starts from the complete run on {name}, of which there must be exactly one, but {looked} has "
            f"{len(found)}: finish the study that makes it (named in the header of the experiment's file), or put the "
            "run's folder into data.initial_places."
        )
    return found[0]
