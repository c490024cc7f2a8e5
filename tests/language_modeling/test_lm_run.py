"""Language-modelling runs end to end, with either objective."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from experiments.harness.config import typed
from experiments.harness.entry import execute
from experiments.harness.errors import DataError
from experiments.harness.run import locate
from experiments.language_modeling.task import build
from tests.conftest import MakeConfig, executed, last_values, sums_of
from tests.language_modeling.test_windows import rolling_windows

MASKED = "experiment=language_modeling/smoke_masked"
TOKEN_METRICS = {"loss", "log_perplexity", "perplexity"}
TEXT_METRICS = {"bits_per_byte", "word_log_perplexity", "word_perplexity"}


@pytest.mark.parametrize("optimizer", ["lion", "adamw"])
@pytest.mark.parametrize(("objective", "names"), [((), TOKEN_METRICS | TEXT_METRICS), ((MASKED,), TOKEN_METRICS)])
def test_a_run_reports_every_metric_of_its_objective(
    make_lm: MakeConfig, optimizer: str, objective: tuple[str, ...], names: set[str]
) -> None:
    cfg = make_lm(f"optimizer={optimizer}", *objective)
    value = execute(cfg)
    last = last_values(locate(cfg).directory)
    assert value == last["val/log_perplexity"]
    for split in ("val", "test"):
        assert {key.partition("/")[2] for key in last if key.startswith(f"{split}/")} == names
        assert last[f"{split}/perplexity"] == pytest.approx(math.exp(last[f"{split}/loss"]))
    assert ("flatness/perturbed_loss" in last) == (not objective)


def test_an_untrained_model_is_about_as_perplexed_as_a_uniform_one(make_lm: MakeConfig) -> None:
    cfg = make_lm("optimizer.lr=0", "optimizer.weight_decay=0", "train.ema_decay=null")
    assert last_values(executed(cfg))["test/log_perplexity"] == pytest.approx(math.log(300), rel=0.02)


def test_training_lowers_the_test_perplexity(make_lm: MakeConfig) -> None:
    cfg = make_lm("optimizer=adamw", "optimizer.lr=0.02", "train.steps=150", "train.evaluate_every=150")
    # Words drawn from twenty, so that within a word the letters are predictable.
    assert last_values(executed(cfg))["test/log_perplexity"] < 0.7 * math.log(300)


def test_parameter_groups_record_embeddings_as_not_decaying(make_lm: MakeConfig) -> None:
    cfg = make_lm()
    groups = json.loads((executed(cfg) / "parameter_groups.json").read_text())
    assert "transformer.wte.weight" in groups["no_decay"]
    assert "transformer.h.0.attn.c_attn.weight" in groups["decay"]


def test_a_context_longer_than_the_text_is_refused(make_lm: MakeConfig) -> None:
    with pytest.raises(DataError, match=r"one sequence needs 1000001: choose a shorter context_length"):
        execute(make_lm("context_length=1000000"))


def test_metrics_match_a_float64_evaluation_of_the_raw_texts(make_lm: MakeConfig) -> None:
    """From the files on disk, by another tokenizer library, one window at a time, in float64."""
    cfg = make_lm("context_length=24", "model.layers=2")
    tokens = locate(cfg).data
    task = build(typed(cfg), tokens)
    torch.manual_seed(0)
    model = task.model().eval()
    for parameter in model.parameters():
        parameter.data *= 3  # far from uniform
    sums = sums_of(task, "val", model)
    metrics = task.evaluators["val"].metrics(sums)
    with torch.no_grad():
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokens.directory / "tokenizer.json"))
        exact = model.double()
        nats = predicted = num_bytes = num_words = 0.0
        for path in sorted((Path(cfg.data.sources[0].path) / "validation").glob("*.txt")):
            text = path.read_bytes().decode()
            document = tokenizer.encode(text, add_special_tokens=False)
            num_bytes, num_words = num_bytes + len(text.encode()), num_words + len(text.split())
            predicted += len(document)
            for inputs, continuation in rolling_windows(document, 24):
                log_probabilities = exact(torch.tensor([inputs])).logits[0].log_softmax(-1)
                expected = torch.tensor(continuation)
                nats -= log_probabilities[-len(continuation) :].gather(1, expected[:, None]).sum().item()
    assert metrics["perplexity"] == pytest.approx(math.exp(nats / predicted), rel=1e-4)
    assert metrics["bits_per_byte"] == pytest.approx(nats / num_bytes / math.log(2), rel=1e-5)
    assert metrics["word_perplexity"] == pytest.approx(math.exp(nats / num_words), rel=1e-4)
