"""Captions, encoded up to the longest of a batch."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from experiments.diffusion.conditions import TextConditions
from experiments.diffusion.t5 import SIZES, T5XXL
from experiments.pretrained.locked import build_locked

TINY = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
LENGTHS = (3, 5, 1, 0)
CONTEXT = 12


class FullPrecision(T5XXL):
    """In float32, because bfloat16 would hide differences."""

    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__(sizes)
        self.float()


ENCODER = {"_target_": f"{__name__}.FullPrecision", "sizes": TINY}


@pytest.fixture
def conditions(tmp_path: Any) -> Any:
    text = SimpleNamespace(encoder=ENCODER, context_length=CONTEXT, tokenizer="")
    return TextConditions(SimpleNamespace(text=text), SimpleNamespace(weights={}, cache_dir=tmp_path))  # type: ignore[arg-type]


def captions() -> np.ndarray:
    rng = np.random.default_rng(0)
    tokens = np.zeros((len(LENGTHS), CONTEXT), np.int32)
    for row, length in enumerate(LENGTHS):
        tokens[row, :length] = rng.integers(1, 50, length)
    return tokens


def test_trimmed_captions_are_encoded_like_fully_padded_ones(conditions: Any) -> None:
    tokens = captions()
    trimmed = conditions.on_host(tokens)
    assert trimmed.shape == (len(LENGTHS), max(LENGTHS))
    given = conditions.arguments(trimmed)
    states, mask = given["encoder_hidden_states"], given["encoder_attention_mask"]
    padded = torch.from_numpy(tokens.astype(np.int64))
    encoder: Any = build_locked(ENCODER, {})  # with the weights of conditions
    with torch.no_grad():
        expected = encoder.encoder(padded, attention_mask=padded != 0).last_hidden_state
    assert states.shape == expected.shape
    assert torch.equal(mask, padded != 0)
    assert states[mask].abs().min() > 0
    torch.testing.assert_close(states[mask], expected[mask])
    assert (states[~mask] == 0).all()


def test_a_captions_encoding_does_not_depend_on_the_rest_of_the_batch(conditions: Any) -> None:
    alone = conditions.arguments(conditions.on_host(captions()[:1]))["encoder_hidden_states"]
    together = conditions.arguments(conditions.on_host(captions()))["encoder_hidden_states"]
    torch.testing.assert_close(alone, together[:1])


def test_empty_captions_keep_one_masked_token(conditions: Any) -> None:
    nothing = conditions.on_host(np.zeros((2, CONTEXT), np.int32))
    assert nothing.shape == (2, 1)
    given = conditions.arguments(nothing)
    assert given["encoder_hidden_states"].isfinite().all()
    assert not given["encoder_attention_mask"].any()


def test_the_t5_xxl_encoder_has_the_hand_counted_number_of_parameters() -> None:
    with torch.device("meta"):
        encoder = T5XXL(SIZES)
    # 24 layers: four attention maps of 4096 x 4096, three of 4096 x 10240, two norms; 32 x 64 position biases; the rest
    expected = 24 * (4 * 4096**2 + 3 * 4096 * 10240 + 2 * 4096) + 32 * 64 + 32128 * 4096 + 4096
    assert sum(parameter.numel() for parameter in encoder.parameters()) == expected
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.bfloat16}
