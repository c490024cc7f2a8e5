"""Encoder-decoders and causal models: the loss covers only the answer and does not depend on the rest of the batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from experiments.finetuning.language_models import CausalModel, EncoderDecoder, padded_left
from experiments.harness.errors import ConfigError

END = 1
Model = EncoderDecoder | CausalModel


def t5(**changes: Any) -> T5Config:
    sizes = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    return T5Config(**{**sizes, "decoder_start_token_id": 0, **changes})


def gpt2(**changes: Any) -> GPT2Config:
    sizes = {"vocab_size": 50, "n_positions": 40, "n_embd": 16, "n_layer": 2, "n_head": 2}
    return GPT2Config(**{**sizes, **changes})


def model(kind: type[Model]) -> Model:
    """Weights larger than usual, so that different prompts get different answers."""
    torch.manual_seed(0)
    return kind(t5(initializer_factor=2.0) if kind is EncoderDecoder else gpt2(initializer_range=0.6)).eval()


def padded(rows: list[list[int]]) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[-1] * (longest - len(row))] for row in rows])


PROMPTS = [[7, 8, 9, 10, 11, 12, 13, END], [20, 21, END], [30, END], [40, 41, 42, 43, END]]
ANSWERS = [[5, END], [6, 17, 18, END], [19, 5, END], [9, END]]
KINDS = pytest.mark.parametrize("kind", [EncoderDecoder, CausalModel])


@KINDS
def test_an_answers_loss_does_not_depend_on_the_batch(kind: type[Model]) -> None:
    made = model(kind)
    with torch.no_grad():
        together = made(padded(PROMPTS), padded(ANSWERS))
        alone = [
            made(torch.tensor([prompt]), torch.tensor([answer]))
            for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


@KINDS
def test_a_generated_answer_does_not_depend_on_the_batch(kind: type[Model]) -> None:
    made = model(kind)
    together = made.write(padded(PROMPTS), END, 8).tolist()
    alone = [made.write(torch.tensor([prompt]), END, 8)[0].tolist() for prompt in PROMPTS]
    assert [until_end(row) for row in together] == [until_end(row) for row in alone]
    assert len({tuple(until_end(row)) for row in together}) > 1


def until_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(END)] if END in tokens else tokens


@KINDS
def test_decoding_is_greedy(kind: type[Model]) -> None:
    made = model(kind)
    for prompt in PROMPTS:
        written: list[int] = []
        for _ in range(6):
            losses = made(
                torch.tensor([prompt] * 50), torch.tensor([[*written, token] for token in range(50)])
            )  # that of every next token
            written.append(int(losses.argmin()))
            if written[-1] == END:
                break
        assert made.write(torch.tensor([prompt]), END, 6)[0].tolist() == written


def test_the_encoder_decoder_loss_matches_transformers() -> None:
    made = model(EncoderDecoder)
    network: T5ForConditionalGeneration = made.network
    with torch.no_grad():
        expected = network(input_ids=torch.tensor([PROMPTS[0]]), labels=torch.tensor([ANSWERS[1]])).loss
        found = made(torch.tensor([PROMPTS[0]]), torch.tensor([ANSWERS[1]]))
    torch.testing.assert_close(found, expected[None] * len(ANSWERS[1]))


def test_the_causal_loss_covers_only_the_answer_tokens() -> None:
    made = model(CausalModel)
    network: GPT2LMHeadModel = made.network
    row = torch.tensor([PROMPTS[0] + ANSWERS[1]])
    with torch.no_grad():
        logs = network(input_ids=row).logits.log_softmax(-1)[0]
        found = made(torch.tensor([PROMPTS[0]]), torch.tensor([ANSWERS[1]]))
    by_hand = -sum(logs[place - 1, row[0, place]] for place in range(len(PROMPTS[0]), row.shape[1]))
    torch.testing.assert_close(found, torch.as_tensor(by_hand)[None])


@KINDS
@pytest.mark.parametrize("is_padded", [True, False])
def test_loss_and_gradients_match_those_with_transformers_own_mask(kind: type[Model], is_padded: bool) -> None:
    made = model(kind)
    prompts, answers = padded(PROMPTS if is_padded else PROMPTS[:1] * 3), padded(ANSWERS if is_padded else ANSWERS[1:2])

    def results() -> list[Tensor]:
        made.zero_grad()
        nats = made(prompts, answers.expand(len(prompts), -1))
        nats.sum().backward()
        return [nats.detach(), *(weight.grad.clone() for weight in made.parameters() if weight.grad is not None)]

    def by_transformers(network: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "attention_mask": kwargs["attention_mask"][:, 0, -1].long()}  # [N, T]

    found = results()
    made.network.register_forward_pre_hook(by_transformers, with_kwargs=True)
    for mine, theirs in zip(found, results(), strict=True):
        if is_padded or kind is EncoderDecoder:
            assert torch.equal(mine, theirs)
        else:  # a causal model without padding has no mask in transformers, and so another attention kernel
            torch.testing.assert_close(mine, theirs)


@KINDS
def test_gradients_are_finite_and_independent_of_padding(kind: type[Model]) -> None:
    made = model(kind)
    gradients = []
    for width in (0, 5):
        made.zero_grad()
        prompts = torch.nn.functional.pad(padded(PROMPTS), (0, width), value=-1)
        made(prompts, padded(ANSWERS)).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in made.parameters() if parameter.grad is not None])
    for first, second in zip(*gradients, strict=True):
        assert first.isfinite().all()
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


def test_padding_is_moved_to_the_left_in_order() -> None:
    assert padded_left(torch.tensor([[3, 2, -1, -1], [5, 4, 6, -1]])).tolist() == [[-1, -1, 3, 2], [-1, 5, 4, 6]]


@KINDS
def test_saved_weights_load_completely_and_in_training_mode(kind: type[Model], tmp_path: Path) -> None:
    saved = model(kind)
    saved.network.save_pretrained(tmp_path)
    config = t5() if kind is EncoderDecoder else gpt2()
    loaded = kind(config, {"path": str(tmp_path)})
    assert all(module.training for module in loaded.modules())
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in loaded.state_dict().items())
    deeper = t5(num_layers=3) if kind is EncoderDecoder else gpt2(n_layer=3)
    with pytest.raises(ConfigError, match=r"weights\.path=.* lack \d+ of the tensors"):
        kind(deeper, {"path": str(tmp_path)})


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    config = t5()
    config.save_pretrained(tmp_path)
    torch.save(model(EncoderDecoder).network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        EncoderDecoder(config, {"path": str(tmp_path)})
