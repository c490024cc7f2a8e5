"""Cached features and tokens: computed in chunks, resumed after a kill, with workers, in half precision."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from experiments.harness import stored_rows as module
from experiments.harness.prepared_data import cached_arrays
from experiments.harness.stored_rows import stored_rows
from experiments.pretrained.locked import LOCKED_BATCH_SIZE, LockedPart, Rows

COUNT, CHUNK = 25, 10
EXPECTED = np.arange(COUNT * 3, dtype=np.float32).reshape(COUNT, 3) ** 2


def chunks(first: int) -> Iterator[np.ndarray]:
    for start in range(first, COUNT, CHUNK):
        yield EXPECTED[start : start + CHUNK]


def test_stored_rows_are_cached_unchanged(tmp_path: Path) -> None:
    first = stored_rows("rows", "identity", tmp_path, "outputs", COUNT, chunks)
    np.testing.assert_array_equal(first.load()["outputs"], EXPECTED)
    assert (
        stored_rows("rows", "identity", tmp_path, "outputs", COUNT, lambda first: pytest.fail("computed again"))
        == first
    )
    assert {path.name for path in first.directory.iterdir()} == {"outputs.npy", "manifest.json"}
    at_once = cached_arrays("at once", "identity", tmp_path, lambda: {"outputs": EXPECTED})
    assert at_once.fingerprint == first.fingerprint


@pytest.mark.parametrize("how", ["raises", "is killed"])
def test_rows_computed_before_a_kill_are_not_recomputed(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY_S", -1.0)

    def interrupted(first: int) -> Iterator[np.ndarray]:
        yield from [EXPECTED[:CHUNK], EXPECTED[CHUNK : 2 * CHUNK]]
        if how == "raises":
            raise RuntimeError("a fault")
        os._exit(7)

    if how == "raises":
        with pytest.raises(RuntimeError, match="a fault"):
            stored_rows("rows", "identity", tmp_path, "outputs", COUNT, interrupted)
    elif (child := os.fork()) == 0:
        stored_rows("rows", "identity", tmp_path, "outputs", COUNT, interrupted)
    else:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    asked = []

    def rest(first: int) -> Iterator[np.ndarray]:
        asked.append(first)
        return chunks(first)

    stored = stored_rows("rows", "identity", tmp_path, "outputs", COUNT, rest)
    assert asked == [2 * CHUNK]
    np.testing.assert_array_equal(stored.load()["outputs"], EXPECTED)


def test_a_disk_too_small_for_the_rows_is_reported_before_computing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, start: int, length: int) -> None:
        assert (start, length) == (0, 128 + EXPECTED.nbytes)
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="no space left"):
        stored_rows("rows", "identity", tmp_path, "outputs", COUNT, chunks)
    monkeypatch.undo()
    np.testing.assert_array_equal(
        stored_rows("rows", "identity", tmp_path, "outputs", COUNT, chunks).load()["outputs"], EXPECTED
    )


def locked_part(cache: Path, bf16: bool = False, workers: int = 0) -> LockedPart:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(8, 4).eval().requires_grad_(False)

    return LockedPart("linear", build, torch.device("cpu"), cache, {}, bf16, workers)


@pytest.fixture
def inputs() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2 * LOCKED_BATCH_SIZE + 3, 8)).astype(np.float32)


def outputs_of(part: LockedPart, inputs: np.ndarray) -> Tensor:
    outputs: Tensor = part.outputs(Rows(inputs), len(inputs), "inputs")(np.arange(len(inputs)))
    return outputs


def test_cached_outputs_match_the_module_with_or_without_workers(tmp_path: Path, inputs: np.ndarray) -> None:
    alone = outputs_of(locked_part(tmp_path / "alone"), inputs)
    expected = locked_part(tmp_path).build()(torch.from_numpy(inputs))
    torch.testing.assert_close(alone, expected)
    assert torch.equal(outputs_of(locked_part(tmp_path / "by workers", workers=2), inputs), alone)


def test_bfloat16_outputs_take_half_the_space_and_are_cached_separately(tmp_path: Path, inputs: np.ndarray) -> None:
    whole, half = (outputs_of(locked_part(tmp_path, bf16), inputs) for bf16 in (False, True))
    assert half.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        expected = locked_part(tmp_path).build()(torch.from_numpy(inputs))
    torch.testing.assert_close(half, expected.float())
    assert not torch.equal(half, whole)
    sizes = sorted(path.stat().st_size for path in tmp_path.glob("locked-outputs-*/outputs.npy"))
    assert sizes == [128 + len(inputs) * 4 * 2, 128 + len(inputs) * 4 * 4]
