"""Fine-tuning runs end to end: classifiers, encoder-decoders, causal models."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from experiments.data.splits import drawn_groups
from experiments.finetuning.classification import ClassifiedTexts, TextClassification
from experiments.finetuning.data import GlueSet
from experiments.finetuning.glue import TASKS
from experiments.finetuning.models import Classifier
from experiments.finetuning.task import build
from experiments.finetuning.text_to_text import TextToText
from experiments.harness.config import typed
from experiments.harness.entry import execute
from experiments.harness.errors import ConfigError
from experiments.harness.optimizer import scale_initial_weights
from experiments.harness.run import locate
from experiments.pretrained.locked import build_locked
from experiments.pretrained.weights import load_weights
from tests.conftest import MakeConfig, built, configs, executed, last_values, sums_of

KINDS = pytest.mark.parametrize("model", ["ft_t5_tiny", "ft_gpt2_tiny"])
# A locked embedding and a trained layer above it; padding is 0 in and out.
LOCKED = [
    "model.locked={_target_: torch.nn.Embedding, num_embeddings: 49408, embedding_dim: 8, padding_idx: 0}",
    "model.trained={_target_: tests.finetuning.test_finetuning_run.Mean}",
    *(f"~model.trained.{key}" for key in ("context_length", "width", "layers", "heads", "output_dim")),
    "model.features=8",
]


class Mean(torch.nn.Module):
    """The mean of hidden states ``[N, T, 8]`` over the tokens, through a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        is_token = hidden.any(-1, keepdim=True)
        features: torch.Tensor = self.layer((hidden * is_token).sum(1) / is_token.sum(1))
        return features


