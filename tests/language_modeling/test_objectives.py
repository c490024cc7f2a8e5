"""Predictions and their loss, compared with independent computations."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from experiments.language_modeling import likelihood, masked_tokens, next_token
from experiments.language_modeling.models import bidirectional, causal
from experiments.metrics.perplexity import perplexity_metrics
from tests.language_modeling.test_windows import SEPARATOR, packed

VOCABULARY, CONTEXT = 60, 8


@dataclass(frozen=True)
class Split:
    tokens: np.ndarray
    starts: np.ndarray
    num_bytes: np.ndarray
    num_words: np.ndarray


def split_of(documents: list[list[int]]) -> Split:
    tokens, starts = packed(documents)
    sizes = np.array([len(document) for document in documents])
    return Split(tokens, starts, num_bytes=5 * sizes, num_words=sizes // 2 + 1)


def random_documents(sizes: list[int]) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, VOCABULARY, size).tolist() for size in sizes]


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = causal(VOCABULARY, CONTEXT, layers=2, width=16, heads=2).eval()
    for parameter in model.parameters():
        parameter.data *= 3  # far from uniform
    return model


def evaluated(model: nn.Module, split: Split, process: int = 0, num_processes: int = 1) -> dict[str, float]:
    with torch.no_grad():
        sums = next_token.sums(model, split, CONTEXT, VOCABULARY, process, num_processes)  # type: ignore[arg-type]
    return scalars(sums)


def scalars(sums: dict[str, torch.Tensor]) -> dict[str, float]:
    """All results except the sums per text, which add up to the total."""
    torch.testing.assert_close(sums["nats_each"].sum(), sums["nats"])
    return {name: value.item() for name, value in sums.items() if name != "nats_each"}


def test_metrics_do_not_depend_on_batches_processes_or_document_order(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = random_documents([3, 8, 9, 16, 30, 1, 5])
    whole = evaluated(model, split_of(documents))
    monkeypatch.setattr(likelihood, "LOGITS_IN_MEMORY", 3 * CONTEXT * VOCABULARY)
    assert evaluated(model, split_of(documents)) == pytest.approx(whole, rel=1e-6)
    assert evaluated(model, split_of(documents[::-1])) == pytest.approx(whole, rel=1e-6)
    parts = [evaluated(model, split_of(documents), process, 3) for process in range(3)]
    assert {name: sum(part[name] for part in parts) for name in whole} == pytest.approx(whole, rel=1e-6)


def test_the_training_loss_predicts_each_next_token(model: nn.Module) -> None:
    rows = torch.tensor(random_documents([CONTEXT + 1, CONTEXT + 1]))
    inputs, targets = next_token.inputs_and_targets(rows, [0, 1], VOCABULARY)
    loss = next_token.mean_loss(likelihood.token_nats(model, inputs, targets), targets)
    log_probabilities = model(rows[:, :-1]).logits.log_softmax(-1)
    by_hand = [-log_probabilities[row, place, rows[row, place + 1]] for row in range(2) for place in range(CONTEXT)]
    torch.testing.assert_close(loss, torch.stack(by_hand).mean())


def hide(rows: Tensor, seeds: list[int]) -> tuple[Tensor, Tensor]:
    return masked_tokens.inputs_and_targets(rows, seeds, VOCABULARY)


def test_masking_follows_bert() -> None:
    rows = torch.from_numpy(np.random.default_rng(0).integers(1, VOCABULARY, (400, 200)))
    rows[:, ::10] = SEPARATOR
    inputs, targets = hide(rows, list(range(400)))
    hidden = targets != likelihood.UNCOUNTED
    assert (hidden.sum(1) == 30).all()
    assert not hidden[:, ::10].any()
    assert (targets[hidden] == rows[hidden]).all()
    assert (inputs[~hidden] == rows[~hidden]).all()
    masked = (inputs == VOCABULARY) & hidden
    kept = (inputs == rows) & hidden
    assert masked.sum() / hidden.sum() == pytest.approx(0.8, abs=0.02)
    # a random token is right with probability 1 / VOCABULARY
    assert kept.sum() / hidden.sum() == pytest.approx(0.1 + 0.1 / VOCABULARY, abs=0.015)
    assert inputs.max() == VOCABULARY


def test_masked_positions_depend_only_on_the_sequences_own_seed() -> None:
    rows = torch.from_numpy(np.random.default_rng(0).integers(1, VOCABULARY, (3, 20)))
    together = hide(rows, [5, 6, 7])
    alone = hide(rows[1:2], [6])
    assert torch.equal(together[0][1:2], alone[0])
    assert torch.equal(together[1][1:2], alone[1])
    assert not torch.equal(hide(rows[1:2], [8])[1], alone[1])


def test_separators_are_never_masked() -> None:
    _, targets = hide(torch.full((1, 8), SEPARATOR), [0])
    assert (targets == likelihood.UNCOUNTED).all()


def test_masked_evaluation_is_deterministic_and_adds_up_over_processes() -> None:
    torch.manual_seed(0)
    model = bidirectional(VOCABULARY + 1, CONTEXT, layers=1, width=16, heads=2).eval()
    split = split_of(random_documents([40, 50, 3]))

    def sums(process: int, num_processes: int) -> dict[str, float]:
        with torch.no_grad():
            found = masked_tokens.sums(model, split, CONTEXT, VOCABULARY, process, num_processes)  # type: ignore[arg-type]
        return scalars(found)

    whole = sums(0, 1)
    assert sums(0, 1) == whole
    parts = [sums(process, 3) for process in range(3)]
    assert {name: sum(part[name] for part in parts) for name in whole} == pytest.approx(whole, rel=1e-6)
    assert set(perplexity_metrics(whole)) == {"loss", "log_perplexity", "perplexity"}


def test_a_uniform_models_masked_perplexity_is_the_vocabulary_size() -> None:
    model = bidirectional(VOCABULARY + 1, CONTEXT, layers=1, width=16, heads=2).eval()
    for parameter in model.parameters():
        parameter.data.zero_()
    split = split_of(random_documents([100, 100]))
    with torch.no_grad():
        sums = masked_tokens.sums(model, split, CONTEXT, VOCABULARY, 0, 1)  # type: ignore[arg-type]
    assert sums["nats"] / sums["count"] == pytest.approx(math.log(VOCABULARY + 1))


def test_masked_evaluation_hides_other_places_in_other_sequences() -> None:
    model = bidirectional(VOCABULARY + 1, CONTEXT, layers=1, width=16, heads=2).eval()
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        masked_tokens.sums(model, split_of(random_documents([400])), CONTEXT, VOCABULARY, 0, 1)  # type: ignore[arg-type]
    _, places = torch.where(torch.cat(seen) == VOCABULARY)
    assert places.unique().tolist() == list(range(CONTEXT))
