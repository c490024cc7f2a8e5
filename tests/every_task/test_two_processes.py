"""Every task in two processes with half of the batch each, against one process with the whole batch.

One process computes a step in two micro-batches and adds their gradients, each halved; of two processes, each computes
one of them, and they average. Random draws depend only on (seed, step, micro-batch), sums have two terms, and halving
is exact in binary, so weights, averages and optimizer states agree bit for bit. Only what is summed over more than two
terms is rounded differently: running statistics, and metrics over the shares of an evaluation.

The contrastive loss needs the whole batch in one micro-batch, so LiT has a test of its own.
"""

import json
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from experiments.harness import accelerator
from experiments.harness.checkpoint_files import checkpoints
from experiments.harness.entry import execute
from experiments.harness.run import locate
from experiments.image_classification import task as image_classification
from tests.conftest import AVERAGED, MakeConfig, built, executed, rows, sums_of
from tests.every_task.conftest import SHORT
from tests.finetuning.smoke_runs import review_file, reviews
from tests.harness.process_group import in_processes
from tests.lit.smoke_runs import decode_shapes

UNEVEN = {
    "image_classification": ["data.val_size=39", AVERAGED],
    "language_modeling": [],  # three documents each
    "language_modeling, masked": [],
    "finetuning": ["data.name=odd_reviews"],
    "finetuning, glue": ["data.val_rows=7"],
    "finetuning, glue, gpt2": ["data.val_rows=7"],
    "diffusion": ["data.num_val=31", "sampling.num_samples=24", "sampling.steps=2"],  # three batches of samples
    "diffusion, captions": ["data.num_val=15", "sampling.num_samples=16"],
}
"""For evaluation sets that two processes cannot share evenly"""
SLOW = ("finetuning, glue, gpt2", "diffusion, captions")


def uneven(case: str, folder: Path) -> list[str]:
    """The overrides of UNEVEN, with the data that they need."""
    if case != "finetuning":
        return UNEVEN.get(case, [])
    # Seven sentences a film instead of eight: 21 in the validation set
    (folder / "rotten_tomatoes_corpus_full.csv.bz2").write_bytes(review_file(reviews(sentences=7)))
    decode = "experiments.finetuning.decode.rotten_tomatoes"
    return [*UNEVEN[case], f"data.sources=[{{kind: local, path: '{folder}', decode: {decode}}}]"]


def marked(case: str, optimizer: str) -> Any:
    """With AdamW, which takes the same gradients, one task is enough for ``make test``."""
    slow = case in SLOW or (optimizer == "adamw" and case != "language_modeling")
    return pytest.param(case, optimizer, marks=[pytest.mark.slow] if slow else [])


@pytest.fixture(autouse=True)
def short_wait_and_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that waits for another in vain fails the test instead of hanging it; images are evaluated in three
    batches and in seven, the last ones smaller.
    """
    monkeypatch.setattr(accelerator, "LONGEST_WAIT", timedelta(minutes=3))
    monkeypatch.setattr(image_classification, "EVALUATION_BATCH_SIZE", 16)


def in_one_and_in_two(make: MakeConfig, alone: list[str], shared: list[str], folder: Path) -> tuple[Path, Path]:
    """The directories of a run in one process, and of one in two."""
    one = executed(make(*alone, f"run.runs_dir={folder}/one"))
    cfg = make(*shared, f"run.runs_dir={folder}/two")
    assert in_processes(2, partial(execute, cfg)) == [0, 0]
    return one, locate(cfg).directory


def saved(directory: Path) -> list[dict[str, Any]]:
    """The checkpoints of a run, the oldest first."""
    return [torch.load(path, weights_only=True) for path in checkpoints(directory)]


def tensors(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested dicts and lists."""
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, dict | list):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from tensors(value, f"{name}.{key}")


def assert_same_metrics(ours: Path, theirs: Path, exact: bool) -> None:
    """But for the order of sums; with ``exact``, training has the same bits."""
    found, expected = rows(ours), rows(theirs)
    assert len(found) == len(expected) > 2
    for a, b in zip(found, expected, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)
        if exact and "train/loss" in a:
            assert a == b


