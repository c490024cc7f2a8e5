"""The digest that decides whether an earlier run may be reused."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.harness import source_code

OURS = {
    "experiments/__init__.py": "",
    "experiments/harness/__init__.py": "",
    "experiments/harness/entry.py": "def main():\n    from experiments.harness.train import train\n    train()\n",
    "experiments/harness/train.py": '"""Train."""\nimport torch\nfrom lion import measure_step\nSTEPS = 1\n',
    "experiments/study/__init__.py": "",
    "experiments/study/sweep.py": "from experiments.harness import entry\n",
    "experiments/toy/__init__.py": "",
    "experiments/toy/task.py": "from . import model\n",
    "experiments/toy/model.py": "class Model:\n    '''A model.'''\n\n    width = 3  # channels\n",
    "experiments/toy/decode.py": "SIZE = 1\n",
    "experiments/other/__init__.py": "",
    "experiments/other/task.py": "SIZE = 1\n",
    "lion/__init__.py": "from lion.kernel import measure_step\n",
    "lion/kernel.py": "from importlib import import_module\nkernel = import_module('lion.fused_cpu')\n",
    "lion/fused_cpu.py": "",
    "lion/fused_cpu.cpp": "int f() { return 1; }\n",
}
CONFIG = {
    "task": "toy",
    "data": {"access": "experiments.toy.decode.read", "sources": [{"decode": "experiments.other.task.decode"}]},
    "optimizer": {"_target_": "somebodys_own.Optimizer", "lr": 0.1, "name": "own"},
    "run": {"wandb_project": "experiments.other.task"},
}
OWN = "import math\nfrom somebodys_own import rates\n\n\nclass Optimizer:\n    rate = 1\n"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small suite, and a user's own package next to it."""
    for name, text in OURS.items():
        (tmp_path / "suite" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "suite" / name).write_text(text)
    own = tmp_path / "elsewhere" / "somebodys_own"
    own.mkdir(parents=True)
    (own / "__init__.py").write_text(OWN)
    (own / "rates.py").write_text("RATE = 1\n")
    (own / "unused.py").write_text("RATE = 1\n")
    monkeypatch.setattr(source_code, "ROOT", tmp_path / "suite")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    yield tmp_path
    forget()


def forget() -> None:
    source_code.digest.cache_clear()
    source_code.program_in.cache_clear()


def digest(**changed: Any) -> str:
    forget()
    return source_code.sources_digest({**CONFIG, **changed})


def edit(path: Path, change: Callable[[str], str], **changed: Any) -> tuple[str, str]:
    """The digests, with these config values, before and after a file's text is changed."""
    before, text = digest(**changed), path.read_text()
    assert change(text) != text
    path.write_text(change(text))
    return before, digest(**changed)


def doubled(text: str) -> str:
    return text.replace("1", "2")


@pytest.mark.parametrize(
    "name",
    [
        "experiments/harness/train.py",  # imported in a function
        "experiments/toy/model.py",  # imported relatively
        "lion/fused_cpu.cpp",  # next to a module that import_module is called with
        "experiments/harness/entry.py",
    ],
)
def test_a_change_to_imported_suite_code_changes_the_suites_digest(checkout: Path, name: str) -> None:
    before, after = edit(checkout / "suite" / name, lambda text: text.replace("1", "2").replace("3", "4") + "\nX = 5\n")
    assert before.partition("-")[0] != after.partition("-")[0]


@pytest.mark.parametrize(
    "name", ["suite/experiments/toy/decode.py", *(f"elsewhere/somebodys_own/{n}.py" for n in ("__init__", "rates"))]
)
def test_a_change_to_a_module_named_in_the_config_changes_only_the_runs_own_digest(checkout: Path, name: str) -> None:
    before, after = edit(checkout / name, doubled)
    assert before.partition("-")[0] == after.partition("-")[0]
    assert before.partition("-")[2] != after.partition("-")[2]


@pytest.mark.parametrize(
    "name",
    [
        "suite/experiments/study/sweep.py",
        "suite/experiments/other/task.py",  # belongs to another task, though a data source and the group run name it
        "elsewhere/somebodys_own/unused.py",
    ],
)
def test_a_change_to_a_module_that_is_not_imported_leaves_the_digest(checkout: Path, name: str) -> None:
    before, after = edit(checkout / name, lambda text: text + "\nX = 5\n")
    assert before == after


@pytest.mark.parametrize("name", ["__init__", "rates"])
def test_imports_through_a_namespace_package_are_followed(checkout: Path, name: str) -> None:
    own = checkout / "elsewhere" / "somebodys_own"
    (own / "inner").mkdir()
    for path in own.glob("*.py"):
        path.rename(own / "inner" / path.name)
    (own / "inner" / "__init__.py").write_text(OWN.replace("from somebodys_own import", "from . import"))
    before, after = edit(own / f"inner/{name}.py", doubled, optimizer={"_target_": "somebodys_own.inner.Optimizer"})
    assert before != after


@pytest.mark.parametrize("name", ["task", "rates"])
def test_an_external_tasks_code_is_part_of_the_suites_digest(checkout: Path, name: str) -> None:
    own = checkout / "elsewhere" / "somebodys_own"
    (own / "task.py").write_text("from somebodys_own import rates\nSIZE = 1\n")
    (own / "nested").mkdir()
    (own / "nested" / "task.py").write_text("from somebodys_own import task\n")
    before, after = edit(own / f"{name}.py", doubled, task="somebodys_own.nested")
    assert before.partition("-")[0] != after.partition("-")[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "# why\n\n\n" + text,
        lambda text: text.replace("A model.", "The model."),
        lambda text: text.replace("  # channels", ""),
        lambda text: text.replace("width = 3", "width = (3)"),
    ],
)
def test_comments_docstrings_and_formatting_do_not_change_the_digest(
    checkout: Path, change: Callable[[str], str]
) -> None:
    before, after = edit(checkout / "suite/experiments/toy/model.py", change)
    assert before == after


def test_a_package_version_changes_the_suites_digest(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest()
    monkeypatch.setattr(source_code, "version", lambda name: "0.0.1")
    assert before.partition("-")[0] != digest().partition("-")[0]


def test_the_suites_digest_covers_lions_kernels_but_no_study_code() -> None:
    files = source_code.programs(
        ["experiments.image_classification.task", "experiments.harness.entry"], {"experiments", "lion"}
    )
    names = {str(path.relative_to(source_code.ROOT)) for path in files}
    assert {"lion/fused_cpu.py", "lion/fused_cuda.py", "experiments/harness/train.py"} <= names
    assert not any(name.startswith(("experiments/study", "experiments/report", "experiments/lit")) for name in names)


def test_every_version_of_python_reads_the_same_program(checkout: Path) -> None:
    """Python 3.12 changed how f-strings are parsed and which fields functions and classes have."""
    (checkout / "suite/experiments/toy/model.py").write_text(
        'class Model:\n    """A model."""\n\n    def f(self, x=None, *y):\n'
        """        return f"{x!r:>{y[0]}} 'and' {[a for a in y]}" "." if x else lambda: -1.5j\n"""
    )
    found = source_code.programs(["experiments.toy.task"], {"experiments"})
    (program,) = (text for name, text in found.values() if name == "experiments.toy.model")
    in_3_11_3_12_and_3_13 = "64fb6677d1e3dd30"
    assert hashlib.sha256(program.encode()).hexdigest()[:16] == in_3_11_3_12_and_3_13
