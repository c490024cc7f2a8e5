"""MiniLM in two parts equals MiniLM, and weights are loaded into the right places."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel

from experiments.harness.prepared_data import cached_arrays, prepare
from experiments.harness.sources import describe
from experiments.pretrained.minilm import LowerLayers, UpperLayers
from experiments.pretrained.tokenizers import clip, word_piece
from experiments.pretrained.weights import efficientnet_lite0, load_weights
from tests.conftest import fetched
from tests.harness.small_cifar import npm_registry, npm_source


@pytest.mark.parametrize("layers", [0, 4, 5])
def test_lower_and_upper_layers_together_equal_bert_with_mean_pooling(layers: int) -> None:
    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    bert = BertModel(BertConfig(**sizes), add_pooling_layer=False).eval()
    weights = {name: value.numpy() for name, value in bert.state_dict().items()}
    lower, upper = LowerLayers(layers).eval(), UpperLayers(layers).eval()
    load_weights(lower, weights)
    load_weights(upper, weights)
    tokens = torch.tensor([[101, 2003, 1037, 102, 0, 0], [101, 7, 8, 9, 10, 102]])
    with torch.no_grad():
        is_token = (tokens != 0).long()
        hidden = bert(tokens, attention_mask=is_token).last_hidden_state * is_token[..., None]
        expected = hidden.sum(1) / is_token.sum(1, keepdim=True)
        torch.testing.assert_close(upper(lower(tokens)), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(upper(lower(tokens[:1, :4])), expected[:1], rtol=1e-4, atol=1e-5)


def test_weights_without_a_required_parameter_are_refused() -> None:
    with pytest.raises(KeyError, match="weight"):
        load_weights(torch.nn.Linear(2, 2), {"bias": np.zeros(2, np.float32)})


def test_efficientnet_weights_are_mapped_to_timms_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model("tf_efficientnet_lite0").eval()
    theirs = {
        f"_module{i}.{name.rsplit('.', 1)[1]}": value for i, (name, value) in enumerate(model.state_dict().items())
    }
    torch.save(theirs, tmp_path / "efficientnet-lite0-57934424.pth")
    tower = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    load_weights(tower, efficientnet_lite0(tmp_path))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = model.forward_head(model.forward_features(images), pre_logits=True)
        torch.testing.assert_close(tower(images), features)
    torch.save(dict(reversed(theirs.items())), tmp_path / "efficientnet-lite0-57934424.pth")
    with pytest.raises(ValueError, match=r"is not conv_stem\.weight"):
        efficientnet_lite0(tmp_path)


def test_word_piece_pads_and_truncates_to_the_context() -> None:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "cat": 5, "##s": 6}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    weights = {"tokenizer": np.frombuffer(tokenizer.to_str().encode(), np.uint8)}
    tokens = word_piece(["a cats", "a a a a a a"], 5, weights)
    assert tokens.tolist() == [[2, 4, 5, 6, 3], [2, 4, 4, 4, 3]]
    assert word_piece(["a"], 5, weights).tolist() == [[2, 4, 3, 0, 0]]


def test_clip_tokens_end_with_the_highest_token_id() -> None:
    tokens = clip(["a photo of a cat", "x"], 8, {})
    assert tokens.shape == (2, 8)
    assert (tokens.max(1) == 49407).all()
    assert tokens[1].tolist()[3:] == [0] * 5


def test_computed_arrays_are_cached_by_identity(tmp_path: Path) -> None:
    calls = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"outputs": np.arange(3)}

    first = cached_arrays("features", "tower of pictures", tmp_path, compute)
    again = cached_arrays("features", "tower of pictures", tmp_path, compute)
    other = cached_arrays("features", "another tower of pictures", tmp_path, compute)
    assert len(calls) == 2
    assert first == again
    assert first.directory != other.directory
    assert first.load()["outputs"].tolist() == [0, 1, 2]


def decode_two(folders: dict[str, Path]) -> dict[str, np.ndarray]:
    return {name: np.frombuffer((folder / "test_batch.bin").read_bytes(), np.uint8) for name, folder in folders.items()}


def test_several_archives_form_one_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with npm_registry(tmp_path / "npm", monkeypatch) as (archive, _):
        one = {key: value for key, value in npm_source(archive).items() if key != "decode"}
        source = {"kind": "archives", "archives": {"left": one, "right": one}, "decode": f"{__name__}.decode_two"}
        data = {"name": "two", "fingerprint": None, "sources": [source]}
        arrays = prepare(data, tmp_path / "cache").load()
    assert sorted(arrays) == ["left", "right"]
    np.testing.assert_array_equal(arrays["left"], arrays["right"])
    assert describe(source) == "npm small-cifar 1.0.0 with npm small-cifar 1.0.0"


@pytest.mark.network
@pytest.mark.parametrize("name", ["lit_emoji", "lit_drawings", "efficientnet_lite0", "minilm"])
def test_pinned_downloads_match_the_declared_data_set(name: str, tmp_path: Path) -> None:
    assert fetched(name, tmp_path)[1]
