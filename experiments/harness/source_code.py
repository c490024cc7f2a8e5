"""Find the source files that decide what a run computes, without importing them, and compute their digest.

Import statements are followed from the modules that every run of a task starts with, and from those named in its config
(``_target_`` and the like), such as a user's own optimizer. The digest covers the parsed program: comments, formatting,
and the docstrings of modules, classes and functions do not affect it (those of fields and constants do), nor does the
version of Python.
"""

import ast
import hashlib
import re
import sys
import warnings
from collections.abc import Container, Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "PIL": "pillow",
    "accelerate": "accelerate",
    "timm": "timm",
    "transformers": "transformers",
    "diffusers": "diffusers",
    "open_clip": "open_clip_torch",
}
"""Distributions by the module they provide. Their versions stand for their sources: a replicate never mixes two."""

DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def task_package(task: str) -> str:
    """The package of a task's modules (config, data, ...): ``lit`` is ours, ``my_package.my_task`` a user's own."""
    return task if "." in task else f"experiments.{task}"


def our_tasks() -> list[str]:
    """The tasks of the suite, in alphabetical order."""
    return sorted(path.parent.name for path in (ROOT / "experiments").glob("*/models.py"))


def task_name(spelt: str) -> str:
    """The name of the task's package, however it was ``spelt``, such as ``language-modeling`` in make's targets."""
    return spelt if "." in spelt else spelt.replace("-", "_")


def sources_digest(config: Mapping[str, Any]) -> str:
    """``<16 hex>-<8 hex>`` for a resolved config: the suite and the packages, then any other code the config names. The
    runs of a study share the first part; those of one optimizer share both.
    """
    return digest(config["task"], tuple(sorted(_named(config))))


def own_digest(config: Mapping[str, Any]) -> str:
    """The second part of ``sources_digest``: code that the config names outside the suite and PACKAGES."""
    return sources_digest(config).partition("-")[2]


def has_own_code(config: Mapping[str, Any]) -> bool:
    """Whether the config names such code; much faster than computing its digest."""
    return any(_files(name) for name in _named(config) if name.partition(".")[0] not in ("experiments", "lion"))


def _named(config: Mapping[str, Any]) -> set[str]:
    return {text for key, value in config.items() if key != "run" for text in _dotted_names(value)}


@cache
def digest(task: str, named: tuple[str, ...]) -> str:
    """The digest for runs of a task whose configs name these modules, from the files as they are when first read."""
    package = task_package(task)
    own = {"experiments", "lion", package.partition(".")[0]}
    suite = programs([f"{package}.task", "experiments.harness.entry"], own)
    others = programs(named, {name.partition(".")[0] for name in named})
    versions = repr(sorted(package_versions().items()))
    return f"{_hash(suite, versions)[:16]}-{_hash({path: others[path] for path in others.keys() - suite}, '')[:8]}"


def package_versions() -> dict[str, str]:
    """Installed versions of PACKAGES."""
    versions = {}
    for name in PACKAGES.values():
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _dotted_names(value: Any) -> Iterable[str]:
    """All strings in a config that look like ``package.module.name``, except in data sources."""
    if isinstance(value, str) and DOTTED_NAME.fullmatch(value):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not str(key).endswith("sources"):
                yield from _dotted_names(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _dotted_names(item)


def programs(names: Iterable[str], packages: Container[str]) -> dict[Path, tuple[str, str]]:
    """The name and the program, without docstrings, of each module that contains one of ``names``, and of everything
    that these import from ``packages``.
    """
    found: dict[Path, tuple[str, str]] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        for path, package in _files(name).items() if name.partition(".")[0] in packages else ():
            if path not in found:
                program, imported = program_in(path, package)
                found[path] = f"{package}.{path.stem}", program
                waiting += imported
    return found


def _files(name: str) -> dict[Path, str]:
    """The files of the packages and the module in a dotted name, as far as they exist, each with its parent package;
    empty for PACKAGES and the standard library.
    """
    first, *rest = name.split(".")
    if first in PACKAGES or first in sys.stdlib_module_names:
        return {}
    if (ROOT / first).is_dir():  # the suite's own, even where another checkout is installed
        folder = ROOT
    else:
        spec = find_spec(first)
        paths = [*(spec.submodule_search_locations or ()), *filter(None, [spec.origin])] if spec else []
        if not paths:
            return {}
        folder = Path(paths[0]).parent
    files, package = {}, ""
    for part in [first, *rest]:
        module, initial = folder / f"{part}.py", folder / part / "__init__.py"
        inner = f"{package}.{part}".lstrip(".")
        if initial.exists():
            files[initial] = inner
        elif module.exists():
            files[module] = package
            break
        elif not (folder / part).is_dir():  # else a package without an __init__.py
            break
        folder, package = folder / part, inner
    return files


@cache
def program_in(path: Path, package: str) -> tuple[str, list[str]]:
    """The program of a file in ``package`` without its docstrings, as words that are the same in every version of
    Python, and the dotted names that it imports.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escapes in a package's strings, such as torchao's
        tree = ast.parse(path.read_bytes())
    words, imported, waiting = [], [], [tree]  # type: list[str], list[str], list[Any]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            words.append(str(len(node)))
            waiting += node
        elif isinstance(node, ast.AST):
            imported += _imported(node, package)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
                ast.get_docstring(node, clean=False) is not None
            ):
                node.body[0] = ast.Pass()
            if isinstance(node, ast.JoinedStr):  # Python 3.12.1 adds empty strings to f-strings
                node.values = [part for part in node.values if getattr(part, "value", None) != ""]
            # Versions of Python differ in which fields a node has, but not in those that are filled.
            filled = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
            words += [type(node).__name__, *filled]
            waiting += filled.values()
        else:
            words.append(repr(node))
    return " ".join(words), imported


def _imported(node: ast.AST, package: str) -> list[str]:
    """The dotted names that a node of a file in ``package`` imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        module = ".".join([*parents, *filter(None, [node.module])])
        return [f"{module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and DOTTED_NAME.fullmatch(node.value):
        return [node.value]  # an argument of import_module
    return []


def _hash(found: Mapping[Path, tuple[str, str]], start: str) -> str:
    hashed = hashlib.sha256(start.encode())
    for path, (name, program) in sorted(found.items(), key=lambda item: item[1]):
        hashed.update(f"{name}\0{program}\0".encode())
        if (native := path.with_suffix(".cpp")).exists():
            hashed.update(native.read_bytes())
    return hashed.hexdigest()
