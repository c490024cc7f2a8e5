"""GLUE prompts and answers as printed in the T5 paper, and reading GLUE's rows."""

from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from experiments.finetuning.data import open_glue
from experiments.finetuning.glue import NO_ANSWER, TASKS, answer, possible_answers, prompt, read_answer
from experiments.harness.errors import ConfigError, DataError
from tests.finetuning.smoke_runs import glue_rows, write_glue

pytestmark = pytest.mark.usefixtures("datasets_cache")

# Raffel et al. 2020, appendix D, shortened: texts in the order of the columns, label, prompt, answer.
EXAMPLES: list[tuple[str, list[str], float, str, str]] = [
    ("cola", ["John made Bill master."], 1, "cola sentence: John made Bill master.", "acceptable"),
    ("sst2", ["it's funny"], 1, "sst2 sentence: it's funny", "positive"),
    ("mrpc", ["We acted.", "We act."], 1, "mrpc sentence1: We acted. sentence2: We act.", "equivalent"),
    ("stsb", ["A is.", "B is."], 3.25, "stsb sentence1: A is. sentence2: B is.", "3.2"),
    ("qqp", ["Why?", "How?"], 0, "qqp question1: Why? question2: How?", "not_duplicate"),
    ("mnli", ["They won.", "losing is"], 2, "mnli hypothesis: They won. premise: losing is", "contradiction"),
    ("qnli", ["Where?", "There."], 0, "qnli question: Where? sentence: There.", "entailment"),
    ("rte", ["A smaller part.", "It fell."], 1, "rte sentence1: A smaller part. sentence2: It fell.", "not_entailment"),
]


@pytest.mark.parametrize(("task", "texts", "label", "read", "written"), EXAMPLES, ids=[one[0] for one in EXAMPLES])
def test_prompts_and_answers_match_the_t5_paper(
    task: str, texts: list[str], label: float, read: str, written: str
) -> None:
    assert prompt(task, texts) == read
    assert answer(task, label) == written


def test_similarities_are_rounded_in_float32_like_t5s_preprocessing() -> None:
    """T5 has tf.as_string(tf.round(x * 5) / 5, precision=1) of float32, and tf.round goes to the even number."""
    for label in np.arange(0, 5.0001, 0.001):
        stored = np.float64(np.float32(label))  # the hub's column has 32 bits
        fifths = torch.round(torch.tensor(stored, dtype=torch.float32) * 5) / 5
        assert answer("stsb", stored) == f"{fifths.item():.1f}"
    ties = [answer("stsb", np.float64(np.float32(label))) for label in (0.1, 0.3, 0.7, 1.7)]
    assert ties == ["0.0", "0.4", "0.8", "1.6"]


@pytest.mark.parametrize(
    ("names", "expected"), [(["unacceptable", "acceptable"], [0, 1]), (["acceptable", "unacceptable"], [1, 0])]
)
def test_labels_are_mapped_to_answers_by_class_name(tmp_path: Path, names: list[str], expected: list[int]) -> None:
    write_named(tmp_path, names)
    assert open_glue(data(tmp_path, tasks=["cola"]), tmp_path).parts["test"]["cola"].labels[:2].tolist() == expected


def test_class_names_that_match_no_answer_are_refused(tmp_path: Path) -> None:
    write_named(tmp_path, ["bad", "good"])
    with pytest.raises(DataError, match="has the classes bad, good, but its answers are unacceptable, acceptable"):
        open_glue(data(tmp_path, tasks=["cola"]), tmp_path)


def write_named(folder: Path, names: list[str]) -> None:
    features = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    columns = {"sentence": [f"sentence {number}" for number in range(40)], "label": [0, 1] * 20}
    (folder / "cola").mkdir(parents=True)
    for split in ("train", "validation"):
        rows = datasets.Dataset.from_dict(columns, features)
        rows.to_parquet(folder / "cola" / f"{split}-00000-of-00001.parquet")


