"""Sources of stored images, the hub or a folder, and their tables. stored.py describes the config of a source."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.data.folders import (
    CLASS_FOLDERS,
    IMAGES_WITH_METADATA,
    is_image_file,
    split_files,
    warn_of_unread,
)
from experiments.harness.errors import DataError
from experiments.harness.offline import hub_source
from experiments.harness.sources import check_sources


def check_stored_sources(data: Mapping[str, Any]) -> None:
    """Raise DataError for a source with a missing or unknown key, or of a kind without tables."""
    check_sources(data, {"splits", "image"}, {"files", "label", "caption"}, kinds=("hub", "local"))
    for source in data["sources"]:
        if ("label" in source) == ("caption" in source):
            fault = "has both keys, label and caption" if "label" in source else "lacks the key label, or caption"
            raise DataError(f"A source of data={data['name']}, of kind {source['kind']}, {fault}.")


def hub_tables(source: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
    """The ``datasets.Dataset`` of each wanted split in a hub repository."""
    import datasets  # type: ignore[import-untyped]  # here, because it takes a second to import

    # The library would check against the whole repository, but ``files`` may select a part; the task counts the rows.
    where = hub_source(source["repo"], source["revision"], source.get("files"))
    splits = datasets.load_dataset(**where, data_files=source.get("files"), verification_mode="no_checks")
    if absent := [theirs for theirs in wanted if theirs not in splits]:
        raise DataError(f"it has no split {absent[0]}, only {', '.join(splits)}.")
    if any(splits[theirs].info.builder_name == "imagefolder" for theirs in wanted):
        raise DataError(
            "it is a folder of images, and the library also guesses splits from class names: download it (hf download "
            "--repo-type dataset) and use the folder as a source of kind local."
        )
    return {theirs: splits[theirs] for theirs in wanted}


def local_tables(source: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
    """The same for a folder; class folders become a table of paths and class names."""
    import datasets

    folder = Path(source["path"]).expanduser().absolute()
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}.")
    tables = {}
    for theirs, (kind, root, files) in split_files(folder, wanted, source.get("files")).items():
        if kind == CLASS_FOLDERS:
            columns = {
                "image": [{"bytes": None, "path": str(path)} for path in files],
                "label": [path.relative_to(root).parts[0] for path in files],
            }
            features = {"image": datasets.Image(decode=False), "label": datasets.Value("string")}
            tables[theirs] = datasets.Dataset.from_dict(columns, datasets.Features(features))
        else:
            if kind == "parquet":
                _check_same_names(files, source.get("label"))
            more = {"drop_labels": True} if kind == IMAGES_WITH_METADATA else {}
            paths = {"train": [str(path) for path in files]}
            rows = datasets.load_dataset(kind, data_files=paths, split="train", **more)
            if kind == IMAGES_WITH_METADATA:
                stored = rows.cast_column("image", datasets.Image(decode=False))["image"]
                listed = {one["path"] for one in stored if one is not None}
                warn_of_unread(root, [path for path in files if is_image_file(path) and str(path) not in listed])
            tables[theirs] = rows
    return tables


def _check_same_names(files: Sequence[Path], label: str | None) -> None:
    """Raise DataError if files of a split number classes differently: the library would use the first's names."""
    import pyarrow.parquet as pq

    first: list[str] | None = None
    for path in files:
        written = json.loads((pq.read_schema(path).metadata or {}).get(b"huggingface", b"{}"))
        names = written.get("info", {}).get("features", {}).get(label, {}).get("names")
        first = first or names
        if names != first:
            raise DataError(f"{path.name} numbers its classes differently from {files[0].name}.")
