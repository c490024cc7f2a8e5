"""What every benchmark records beside its times, and where its results are written."""

import json
import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from experiments.harness.provenance import environment
from experiments.harness.source_code import ROOT

Results = dict[str, Any]


def machine_and_versions(device: torch.device, packages: Sequence[str]) -> Results:
    """The first entries of results.json: ``device`` (a name), ``environment`` and ``versions``."""
    record = environment("")
    hardware = record["hardware"]
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{hardware['cpu']} {hardware['cpu_count']} cores"
    return {
        "device": name,
        "environment": {key: record[key] for key in ("git_sha", "git_dirty", "python", "hardware")},
        "versions": {package: version(package) for package in packages},
    }


def where_and_with_what(results: Results) -> str:
    """A benchmark's machine, versions and commit, as the last section of its page."""
    environment = results["environment"]
    hardware = environment["hardware"]
    machine = f"{hardware['cpu']}, {hardware['cpu_count']} cores, {hardware['memory_gib']} GiB, {hardware['system']}"
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    commit = environment["git_sha"][:10] + (" with changes" if environment["git_dirty"] else "")
    return f"""## Hardware and versions

{machine}. Python {environment["python"]}, {versions}. Commit {commit}.
"""


def publish(results: Results, folder: Path, write_page: Callable[[Path], None]) -> None:
    """Write results.json into ``folder``/<device>, and the page that ``write_page`` draws from it."""
    directory = folder / re.sub("[^a-z0-9]+", "-", results["device"].lower())
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    write_page(directory)
    print(directory.relative_to(ROOT) / "README.md")
