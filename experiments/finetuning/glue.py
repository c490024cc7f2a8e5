"""The eight tasks of GLUE that the paper reports, as T5 reads and answers them (Raffel et al. 2020, appendix D)."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from experiments.metrics.confusion import accuracy, f1, matthews
from experiments.metrics.correlation import pearson, spearman

NO_ANSWER = -1.0
"""What a text counts as that is none of a task's answers. As in T5's own evaluation it is wrong: a class of its own in
CoLA's matrix, the other class for F1, and a similarity below the lowest."""
_SIMILARITY = re.compile(r"[0-4](\.\d+)?|5(\.0+)?", re.ASCII)

Scores = Callable[[np.ndarray, np.ndarray], dict[str, float]]
"""From the true labels and what the answers mean, float64 [rows] and [rows], to scores in percent, by the part of their
name behind the task's; "" is a task's only one."""


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
    """One task: texts in named columns, and a label, which is a number of ``answers`` or (STS-B) a similarity."""

    columns: tuple[str, ...]
    """of the data set, which are also the words before the texts, in T5's order"""
    answers: tuple[str, ...] = ()
    """by label; none for a similarity from 0 to 5"""
    scores: Scores = _accuracy
    test_splits: Mapping[str, str] = field(default_factory=lambda: {"": "validation"})
    """the data set's splits that are reported on, by the part of their name behind the task's"""


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
"""By the name that T5 and the data set on the hub give them. The paper leaves out WNLI, as is usual."""


def prompt(name: str, texts: Sequence[str]) -> str:
    """What the model reads: the task's name, and each text behind its column's."""
    return " ".join([name, *(f"{column}: {text}" for column, text in zip(TASKS[name].columns, texts, strict=True))])


def answer(name: str, label: float) -> str:
    """What the model should write: the label's name, or the similarity rounded to the nearest 0.2.

    In 32 bits, as T5's preparation does: 0.1 is midway between two answers there, and goes to the even fifth, 0.0.
    """
    answers = TASKS[name].answers
    return answers[int(label)] if answers else f"{np.round(np.float32(label) * np.float32(5)) / np.float32(5):.1f}"


def possible_answers(name: str) -> tuple[str, ...]:
    """All that the model should ever write."""
    return TASKS[name].answers or tuple(answer(name, fifths / 5) for fifths in range(26))


def read_answer(name: str, text: str) -> float:
    """What a written answer means: the number of a label, a similarity from 0 to 5, or NO_ANSWER."""
    text, answers = text.strip(), TASKS[name].answers
    if not answers:
        return float(text) if _SIMILARITY.fullmatch(text) else NO_ANSWER
    return float(answers.index(text)) if text in answers else NO_ANSWER
