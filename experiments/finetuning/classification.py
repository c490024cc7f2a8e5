"""Fine-tuning an encoder with a classifier on labelled texts."""

import json
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hydra.utils import get_method
from torch import Tensor, nn

from experiments.data.copies import warn_of_same_texts
from experiments.data.labels import check_classes, warn_of_small_splits
from experiments.data.splits import drawn_groups, sample
from experiments.finetuning.config import FinetuningConfig
from experiments.finetuning.data import LabelledTexts, TextSet, text_splits
from experiments.finetuning.models import EVALUATION_BATCH_SIZE, Classifier, build_classifier
from experiments.harness.flatness import flatness
from experiments.harness.prepared_data import cached_arrays
from experiments.harness.task import Evaluator
from experiments.metrics.classification import (
    add_calibration,
    calibrated_example_losses,
    calibration_metrics,
    no_calibration_sums,
)
from experiments.metrics.scores import accuracy, confusion_matrix, macro_f1
from experiments.pretrained.locked import Inputs, LockedPart, Rows, build_locked, joined, locked_part


class ClassifiedTexts:
    """One split as inputs of the classifier, with its labels."""

    def __init__(self, inputs: Inputs, lengths: np.ndarray, labels: np.ndarray) -> None:
        """``lengths`` are the texts' lengths in the inputs' second dimension, ``labels`` the classes, int64 [texts]."""
        self.lengths, self.labels, self._inputs = lengths, labels, inputs

    def batch(self, numbers: np.ndarray) -> dict[str, Tensor]:
        """The texts ``numbers``, truncated to the longest of them: padding does not affect results, but takes time."""
        inputs = self._inputs(numbers)[:, : int(self.lengths[numbers].max())]
        return {"inputs": inputs, "labels": torch.from_numpy(self.labels[numbers])}

    def chosen(self, numbers: np.ndarray) -> "ClassifiedTexts":
        """A split of the texts ``numbers`` (int64 [texts])."""
        return ClassifiedTexts(lambda of: self._inputs(numbers[of]), self.lengths[numbers], self.labels[numbers])

    def and_then(self, other: "ClassifiedTexts") -> "ClassifiedTexts":
        """Both splits concatenated, this one first."""
        inputs = joined(self._inputs, len(self.labels), other._inputs)
        lengths, labels = (
            np.concatenate([getattr(each, name) for each in (self, other)]) for name in ("lengths", "labels")
        )
        return ClassifiedTexts(inputs, lengths, labels)


