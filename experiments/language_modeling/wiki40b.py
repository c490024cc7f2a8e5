r"""Wiki-40B: Wikipedia articles in 41 languages, as in the hub's repository google/wiki40b.

The text of an article contains markers::

    \n_START_ARTICLE_\nTitle\n_START_SECTION_\nHeading\n_START_PARAGRAPH_\nA paragraph._NEWLINE_The next one.

In some languages (including Slovak and Bulgarian) the cell is not this text but Python's repr of its UTF-8 bytes,
``b'\\n_START_ARTICLE_\\n...\\xc5\\xa1...'``.
"""

import ast
import logging
import re

from experiments.language_modeling.documents import PUBLISHED_SPLITS, Corpus
from experiments.language_modeling.tables import table_sources

log = logging.getLogger(__name__)

_MARKER = re.compile(r"^_START_(ARTICLE|SECTION|PARAGRAPH)_$", re.MULTILINE)
_PRINTED_BYTES = re.compile(r"""b(['"])(?:\\n)?_START_(?:(?!\1)[ -\[\]-~]|\\[ -~])*\1""")


def articles(root: str, language: str) -> Corpus:
    """The articles in one language, a folder of the repository (``en``, ``de``, ``zh-cn``), in their published
    splits.
    """
    return table_sources(
        root, {split: f"{language}/{name}-*.parquet" for split, name in PUBLISHED_SPLITS.items()}, to_text=plain_text
    )


def training_articles(root: str, language: str) -> Corpus:
    """Only the training split, for a partial copy of the files."""
    log.warning(
        "%s has no %s/validation-*.parquet and test-*.parquet: training articles will be held out instead",
        root,
        language,
    )
    return table_sources(root, {"train": f"{language}/train-*.parquet"}, to_text=plain_text)


def plain_text(cell: str) -> str:
    """An article without markers: title, blank line, paragraphs; blank line, heading, paragraphs of the section; ...

    A cell without markers is returned unchanged. Raises ValueError if a repr of bytes is not UTF-8.
    """
    text = ast.literal_eval(cell).decode() if _PRINTED_BYTES.fullmatch(cell) else cell
    before, *marked = _MARKER.split(text)
    if not marked:
        return text
    plain = before.strip("\n")
    last_kind = "ARTICLE"
    for kind, content in zip(marked[::2], marked[1::2], strict=True):
        # A heading stands on the line above its text; everything else is set off by a blank line.
        gap = "\n" if (last_kind, kind) == ("SECTION", "PARAGRAPH") else "\n\n"
        plain += (gap if plain else "") + content.strip("\n").replace("_NEWLINE_", "\n")
        last_kind = kind
    return plain