@pytest.mark.parametrize(
    ("case", "optimizer"), [marked(case, optimizer) for case in UNEVEN for optimizer in ("lion", "adamw")]
)
def test_two_processes_train_and_evaluate_like_one(case: str, optimizer: str, make: MakeConfig, tmp_path: Path) -> None:
    settings = [*SHORT, *uneven(case, tmp_path), f"optimizer={optimizer}"]
    settings.append(f"train.micro_batch_size={make(*settings).train.batch_size // 2}")
    one, two = in_one_and_in_two(make, settings, settings, tmp_path)
    expected, found = (dict(tensors(saved(directory))) for directory in (one, two))
    assert found.keys() == expected.keys() != set()
    for name, value in expected.items():
        if "running_" in name:
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)
        else:
            assert torch.equal(found[name], value), name
    assert_same_metrics(two, one, exact=True)


@pytest.mark.parametrize("case", [*UNEVEN, "lit"])
def test_evaluation_sums_do_not_depend_on_the_number_of_processes(case: str, make: MakeConfig, tmp_path: Path) -> None:
    task = built(make(*uneven(case, tmp_path)))
    torch.manual_seed(0)
    model = task.model()
    for split in task.evaluators:
        shared = sums_of(task, split, model, processes=2)
        for name, value in sums_of(task, split, model).items():
            np.testing.assert_allclose(shared[name], value, rtol=5e-6, atol=5e-7)  # much faster than pytest.approx


def decode_one_caption(folder: Path) -> dict[str, np.ndarray]:
    """The shapes with one caption each, so that none has to be drawn; 57, 11 and 12 of them."""
    arrays = decode_shapes(folder)
    captions = arrays["captions"].tobytes().decode().split("\n")[::2]
    joined, splits = np.frombuffer("\n".join(captions).encode(), np.uint8), arrays["splits"].copy()
    splits[np.flatnonzero(splits == 1)[0]] = 0
    return {**arrays, "captions": joined, "caption_images": np.arange(len(captions)), "splits": splits}


@pytest.mark.parametrize("optimizer", ["lion", "adamw"])
def test_lit_in_two_processes_trains_and_evaluates_like_one(
    make_lit: MakeConfig, optimizer: str, tmp_path: Path
) -> None:
    """Embeddings of 16 and of 32 pairs are rounded differently, so gradients agree to rounding, and where a gradient is
    nothing else, as that of attention's key biases, rounding decides the sign of an update. Momenta are therefore
    compared everywhere, and weights where they are not that small. With these betas, Lion takes the sign of the new
    momentum.
    """
    source = f"{{kind: local, path: '{tmp_path}', decode: {__name__}.decode_one_caption}}"
    settings = [*SHORT, f"optimizer={optimizer}", "optimizer.betas=[0.9,0.9]", "run.checkpoint_every=1"]
    settings += [
        "data.name=one_caption",
        f"data.sources=[{source}]",
        "data.crop_area=[1.0,1.0]",
    ]  # a crop of everything
    half = make_lit().train.batch_size // 2
    one, two = in_one_and_in_two(make_lit, settings, [*settings, f"train.micro_batch_size={half}"], tmp_path)
    expected, found = saved(one), saved(two)
    groups = json.loads((one / "parameter_groups.json").read_text())
    for number, name in enumerate([*groups["decay"], *groups["no_decay"]]):
        decided = torch.ones(expected[0]["model"][name].shape, dtype=torch.bool)
        for ours, theirs in zip(found, expected, strict=True):
            momenta = [each["optimizer"]["state"][number]["exp_avg"] for each in (ours, theirs)]
            largest = momenta[1].abs().max()
            torch.testing.assert_close(momenta[0], momenta[1], rtol=0, atol=1e-5 * largest.item())
            decided &= momenta[1].abs() > 1e-3 * largest
        assert decided.any(), name
        weights = [each[-1]["model"][name][decided] for each in (found, expected)]
        torch.testing.assert_close(*weights, rtol=0, atol=1e-5)
    assert_same_metrics(two, one, exact=False)
