"""Report errors of a command line, Hydra's among them, in one sentence that suggests the closest existing name."""

import difflib
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig

from experiments.harness.composition import scale_of, scales
from experiments.harness.errors import DISK_FULL, SuiteError, first_cause, first_line
from experiments.harness.source_code import ROOT, our_tasks

KINDS = {"Integer": "a whole number", "Float": "a number", "valid bool": "true or false"}
"""Expected values, by the last words of OmegaConf's error message."""
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "Unable to allocate")
"""What CUDA's, PyTorch's CPU and NumPy's messages contain."""


@contextmanager
def one_sentence(task: str = "") -> Iterator[None]:
    """Print a SuiteError, a full disk or a lack of memory as one sentence on stderr with exit code 2, also if Ray has
    wrapped it. The sentence for an experiment that does not exist lists those of ``task``.
    """
    try:
        yield
    except (SuiteError, HydraException, OSError, MemoryError, RuntimeError) as error:
        fault = getattr(error, "cause", error)
        if isinstance(fault, HydraException):
            fault = explained(fault, task)
        elif isinstance(error, OSError) and error.errno not in DISK_FULL:
            raise
        elif isinstance(error, MemoryError | RuntimeError):  # PyTorch's are RuntimeErrors
            if not any(words in str(error) for words in OUT_OF_MEMORY):
                raise
            fault = (
                "The run needs more memory than there is: lower train.micro_batch_size, or choose a smaller model or "
                f"smaller inputs ({first_line(error)})."
            )
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(2)


def explained(error: HydraException, task: str = "") -> str:
    """The sentence; for a fault that is not about a key, a value or a choice, the first lines of Hydra's message."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_choice(error.missing_cfg_file, error.options or [], task)
    if isinstance(error, OverrideParseException) and (advice := _unreadable(error.override)):
        return advice
    said, cause = str(error), error.__cause__
    if isinstance(error, InstantiationException) and cause:
        first = first_cause(cause)
        reason = f"{type(first).__name__}: {first}"
        if isinstance(first, ModuleNotFoundError):
            reason = f"Python finds no module or class {first.name}."
        return f"{said.partition(', set env var')[0]}: {reason}"
    if given := re.match(r"Ambiguous value for argument '(([^=]*)=(.*))'", said):
        return (
            f"{given[1]} gives several values: -m runs one after the other (with hydra/sweeper=study it is a study); a "
            f"single list is written {given[2]}=[{given[3]}]."
        )
    if given := re.match(r"Could not override '(.*)'", said):
        section, _, name = given[1].rpartition(".")
        parent: Any = getattr(cause, "parent_node", None)
        beside = [str(key) for key in parent if key != "hydra"] if isinstance(parent, DictConfig) else []
        return f"There is no setting {given[1]}: {nearest(name, beside, folder=f'{section}.' if section else '')}"
    if (given := re.match(r"Error merging override ~(\S+)", said)) and "does not support deletion" in str(cause):
        return f"{given[1]} cannot be removed (~{given[1]}), because every run needs it: give it a value."
    if given := re.match(r"Error merging override ([^=]*)=", said):
        value = re.match(r"Value '(.*?)' .*(?:converted to|not a) (Integer|Float|valid bool)", str(cause))
        if value:
            return f"{given[1]} must be {KINDS[value[2]]}, but it is '{value[1]}'."
        if isinstance(section := getattr(cause, "child_node", None), DictConfig):
            keys = ", ".join(f"{given[1]}.{key!s}" for key in section)
            return f"{given[1]} holds several settings: set one of {keys}."
        said = f"{given[1]}: {str(cause).partition(chr(10))[0]}"
    if given := re.search(r"Key '.*?' not in '(.*?)'\s+full_key: (\S+)", said):
        schema, key = given.groups()
        file = re.match(r"In '(.*?)'", said)
        return (
            f"{f'{file[1]}.yaml sets' if file else 'There is no setting'} {key}, which {schema} does not declare: "
            "correct its name, or, if the task is your own, declare it in a subclass (docs/your-own.md)."
        )
    lines = [line.strip(" .:") for line in said.splitlines() if line.strip() and "https://hydra.cc" not in line]
    return f"{'. '.join(lines[:2]) or str(cause).partition(chr(10))[0]}."


def _unreadable(override: str) -> str:
    """The sentence for a text that Hydra's grammar does not read, with the argument that it does read as this text.
    Empty if there is none, or if it was meant to be a list, a dict or a quoted text.
    """
    given = re.fullmatch(r"([+\w./@:-]+)=([^\[{'\",][^,]*)", override)
    if not given:
        return ""
    key, text = given[1], os.path.expanduser(given[2])
    reason = "the value must be quoted" if text == given[2] else "the shell expands ~ only at the start of a word"
    escaped = text.replace('"', '\\"')
    for argument in (f"{key}={text}", f'{key}="{escaped}"'):
        with suppress(HydraException):
            if OverridesParser.create().parse_override(argument).value() == text:
                return f"{override} cannot be read, because {reason}: write {shlex.quote(argument)}."
    return ""


def nearest(name: str, names: Sequence[str], key: str = "", folder: str = "") -> str:
    """The end of a sentence that suggests the most similar of ``names`` in ``folder``, or lists all of them."""
    if alike := difflib.get_close_matches(name, names, n=1):
        return f"did you mean {key}{folder}{alike[0]}?"
    return f"there are {', '.join(folder + each for each in names)}." if names else "leave it out."


def _missing_choice(path: str, options: Sequence[str], of_task: str) -> str:
    """The sentence for a choice in a config group whose file, ``path`` under conf/, does not exist."""
    group, _, name = path.rpartition("/")
    said, task = f"There is no {group}={name}: ", ""
    if group.startswith("experiment"):  # they are in a folder for each task
        said = f"There is no {path.replace('/', '=', 1)}: "
        group, _, task = group.partition("/")
        task = task or (of_task if of_task in our_tasks() else "")
    files = sorted((ROOT / "conf" / group / task).glob("*.yaml"))
    names = sorted({*options, *(file.stem for file in files)})
    if group != "experiment" or name not in scales() or difflib.get_close_matches(name, names):
        return said + nearest(name, names, f"{group}=", f"{task}/" if task else "")
    lines = "\n".join(
        f"  CELL={file.stem:<22} {file.read_text().splitlines()[1].lstrip('# ')}" for file in cells(files)
    )
    return (
        f"{said}choose one of these with CELL=.\n{lines}\n"
        f"`make plan SCALE={name}{f' TASK={task}' if task != 'image_classification' else ''}` shows what each costs."
    )


def cells(files: Sequence[Path]) -> list[Path]:
    """Those of the experiments' ``files`` that are the paper's cells."""
    return [file for file in files if scale_of(f"{file.parent.name}/{file.stem}") == "paper"]