def test_a_table_too_small_to_evaluate_on_is_warned_of(
    make_classification: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split, labels in {"train": [0, 1, 0, 1], "val": [0, 0], "test": [0, 1]}.items():
        rows = "".join(f"sentence {number} of {split},{label}\n" for number, label in enumerate(labels))
        (tmp_path / f"{split}.csv").write_text(f"text,label\n{rows}")
    options = "{splits: {train: train, val: val, test: test}}"
    decode = "experiments.finetuning.decode.labelled_tables"
    source = f"{{kind: local, path: '{tmp_path}', decode: {decode}, options: {options}}}"
    built(make_classification("data.name=tiny", f"data.sources=[{source}]", "flatness.draws=0"))
    assert "data=tiny: val has few rows (2)" in caplog.text
    assert "data=tiny: val lacks 1 of the 2 classes" in caplog.text
    assert "data=tiny: test lacks" not in caplog.text


@pytest.mark.parametrize("optimizer", ["lion", "adamw"])
@pytest.mark.parametrize("locked", [[], LOCKED])
def test_a_classifiers_run_reports_every_metric(
    make_classification: MakeConfig, optimizer: str, locked: list[str]
) -> None:
    cfg = make_classification(f"optimizer={optimizer}", *locked)
    value = execute(cfg)
    last = last_values(locate(cfg).directory)
    assert value == last["val/accuracy"]
    for name in ("loss", "accuracy", "f1"):
        assert math.isfinite(last[f"test/{name}"])


def test_a_classifier_learns_the_decisive_words(make_classification: MakeConfig) -> None:
    cfg = make_classification(
        "optimizer=adamw", "train.steps=80", "train.evaluate_every=80", "optimizer.lr=0.003", "data.num_classes=2"
    )
    assert last_values(executed(cfg))["test/accuracy"] > 90


def test_locked_outputs_are_cached_and_match_the_locked_part(
    make_classification: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = make_classification(*LOCKED)
    data = locate(cfg).data
    build(typed(cfg), data)
    monkeypatch.setattr("experiments.finetuning.classification.build_locked", lambda *arguments: None)
    task = build(typed(cfg), data)
    plain = build(typed(make_classification()), data)
    assert isinstance(task, TextClassification)
    assert isinstance(plain, TextClassification)
    numbers = np.array([5, 0, 3])
    tokens = plain.splits["val"].batch(numbers)["inputs"]
    with torch.no_grad():
        expected = build_locked(cfg.model.locked, {})(tokens)
    found = task.splits["val"].batch(numbers)["inputs"]
    assert torch.equal(found, expected[:, : found.shape[1]])
    assert not expected[:, found.shape[1] :].any()
    with pytest.raises(AttributeError):  # it is built again
        build(typed(make_classification(*LOCKED, "model.context_length=12")), data)


def test_trimming_the_padding_does_not_change_the_metrics(make_classification: MakeConfig) -> None:
    cfg = make_classification(*LOCKED)
    task = built(cfg)
    assert isinstance(task, TextClassification)
    model = task.model().eval()
    whole = built(make_classification()).splits["test"]  # tokens are not trimmed
    batch = whole.batch(np.arange(len(whole.labels)))
    sums = sums_of(task, "test", model)
    with torch.no_grad():
        logits = model(build_locked(cfg.model.locked, {})(batch["inputs"]))
    labels = batch["labels"]
    assert sums["loss"] == pytest.approx(F.cross_entropy(logits, labels, reduction="sum").item(), rel=1e-5)
    assert np.trace(sums["confusion"]) == (logits.argmax(1) == labels).sum()


def test_a_classifiers_flatness_is_measured_on_training_samples(make_classification: MakeConfig) -> None:
    cfg = make_classification("flatness.draws=1", "flatness.std=0.1", "flatness.samples=20")
    task = built(cfg)
    assert sums_of(task, "flatness", task.model())["0/count"] == 20
    with pytest.raises(ConfigError, match=r"flatness\.samples=1000, but there are \d+ to train on"):
        execute(make_classification("flatness.draws=1", "flatness.std=0.1", "flatness.samples=1000"))


def numbered(first: int, count: int) -> ClassifiedTexts:
    """Texts whose inputs, lengths and labels are their number."""
    numbers = np.arange(first, first + count)
    return ClassifiedTexts(lambda of: torch.from_numpy(numbers[of])[:, None].repeat(1, 99), numbers % 7 + 1, numbers)


@pytest.mark.parametrize("seed", range(5))
def test_a_drawn_split_keeps_groups_whole_and_texts_with_their_labels(seed: int) -> None:
    groups = np.repeat(np.arange(10), 6), np.repeat(np.arange(10, 13), 4)
    both = numbered(0, 60).and_then(numbered(60, 12))
    after = {name: both.chosen(rows) for name, rows in zip(("train", "val"), drawn_groups(*groups, seed), strict=True)}
    group_of = np.concatenate(groups)
    held = {int(group_of[label]) for label in after["val"].labels}
    assert 12 - 4 < len(after["val"].labels) <= 12, "as many as before, or no group would fit any more"
    assert held.isdisjoint(int(group_of[label]) for label in after["train"].labels)
    assert sorted([*after["train"].labels, *after["val"].labels]) == list(range(72))
    for split in after.values():
        shuffled = np.random.default_rng(0).permutation(len(split.labels))
        batch = split.batch(shuffled)
        assert batch["labels"].tolist() == batch["inputs"][:, 0].tolist() == split.labels[shuffled].tolist()
        assert split.lengths.tolist() == (split.labels % 7 + 1).tolist()


def test_a_drawn_split_reuses_the_cached_locked_outputs(make_classification: MakeConfig) -> None:
    cfg = make_classification()
    own, folder = built(cfg), locate(cfg).data.cache_dir
    before = {path.name for path in folder.iterdir()}
    for seed in (1, 2):
        drawn = built(make_classification(f"data.split_seed={seed}"))
        assert drawn.frozen_outputs == own.frozen_outputs
        everything = np.arange(len(drawn.splits["val"].labels))
        assert drawn.splits["val"].batch(everything)["labels"].tolist() == drawn.splits["val"].labels.tolist()
    assert {path.name for path in folder.iterdir()} == before


def test_initial_scaling_skips_a_pretrained_encoder(make_classification: MakeConfig) -> None:
    encoder = torch.nn.Sequential(torch.nn.Linear(3, 3))
    load_weights(encoder, {name: value.numpy() for name, value in encoder.state_dict().items()})
    classifier = Classifier(encoder, 3, 2, 0.0)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    scale_initial_weights(classifier, 2.0)
    grown = {name for name, value in classifier.state_dict().items() if not torch.equal(value, before[name])}
    assert grown == {"head.weight"}


@KINDS
@pytest.mark.parametrize("optimizer", ["lion", "adamw"])
def test_a_run_on_glue_reports_every_score(make_glue: MakeConfig, model: str, optimizer: str) -> None:
    cfg = make_glue(f"model={model}", f"optimizer={optimizer}", "train.steps=2", "train.evaluate_every=2")
    value = execute(cfg)
    last = last_values(locate(cfg).directory)
    assert value == last["val/average"]
    scores = [
        *("cola", "sst2", "mrpc_f1", "mrpc_accuracy", "stsb_pearson", "stsb_spearman", "qqp_f1", "qqp_accuracy"),
        *("mnli_matched", "mnli_mismatched", "qnli", "rte"),
    ]
    assert last["test/average"] == pytest.approx(sum(last[f"test/{name}"] for name in scores) / 12)
    assert 0 <= last["test/invalid_answers"] <= 100


@KINDS
def test_a_model_learns_to_answer_glue_prompts(make_glue: MakeConfig, model: str) -> None:
    # Prompts of the generated tasks begin with letters that determine the label.
    cfg = make_glue(
        f"model={model}",
        "optimizer=adamw",
        "data.tasks=[rte,cola]",
        "optimizer.lr=0.01",
        "train.steps=100",
        "train.evaluate_every=100",
        "train.log_every=100",
        "run.checkpoint_every=100",
    )
    last = last_values(executed(cfg))
    assert last["test/invalid_answers"] < 10
    assert last["test/rte"] > 80


def test_every_training_row_becomes_one_prompt_and_answer(make_glue: MakeConfig) -> None:
    cfg = make_glue()
    data = locate(cfg).data
    task = build(typed(cfg), data)
    assert isinstance(task, TextToText)
    assert isinstance(data, GlueSet)
    batch = task.batch(np.arange(task.num_train), [0] * task.num_train)
    found = [bytes(token - 3 for token in row if token > 1).decode() for row in batch["prompts"].tolist()]
    assert found == [rows.prompt(row) for rows in data.train for row in range(len(rows))]
    answers = [bytes(token - 3 for token in row if token > 1).decode() for row in batch["answers"].tolist()]
    assert answers == [rows.answer(row) for rows in data.train for row in range(len(rows))]
    assert all(1 in row for row in batch["answers"].tolist())


def test_overlong_prompts_are_counted_and_keep_their_end_token(make_glue: MakeConfig) -> None:
    cfg = make_glue("model.context_length=20")
    task = built(cfg)
    batch = task.batch(np.arange(8), [0] * 8)
    assert batch["prompts"].shape == (8, 20)
    assert (batch["prompts"][:, -1] == 1).all()
    network: Any = task.model().eval()
    sums = sums_of(task, "val", network)
    assert task.evaluators["val"].metrics(sums)["cut_prompts"] == sums["count"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.answer_length=10"], r"model\.answer_length=10 is too short for the answer 'not_equivalent'"),
        (["flatness={draws: 1, std: 0.1, samples: 8}"], r"flatness\.draws=1 is for classifiers"),
        (["data.tasks=[]"], r"data\.tasks=\[\], but it must be one or more of cola"),
        (
            ["model=ft_gpt2_tiny", "model.context_length=200"],
            r"context_length \+ model\.answer_length = 216, but the model has 128",
        ),
    ],
)
def test_invalid_settings_are_refused(make_glue: MakeConfig, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        execute(make_glue(*settings))


@KINDS
def test_dropout_is_active_during_training(make_glue: MakeConfig, model: str) -> None:
    task = built(make_glue(f"model={model}"))
    network, batch = task.model(), task.batch(np.arange(4), [0] * 4)
    losses = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        losses.append(task.loss(network, batch).item())
    assert losses[0] == losses[2] != losses[1]


def test_the_smoke_run_on_glue_has_every_task() -> None:
    assert set(TASKS) == set(configs("finetuning")("experiment=finetuning/glue_smoke", "scale=smoke").data.tasks)
