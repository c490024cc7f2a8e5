"""A byte-level BPE tokenizer, trained on the text to be modelled; it encodes any text losslessly.

Tokenizing a text in pieces gives the same tokens as tokenizing it as a whole if it is cut where the tokenizer would
split it anyway: before a space or newline that follows a word.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SEPARATOR = "<|endoftext|>"
SEPARATOR_ID = 0
SMALLEST_VOCAB = 1 + 256
PIECE_CHARS = 16_384
"""Small enough that a batch keeps all cores busy."""
_UP_TO_A_WORDS_END = re.compile(r"(?s:.*)\S(?=[ \n])")


def train_tokenizer(pieces: Iterable[str], vocab_size: int) -> "Tokenizer":
    """A tokenizer of at most ``vocab_size`` entries (and at least SMALLEST_VOCAB): the separator, 256 bytes, and merges
    that occur at least twice.

    It depends only on the text, not on the number of threads or on how the text is cut into pieces. No text is
    tokenized to the separator, not even one that spells it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(pieces, trainer)
    trained = json.loads(tokenizer.to_str())
    trained["added_tokens"] = []  # otherwise the tokenizer would look for the separator in texts
    tokenizer = Tokenizer.from_str(json.dumps(trained))
    assert tokenizer.token_to_id(SEPARATOR) == SEPARATOR_ID
    return tokenizer


def cut(texts: Iterable[str]) -> Iterator[str]:
    """Recut a text, given in pieces of any length, into pieces of at most PIECE_CHARS characters.

    A piece ends before a space or newline that follows a word, or anywhere if there is none.
    """
    rest = ""
    for text in texts:
        text, start = rest + text, 0
        while len(text) - start > PIECE_CHARS:
            end = start + PIECE_CHARS
            # Look one character ahead, for the space after a word that ends exactly here.
            if found := _UP_TO_A_WORDS_END.match(text, start, end + 1):
                end = found.end()
            yield text[start:end]
            start = end
        rest = text[start:]
    if rest:
        yield rest