class TextClassification:
    """Labelled texts, and the classifier described by the config."""

    def __init__(self, cfg: FinetuningConfig, data: TextSet) -> None:
        self._cfg, self._data = cfg, data
        self.frozen_outputs: dict[str, str] = {}
        self._weights = data.weights.load() if data.weights else {}
        assert cfg.data.num_classes is not None, "labelled texts have data.num_classes"
        self._num_classes = cfg.data.num_classes
        self._locked = self._locked_part() if cfg.model.locked else None
        texts = text_splits(data.texts.load())
        check_classes({name: split.labels for name, split in texts.items()}, self._num_classes, cfg.data.name)
        held_out = {name: split.texts for name, split in texts.items() if name != "train"}
        warn_of_same_texts(cfg.data.name, texts["train"].texts, held_out)
        self.splits = {name: self._classified(name, split) for name, split in texts.items()}
        if cfg.data.split_seed is not None:
            rows = drawn_groups(texts["train"].groups, texts["val"].groups, cfg.data.split_seed)
            both = self.splits["train"].and_then(self.splits["val"])
            self.splits |= {name: both.chosen(own) for name, own in zip(("train", "val"), rows, strict=True)}
        evaluated = {name: self.splits[name].labels for name in ("val", "test")}
        warn_of_small_splits(evaluated, self._num_classes, cfg.data.name)
        self.num_train = len(self.splits["train"].labels)
        self.evaluators = {
            "val": Evaluator("evaluate", partial(self._sums, "val"), text_metrics),
            "test": Evaluator("end", self._test_sums, text_metrics, calibrated_example_losses),
            **flatness(cfg, self.num_train, partial(self._sums, "train"), text_metrics),
        }

    def model(self) -> Classifier:
        """The classifier, from PyTorch's global generator or from ``data.weights``."""
        return build_classifier(self._cfg.model, self._num_classes, self._weights)

    def batch(self, indices: np.ndarray, seeds: list[int]) -> dict[str, Tensor]:
        """The classifier's ``inputs``, and ``labels`` int64 ``[N]``. Nothing is random."""
        return self.splits["train"].batch(indices)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy, in nats."""
        return F.cross_entropy(model(batch["inputs"]), batch["labels"])

    def _test_sums(self, model: nn.Module, process: int, num_processes: int) -> dict[str, Tensor]:
        """Those of ``_sums``, and the calibration of val."""
        sums = self._sums("test", model, process, num_processes)
        return sums | {"val_nats": self._sums("val", model, process, num_processes)["nats"]}

    def _sums(self, split: str, model: nn.Module, process: int, num_processes: int) -> dict[str, Tensor]:
        """Loss, count, and the confusion matrix; for val and test also the sums for calibration, for test also per
        text. For train, over flatness.samples texts only.
        """
        texts = self.splits[split]
        device = next(model.parameters()).device
        numbers = np.arange(len(texts.labels))
        if split == "train":
            numbers = sample(len(numbers), self._cfg.flatness.samples)
        by_length = numbers[np.argsort(texts.lengths[numbers], kind="stable")][process::num_processes]
        classes = self._num_classes
        sums = {name: torch.zeros((), dtype=torch.float64, device=device) for name in ("loss", "count")}
        sums["confusion"] = torch.zeros(classes, classes, dtype=torch.float64, device=device)
        calibrates = split in ("val", "test")
        if calibrates:
            sums |= no_calibration_sums(device, len(texts.labels) if split == "test" else None)
        for start in range(0, len(by_length), EVALUATION_BATCH_SIZE):
            batch_numbers = by_length[start : start + EVALUATION_BATCH_SIZE]
            batch = texts.batch(batch_numbers)
            logits, labels = model(batch["inputs"].to(device)).float(), batch["labels"].to(device)
            sums["loss"] += F.cross_entropy(logits, labels, reduction="sum").double()
            sums["count"] += len(labels)
            sums["confusion"] += confusion_matrix(labels, logits.argmax(1), classes)
            if calibrates:
                add_calibration(sums, logits, labels, batch_numbers)
        return sums

    def _classified(self, name: str, split: LabelledTexts) -> ClassifiedTexts:
        cfg = self._cfg.model
        identity = json.dumps([self._data.fingerprint, name, cfg.tokenizer, cfg.context_length])
        tokenize = get_method(cfg.tokenizer)
        stored = cached_arrays(
            "finetuning-tokens",
            identity,
            self._data.cache_dir,
            lambda: {"tokens": tokenize(split.texts, cfg.context_length, self._weights)},
        )
        tokens = stored.load()["tokens"]
        if self._locked is None:  # an encoder that takes tokens may need its full context
            return ClassifiedTexts(Rows(tokens), np.full(len(tokens), cfg.context_length), split.labels)
        hidden = self._locked.outputs(Rows(tokens), len(tokens), identity)
        return ClassifiedTexts(hidden, (tokens != 0).sum(1), split.labels)

    def _locked_part(self) -> LockedPart:
        identity = json.dumps([self._cfg.model.locked, self._data.fingerprint])
        build = partial(build_locked, self._cfg.model.locked, self._weights)
        return locked_part(self._cfg, identity, build, self._data.cache_dir, self.frozen_outputs)


def text_metrics(sums: dict[str, Any]) -> dict[str, float]:
    """Loss in nats; accuracy and f1, the mean of the classes' F1, in percent; for val and test calibrated_loss (nats)
    and calibration_error (percent).
    """
    matrix = np.array(sums["confusion"])
    metrics = {"loss": sums["loss"] / sums["count"], "accuracy": accuracy(matrix), "f1": macro_f1(matrix)}
    return metrics | (calibration_metrics(sums) if "nats" in sums else {})
