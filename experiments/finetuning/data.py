"""What a fine-tuning run reads: labelled texts and weights (data.access is ``open_texts``), or GLUE (``open_glue``).

Labelled texts are these arrays, which ``text_arrays`` splits without leaks into train, val and test:

texts   uint8: all texts in UTF-8, separated by newlines
labels  int64 [texts]
splits  uint8 [texts]: 0 train, 1 val, 2 test
groups  int64 [texts]: texts of the same group are in the same split

GLUE comes from the hub, or from a folder in the hub's layout (a folder of parquet files for each task). A source has
``kind`` hub, with repo and revision, or local, with path.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.text import folded
from experiments.finetuning.glue import TASKS, answer, prompt
from experiments.harness.errors import ConfigError, DataError, first_line
from experiments.harness.offline import hub_source
from experiments.harness.prepared_data import PreparedData, check_fingerprint, joint_fingerprint, prepare
from experiments.harness.seeds import derive_seed
from experiments.harness.sources import check_sources, first_of

SPLITS = ("train", "val", "test")
VAL_PERCENT = 15
TEST_PERCENT = 25
"""per cent of the groups"""
MOST_HELD_OUT = 0.05
"""The largest share of a task's training rows that is held out: RTE has only 2 490 rows."""


@dataclass(frozen=True)
class TextSet:
    """The opened data of the config group ``data`` for labelled texts."""

    texts: PreparedData
    weights: PreparedData | None
    cache_dir: Path
    fingerprint: str
    """SHA-256 over the fingerprints of both"""


def open_texts(data: Mapping[str, Any], cache_dir: Path) -> TextSet:
    """Open, and if necessary download, the texts and the weights."""
    texts = prepare(data, cache_dir)
    weights = prepare(data["weights"], cache_dir) if data["weights"] else None
    fingerprint = joint_fingerprint({"texts": texts.fingerprint, "weights": weights.fingerprint if weights else None})
    return TextSet(texts, weights, cache_dir, fingerprint)


@dataclass(frozen=True)
class LabelledTexts:
    """One split."""

    texts: list[str]
    labels: np.ndarray
    """int64 [texts]"""
    groups: np.ndarray
    """int64 [texts]"""


def text_arrays(
    texts: Sequence[str],
    labels: Sequence[int],
    groups: Sequence[str],
    splits: Sequence[str] | None = None,
    draws_val: bool = False,
) -> dict[str, np.ndarray]:
    """The arrays for texts that each belong to a group, such as the film that they are about.

    A hash of the group's name decides the split. If ``splits`` are given, they are used instead, and with ``draws_val``
    the hash only takes val out of train. Of texts that are equal by experiments/data/text.py only the first is kept, so
    that none is in two splits. Raises ValueError for a text without visible characters.
    """
    first: dict[str, int] = {}
    flat = [" ".join(text.split()) for text in texts]
    for number, text in enumerate(flat):
        if not folded(text):
            raise ValueError(f"text {number} (of the group {groups[number]!r}) is empty")
        first.setdefault(folded(text), number)
    kept = sorted(first.values())
    number_of = {group: number for number, group in enumerate(dict.fromkeys(groups[row] for row in kept))}
    return {
        "texts": np.frombuffer("\n".join(flat[number] for number in kept).encode(), np.uint8),
        "labels": np.array([labels[number] for number in kept], np.int64),
        "splits": np.array(
            [_split(groups[row], splits[row] if splits is not None else None, draws_val) for row in kept], np.uint8
        ),
        "groups": np.array([number_of[groups[number]] for number in kept], np.int64),
    }


def _split(group: str, own: str | None, draws_val: bool) -> int:
    percent = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") % 100
    if own is not None:
        return 1 if own == "train" and draws_val and percent < VAL_PERCENT else SPLITS.index(own)
    return 1 if percent < VAL_PERCENT else 2 if percent < VAL_PERCENT + TEST_PERCENT else 0


def text_splits(arrays: Mapping[str, np.ndarray]) -> dict[str, LabelledTexts]:
    """Train, val and test."""
    texts = arrays["texts"].tobytes().decode().split("\n")
    splits = {}
    for number, name in enumerate(SPLITS):
        rows = np.nonzero(arrays["splits"] == number)[0]
        labels, groups = (np.array(arrays[key][rows]) for key in ("labels", "groups"))
        splits[name] = LabelledTexts([texts[row] for row in rows], labels, groups)
    return splits


@dataclass(frozen=True)
class GlueRows:
    """Some rows of one task."""

    task: str
    texts: tuple[list[str], ...]
    """a list [rows] for each of the task's columns"""
    labels: np.ndarray
    """float64 [rows]: class indices, or similarities"""

    def __len__(self) -> int:
        return len(self.labels)

    def prompt(self, row: int) -> str:
        """The prompt for a row."""
        return prompt(self.task, [texts[row] for texts in self.texts])

    def answer(self, row: int) -> str:
        """The correct answer for a row."""
        return answer(self.task, self.labels[row])

    def chosen(self, rows: np.ndarray) -> "GlueRows":
        """The rows with these indices, in this order."""
        return GlueRows(self.task, tuple([texts[row] for row in rows] for texts in self.texts), self.labels[rows])


