"""The eight GLUE tasks that the paper reports, in T5's text-to-text format (Raffel et al. 2020, appendix D)."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from experiments.metrics.scores import accuracy, f1, matthews, pearson, spearman

NO_ANSWER = -1.0
"""The value of an invalid answer. As in T5's own evaluation it counts as wrong: as an extra class in CoLA's matrix, as
the other class for F1, and as a similarity below the lowest."""
_SIMILARITY = re.compile(r"[0-4](\.\d+)?|5(\.0+)?", re.ASCII)

Scores = Callable[[np.ndarray, np.ndarray], dict[str, float]]
"""From the true labels and the decoded answers, float64 [rows] and [rows], to scores in percent, by the suffix that
follows the task's name; "" for a task's only score."""


def _matrix(labels: np.ndarray, meant: np.ndarray, classes: int) -> np.ndarray:
    matrix = np.zeros((classes, classes))
    np.add.at(matrix, (labels.astype(int), meant.astype(int)), 1)
    return matrix


def _matthews(labels: np.ndarray, meant: np.ndarray) -> dict[str, float]:
    return {"": matthews(_matrix(labels, np.where(meant == NO_ANSWER, 2, meant), 3))}


def _accuracy(labels: np.ndarray, meant: np.ndarray) -> dict[str, float]:
    return {"": float(100 * np.mean(labels == meant))}


def _f1_and_accuracy(labels: np.ndarray, meant: np.ndarray) -> dict[str, float]:
    matrix = _matrix(labels, np.where(meant == NO_ANSWER, 1 - labels, meant), 2)
    return {"_f1": f1(matrix, 1), "_accuracy": accuracy(matrix)}


def _correlations(labels: np.ndarray, meant: np.ndarray) -> dict[str, float]:
    return {"_pearson": pearson(labels, meant), "_spearman": spearman(labels, meant)}


@dataclass(frozen=True)
class GlueTask:
    """One task: texts in named columns, and a label, which is an index into ``answers`` or (STS-B) a similarity."""

    columns: tuple[str, ...]
    """columns of the data set in T5's order; their names also precede the texts in the prompt"""
    answers: tuple[str, ...] = ()
    """by label; empty for a similarity from 0 to 5"""
    scores: Scores = _accuracy
    test_splits: Mapping[str, str] = field(default_factory=lambda: {"": "validation"})
    """the data set's splits that are reported, by the suffix that follows the task's name"""


_ENTAILMENT = ("entailment", "not_entailment")
_SENTENCES = ("sentence1", "sentence2")
TASKS = {
    "cola": GlueTask(("sentence",), ("unacceptable", "acceptable"), _matthews),
    "sst2": GlueTask(("sentence",), ("negative", "positive")),
    "mrpc": GlueTask(_SENTENCES, ("not_equivalent", "equivalent"), _f1_and_accuracy),
    "stsb": GlueTask(_SENTENCES, scores=_correlations),
    "qqp": GlueTask(("question1", "question2"), ("not_duplicate", "duplicate"), _f1_and_accuracy),
    "mnli": GlueTask(
        ("hypothesis", "premise"),
        ("entailment", "neutral", "contradiction"),
        test_splits={"_matched": "validation_matched", "_mismatched": "validation_mismatched"},
    ),
    "qnli": GlueTask(("question", "sentence"), _ENTAILMENT),
    "rte": GlueTask(_SENTENCES, _ENTAILMENT),
}
"""By their names in T5 and in the data set on the hub. The paper leaves out WNLI, as is usual."""


def prompt(name: str, texts: Sequence[str]) -> str:
    """The prompt: the task's name, then each text preceded by its column's name."""
    return " ".join([name, *(f"{column}: {text}" for column, text in zip(TASKS[name].columns, texts, strict=True))])


def answer(name: str, label: float) -> str:
    """The correct answer: the label's name, or the similarity rounded to the nearest 0.2.

    Rounded in 32 bits, as in T5's preprocessing: there 0.1 is midway between two answers, and is rounded to even, 0.0.
    """
    answers = TASKS[name].answers
    return answers[int(label)] if answers else f"{np.round(np.float32(label) * np.float32(5)) / np.float32(5):.1f}"


def possible_answers(name: str) -> tuple[str, ...]:
    """All valid answers."""
    return TASKS[name].answers or tuple(answer(name, fifths / 5) for fifths in range(26))


def read_answer(name: str, text: str) -> float:
    """Decode an answer: the index of a label, a similarity from 0 to 5, or NO_ANSWER."""
    text, answers = text.strip(), TASKS[name].answers
    if not answers:
        return float(text) if _SIMILARITY.fullmatch(text) else NO_ANSWER
    return float(answers.index(text)) if text in answers else NO_ANSWER