def test_every_glue_task_has_a_published_example() -> None:
    assert {one[0] for one in EXAMPLES} == set(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_every_answer_is_parsed_back_to_its_label(task: str) -> None:
    labels = range(len(TASKS[task].answers)) if TASKS[task].answers else np.arange(26) / 5
    assert [read_answer(task, answer(task, label)) for label in labels] == list(labels)
    assert {answer(task, label) for label in labels} == set(possible_answers(task))


@pytest.mark.parametrize(
    ("task", "texts"),
    [
        ("rte", ["", "entail", "Entailment", "neutral", "3.0"]),
        ("stsb", ["", "nan", "inf", "5.2", "6", "-1", "1e3", "positive", "٣"]),
    ],
)
def test_text_that_is_no_label_or_similarity_is_an_invalid_answer(task: str, texts: list[str]) -> None:
    assert [read_answer(task, text) for text in texts] == [NO_ANSWER] * len(texts)


def test_answered_similarities_need_not_be_multiples_of_a_fifth() -> None:
    assert read_answer("stsb", " 3.33") == 3.33
    assert read_answer("stsb", "5.000") == 5


def test_glue_scores_match_a_hand_calculation() -> None:
    right = {name: task.scores(*2 * [np.array([0.0, 1.0, 1.0, 0.0])]) for name, task in TASKS.items()}
    assert right["mrpc"] == {"_f1": 100, "_accuracy": 100}
    labels, meant = np.array([1.0, 1, 1, 0, 0]), np.array([1.0, 1, 0, 1, 0])
    assert TASKS["qqp"].scores(labels, meant) == pytest.approx({"_f1": 200 / 3, "_accuracy": 60})
    assert TASKS["cola"].scores(labels, meant)[""] == pytest.approx(100 * (2 * 1 - 1 * 1) / 6)
    assert TASKS["mnli"].scores(np.array([0.0, 1, 2, 2]), np.array([0.0, 2, 2, 2])) == {"": 75}


def test_an_invalid_answer_counts_as_wrong() -> None:
    labels, meant = np.array([1.0, 1, 0, 0]), np.array([1.0, NO_ANSWER, NO_ANSWER, 0])
    assert TASKS["sst2"].scores(labels, meant) == {"": 50}
    assert TASKS["mrpc"].scores(labels, meant) == {"_f1": 50, "_accuracy": 50}
    # (c s - t p) / sqrt((s^2 - t t) (s^2 - p p)): c = 2 of s = 4 are correct, true t = 2 2 0, predicted p = 1 1 2.
    assert TASKS["cola"].scores(labels, meant)[""] == pytest.approx(100 * (2 * 4 - 4) / np.sqrt((16 - 8) * (16 - 6)))
    nothing = np.full(4, NO_ANSWER)
    assert TASKS["cola"].scores(labels, nothing) == {"": 0}
    assert TASKS["stsb"].scores(labels, nothing) == {"_pearson": 0, "_spearman": 0}


def data(folder: Path, **changes: Any) -> dict[str, Any]:
    sources = [{"kind": "local", "path": str(folder)}]
    return {"name": "glue", "fingerprint": None, "tasks": list(TASKS), "val_rows": 500, "sources": sources, **changes}


def test_held_out_and_training_rows_partition_the_training_set(glue_folder: Path, tmp_path: Path) -> None:
    opened = open_glue(data(glue_folder), tmp_path)
    assert list(opened.parts["test"]) == [
        *("cola", "sst2", "mrpc", "stsb", "qqp", "mnli_matched", "mnli_mismatched", "qnli", "rte")
    ]
    assert set(opened.parts["val"]) == set(opened.parts["test"]) - {"mnli_mismatched"}
    for rows in opened.train:
        (held_out,) = (part for part in opened.parts["val"].values() if part.task == rows.task)
        assert len(held_out) == 3  # 5 % of 60
        column = TASKS[rows.task].columns[0]
        assert sorted(rows.texts[0] + held_out.texts[0]) == sorted(glue_rows(rows.task, "train")[column])


def test_a_single_task_holds_out_the_requested_number_of_rows(glue_folder: Path, tmp_path: Path) -> None:
    opened = open_glue(data(glue_folder, tasks=["rte"], val_rows=2), tmp_path)
    assert [len(rows) for rows in opened.train] == [58]
    assert {name: len(rows) for name, rows in opened.parts["test"].items()} == {"rte": 12}


def changed(folder: Path, columns: dict[str, Any]) -> dict[str, Any]:
    write_glue(folder)
    pq.write_table(pa.table(columns), folder / "cola/train-00000-of-00001.parquet")
    return data(folder, tasks=["cola"])


def test_empty_texts_are_kept(tmp_path: Path) -> None:
    opened = open_glue(changed(tmp_path, {"sentence": ["", "b"] * 20, "label": [1, 0] * 20}), tmp_path)
    assert "cola sentence: " in {opened.train[0].prompt(row) for row in range(len(opened.train[0]))}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sentence": ["a", "b"] * 20, "label": [0.5, 1.0] * 20}, r"label 0\.5 in row 0"),
        ({"sentence": ["a", "b"] * 20, "label": ["yes", "no"] * 20}, "labels that are not numbers"),
        ({"sentence": ["s"] * 19, "label": [0] * 19}, r"19 training rows of cola at most 5% .*, which leaves none"),
        ({"text": ["a"], "label": [1]}, r"cola/train has no column sentence, only text, label"),
        ({"sentence": ["a"]}, r"cola/train has no column label"),
        ({"sentence": ["a", None], "label": [1, 0]}, r"cola/train, column sentence, has no text in row 1"),
        ({"sentence": ["a", "b"], "label": [1, -1]}, r"the label -1.0 in row 1; labels must be from 0 to 1"),
        ({"sentence": ["a", "b"], "label": [1, None]}, r"cola/train has the label nan in row 1"),
        (
            {"sentence": pa.array([], pa.string()), "label": pa.array([], pa.int64())},
            r"cola/train (has no rows|cannot be read \(ArrowInvalid)",
        ),
        (
            {"sentence": pa.array([b"a", b"caf\xe9"]).view(pa.string()), "label": [1, 0]},
            r"cola/train, column sentence, has bytes that are not UTF-8",
        ),
    ],
)
def test_malformed_or_too_few_rows_are_refused_by_column_and_row(
    columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        open_glue(changed(tmp_path, columns), tmp_path)


def test_unknown_tasks_missing_files_and_wrong_fingerprints_are_refused(glue_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.tasks=\['rte', 'wnli'\], but it must be one or more of cola,"):
        open_glue(data(glue_folder, tasks=["rte", "wnli"]), tmp_path)
    with pytest.raises(DataError, match=r"there is no folder .*/cola"):
        open_glue(data(tmp_path), tmp_path)
    with pytest.raises(DataError, match=r"has the fingerprint .* declares 0"):
        open_glue(data(glue_folder, fingerprint="0"), tmp_path)


def test_the_fingerprint_depends_only_on_the_content(glue_folder: Path, tmp_path: Path) -> None:
    first = open_glue(data(glue_folder, tasks=["cola"]), tmp_path).fingerprint
    rows = glue_rows("cola", "train")
    assert open_glue(changed(tmp_path / "same", rows), tmp_path).fingerprint == first
    rows["sentence"][3] = rows["sentence"][3].swapcase()
    assert open_glue(changed(tmp_path / "other", rows), tmp_path).fingerprint != first