@dataclass(frozen=True)
class GlueSet:
    """The opened tasks."""

    train: list[GlueRows]
    parts: Mapping[str, Mapping[str, GlueRows]]
    """what is evaluated, by split (val, test) and by name: the task's name, with mnli_matched and mnli_mismatched for
    MNLI's two test sets; val is held out of the training rows, for MNLI as mnli_matched"""
    fingerprint: str
    """SHA-256 over all texts and labels, in order"""


def open_glue(data: Mapping[str, Any], cache_dir: Path) -> GlueSet:
    """The tasks ``data.tasks`` from the first source that has them, with ``data.val_rows`` rows of each held out.

    ``cache_dir`` is unused: ``datasets`` has its own cache. Raises ConfigError for an unknown task, and DataError if no
    source has the tasks, or if columns, texts or labels are missing.
    """
    if not data["tasks"] or not set(data["tasks"]) <= set(TASKS):
        raise ConfigError(f"data.tasks={data['tasks']}, but it must be one or more of {', '.join(TASKS)}.")
    check_sources(data, set(), kinds=("hub", "local"))
    return _checked(data, first_of(data, lambda source: {task: _open_task(source, task) for task in data["tasks"]}))


def _checked(data: Mapping[str, Any], tasks: Mapping[str, Mapping[str, GlueRows]]) -> GlueSet:
    fingerprint = _fingerprint(tasks)
    check_fingerprint(data, fingerprint)
    train: list[GlueRows] = []
    parts: dict[str, dict[str, GlueRows]] = {"val": {}, "test": {}}
    for task, splits in tasks.items():
        rows = splits["train"]
        count = min(data["val_rows"], int(MOST_HELD_OUT * len(rows)))
        if count < 1:
            raise DataError(
                f"data={data['name']}: of the {len(rows)} training rows of {task} at most {MOST_HELD_OUT:.0%} can be "
                f"held out (data.val_rows={data['val_rows']}), which leaves none for tuning."
            )
        order = np.random.default_rng(derive_seed("glue", task, "val")).permutation(len(rows))
        train.append(rows.chosen(np.sort(order[count:])))
        test = {f"{task}{part}": splits[name] for part, name in TASKS[task].test_splits.items()}
        parts["test"] |= test
        parts["val"][next(iter(test))] = rows.chosen(np.sort(order[:count]))
    return GlueSet(train, parts, fingerprint)


def _open_task(source: Mapping[str, Any], task: str) -> dict[str, GlueRows]:
    import datasets  # type: ignore[import-untyped]  # here, because it takes a second to import

    if source["kind"] == "local":
        folder = Path(source["path"]).expanduser().absolute()
        if not (folder / task).is_dir():
            raise DataError(f"there is no folder {folder / task}.")
        where = {"path": str(folder)}
    opened = {}
    for split in ("train", *TASKS[task].test_splits.values()):
        files = {split: f"{task}/{split}-*.parquet"}
        # Without this option the library would check against the whole repository rather than one task's files.
        try:
            if source["kind"] == "hub":
                where = hub_source(source["repo"], source["revision"], files)
            table = datasets.load_dataset(**where, data_files=files, split=split, verification_mode="no_checks")
        except Exception as error:  # the library, its file systems and its HTTP client each raise their own
            cause = error.__cause__ or error
            reason = f"{type(cause).__name__}: {first_line(cause)}"
            raise DataError(f"{task}/{split} cannot be read ({reason}).") from error
        opened[split] = _rows(table, task, split)
    return opened


def _rows(table: Any, task: str, split: str) -> GlueRows:
    name, columns = f"{task}/{split}", TASKS[task].columns
    if absent := {*columns, "label"} - set(table.column_names):
        raise DataError(f"{name} has no column {', '.join(sorted(absent))}, only {', '.join(table.column_names)}.")
    texts = []
    for column in columns:
        try:
            texts.append(table.data.column(column).to_pylist())
        except UnicodeDecodeError as error:
            raise DataError(f"{name}, column {column}, has bytes that are not UTF-8 ({error}).") from error
        if not all(isinstance(text, str) for text in texts[-1]):
            row = next(row for row, text in enumerate(texts[-1]) if not isinstance(text, str))
            raise DataError(f"{name}, column {column}, has no text in row {row}.")
    try:
        labels = table.data.column("label").to_numpy().astype(np.float64)  # a missing label becomes NaN
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} has labels that are not numbers ({error}).") from error
    answers, theirs = TASKS[task].answers, getattr(table.features["label"], "names", None)
    most = len(answers) - 1 if answers else 5
    wrong = ~((labels >= 0) & (labels <= most))
    if answers:
        wrong |= labels != np.floor(labels)
    if len(labels) == 0 or wrong.any():
        found = f"the label {labels[wrong][0]} in row {np.argmax(wrong)}" if len(labels) else "no rows"
        raise DataError(f"{name} has {found}; labels must be from 0 to {most}.")
    if answers and theirs and list(theirs) != list(answers):
        if sorted(theirs) != sorted(answers):
            raise DataError(f"{name} has the classes {', '.join(theirs)}, but its answers are {', '.join(answers)}.")
        labels = np.array([answers.index(word) for word in theirs], np.float64)[labels.astype(int)]
    return GlueRows(task, tuple(texts), labels)


def _fingerprint(tasks: Mapping[str, Mapping[str, GlueRows]]) -> str:
    digest = hashlib.sha256()
    for task, splits in sorted(tasks.items()):
        for name, rows in sorted(splits.items()):
            digest.update(repr((task, name, rows.texts)).encode() + rows.labels.astype("<f8").tobytes())
    return digest.hexdigest()
