"""Fine-tuning a model that reads a prompt and writes an answer: GLUE, with several tasks mixed into one training
set.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from experiments.data.copies import warn_of_same_texts
from experiments.finetuning.config import FinetuningConfig
from experiments.finetuning.data import GlueRows, GlueSet
from experiments.finetuning.glue import NO_ANSWER, TASKS, possible_answers, read_answer
from experiments.finetuning.language_models import CausalModel, EncoderDecoder
from experiments.finetuning.models import EVALUATION_BATCH_SIZE
from experiments.harness.errors import ConfigError
from experiments.harness.task import Evaluator


class TextToText:
    """The GLUE tasks in the config, and the model that answers them all."""

    def __init__(self, cfg: FinetuningConfig, data: GlueSet) -> None:
        self._cfg, self._data = cfg, data
        self.frozen_outputs: dict[str, str] = {}
        self._tokenizer: Any = instantiate(cfg.model.tokenizer, _convert_="all")
        self._end: int = self._tokenizer.eos_token_id
        self._starts = np.cumsum([0, *map(len, data.train)])
        self.num_train = int(self._starts[-1])
        assert cfg.model.answer_length is not None, "a model that writes answers has model.answer_length"
        self._answer_length = cfg.model.answer_length
        self._check()
        metrics = partial(answer_metrics, data.parts["test"])
        self.evaluators = {
            "val": Evaluator("evaluate", partial(self._sums, "val"), metrics),
            "test": Evaluator("end", partial(self._sums, "test"), metrics, self._example_losses),
        }
        for task in data.train:
            parts = [part for split in data.parts.values() for part in split.items() if part[1].task == task.task]
            held_out = {name: [rows.prompt(row) for row in range(len(rows))] for name, rows in parts}
            # Only a warning, since published sets cannot be changed.
            warn_of_same_texts(cfg.data.name, (task.prompt(row) for row in range(len(task))), held_out, most=1)

    def _check(self) -> None:
        if self._cfg.flatness.draws:
            raise ConfigError(f"flatness.draws={self._cfg.flatness.draws} is for classifiers: set it to 0 for GLUE.")
        answers = [text for task in self._cfg.data.tasks for text in possible_answers(task)]
        longest = max(answers, key=lambda text: len(self._tokens(text)))
        if len(self._tokens(longest)) > self._answer_length:
            raise ConfigError(
                f"model.answer_length={self._answer_length} is too short for the answer {longest!r} with its end: it "
                f"must be at least {len(self._tokens(longest))}."
            )

    def model(self) -> nn.Module:
        """The model of ``cfg.model.trained``, from PyTorch's global generator or with pre-trained weights."""
        model: Any = instantiate(self._cfg.model.trained, _convert_="all")
        positions = getattr(model.network.config, "max_position_embeddings", None)
        longest = self._cfg.model.context_length + self._answer_length
        if positions is not None and longest > positions:
            raise ConfigError(
                f"model.context_length + model.answer_length = {longest}, but the model has {positions} positions."
            )
        return model

    def batch(self, indices: np.ndarray, seeds: list[int]) -> dict[str, Tensor]:
        """``prompts`` and ``answers``, tokens int64 ``[N, T]``, padded with -1. Nothing is random."""
        tasks = np.searchsorted(self._starts, indices, side="right") - 1
        rows = [
            (self._data.train[task], index - self._starts[task]) for task, index in zip(tasks, indices, strict=True)
        ]
        return self._tensors(
            [self._tokens(task.prompt(row)) for task, row in rows], [task.answer(row) for task, row in rows]
        )

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Mean over the answers of their negative log-likelihood, summed over each answer's tokens, in nats."""
        loss: Tensor = model(batch["prompts"], batch["answers"]).mean()
        return loss

    def _sums(self, split: str, model: nn.Module, process: int, num_processes: int) -> dict[str, Tensor]:
        """For all tasks together loss, count, invalid answers and truncated prompts;
        for each part ``<part>/nats``, ``<part>/labels`` and ``<part>/meant``, vectors [rows] of losses, true labels and
        decoded answers, 0 if another process has the row.
        """
        assert isinstance(model, EncoderDecoder | CausalModel)
        device = next(model.parameters()).device
        names = ("loss", "count", "invalid", "cut")
        sums = {name: torch.zeros((), dtype=torch.float64, device=device) for name in names}
        for part, rows in self._data.parts[split].items():
            nats, labels, meant = torch.zeros(3, len(rows), dtype=torch.float64)
            prompts = [rows.prompt(row) for row in range(len(rows))]
            by_length = np.argsort([len(text) for text in prompts], kind="stable")[process::num_processes]
            for start in range(0, len(by_length), EVALUATION_BATCH_SIZE):
                numbers = by_length[start : start + EVALUATION_BATCH_SIZE]
                tokens = [self._tokens(prompts[row]) for row in numbers]
                batch = self._tensors(tokens, [rows.answer(row) for row in numbers])
                batch = {name: tensor.to(device) for name, tensor in batch.items()}
                nats[numbers] = model(**batch).double().cpu()
                sums["loss"] += nats[numbers].sum()
                sums["count"] += len(numbers)
                sums["cut"] += sum(len(each) > self._cfg.model.context_length for each in tokens)
                for row, text in zip(numbers, self._written(model, batch["prompts"]), strict=True):
                    labels[row] = rows.labels[row]
                    meant[row] = read_answer(rows.task, text)
                    sums["invalid"] += meant[row].item() == NO_ANSWER
            for name, values in (("nats", nats), ("labels", labels), ("meant", meant)):
                sums[f"{part}/{name}"] = values.to(device)
        return sums

    def _example_losses(self, sums: dict[str, Any]) -> tuple[str, np.ndarray]:
        """The loss of each test row, with GLUE's parts concatenated."""
        return "loss", np.concatenate([sums[f"{part}/nats"] for part in self._data.parts["test"]])

    def _tokens(self, text: str) -> list[int]:
        """The tokens of the whole text, with the end-of-text token."""
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*tokens, self._end]

    def _tensors(self, prompts: list[list[int]], answers: list[str]) -> dict[str, Tensor]:
        """Truncate prompts that are too long, keeping the end-of-text token."""
        last = self._cfg.model.context_length - 1
        cut = [[*tokens[:-1][:last], self._end] for tokens in prompts]
        return {"prompts": _padded(cut), "answers": _padded([self._tokens(text) for text in answers])}

    def _written(self, model: EncoderDecoder | CausalModel, prompts: Tensor) -> list[str]:
        texts = []
        for tokens in model.write(prompts, self._end, self._answer_length).tolist():
            length = tokens.index(self._end) if self._end in tokens else len(tokens)
            texts.append(self._tokenizer.decode(tokens[:length], skip_special_tokens=True))
        return texts


def answer_metrics(parts: Mapping[str, GlueRows], sums: dict[str, Any]) -> dict[str, float]:
    """Loss (nats per answer); in percent every score of the tasks, their plain mean ``average``, and
    ``invalid_answers``. ``cut_prompts`` is the number of truncated prompts, if there are any. ``parts`` are those of
    the test; val has fewer.
    """
    scores: dict[str, float] = {}
    for part, rows in parts.items():
        if f"{part}/labels" in sums:
            found = TASKS[rows.task].scores(np.array(sums[f"{part}/labels"]), np.array(sums[f"{part}/meant"]))
            scores |= {f"{part}{name}": value for name, value in found.items()}
    return {
        "loss": sums["loss"] / sums["count"],
        **scores,
        "average": sum(scores.values()) / len(scores),
        "invalid_answers": 100 * sums["invalid"] / sums["count"],
        **({"cut_prompts": sums["cut"]} if sums["cut"] else {}),
    }


def _padded(texts: list[list[int]]) -> Tensor:
    """int64 ``[N, T]``, padded with -1."""
    return pad_sequence([torch.tensor(tokens) for tokens in texts], batch_first=True, padding_value=-1)
