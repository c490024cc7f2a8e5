"""CONTRIBUTING.md's table of packages is true: each imports only from below it, and no task imports another."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.harness.source_code import ROOT, our_tasks

TABLE = re.findall(r"^\| ((?:`[\w/]+`,? ?)+) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
ROWS = [re.findall(r"`([\w/]+)`", cell) for cell in TABLE]
"""Packages by row, the lowest first; those of one row do not import each other."""


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, with slashes for dots."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name.replace(".", "/") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: a relative import"
            yield node.module.replace(".", "/")


def test_the_table_has_every_package() -> None:
    packages = {f"experiments/{path.parent.name}" for path in (ROOT / "experiments").glob("*/__init__.py")}
    assert {name for row in ROWS for name in row} == packages | {"lion", "hydra_plugins", "benchmarks"}
    assert [f"experiments/{task}" for task in our_tasks()] in map(sorted, ROWS)


@pytest.mark.parametrize("height", range(len(ROWS)))
def test_packages_import_only_those_in_lower_rows(height: int) -> None:
    forbidden = {name for row in ROWS[height:] for name in row}
    for package in ROWS[height]:
        for path in (ROOT / package).rglob("*.py"):
            for module in imported(path):
                there = {name for name in forbidden - {package} if f"{module}/".startswith(f"{name}/")}
                assert not there, f"{path} imports {module}"
