"""When two texts are the same, and what a text file must be."""

import re
import unicodedata

from experiments.harness.errors import DataError


class _Invisible(dict[int, int | None]):
    """For str.translate: byte-order mark, zero-width spaces and joiners, soft hyphens, marks of direction, and which
    form an emoji has. Filled by what is met: a table of all characters takes a tenth of a second to make.
    """

    def __missing__(self, code: int) -> int | None:
        is_invisible = unicodedata.category(chr(code)) == "Cf" or 0xFE00 <= code < 0xFE10
        self[code] = None if is_invisible else code
        return self[code]


_INVISIBLE = _Invisible()
_CONTROLS = {code: None for code in range(32) if not chr(code).isspace()}
_NEWLINE = re.compile("\r\n|\r|\n")


def folded(text: str) -> str:
    """What two texts have in common if they differ in nothing but case, white space, invisible characters, and how
    Unicode writes the same character: with its accents or apart from them, wide or narrow.
    """
    if not text.isascii():
        # A second time, because lower case of a letter may be one and an accent.
        text = unicodedata.normalize("NFKD", text.translate(_INVISIBLE)).casefold()
        text = unicodedata.normalize("NFKD", text)
    return " ".join(text.casefold().split())


def lines(text: str) -> list[str]:
    """The lines of a text that are not empty, parted by newlines alone: U+2028 and form feeds belong to a line."""
    return [line for line in _NEWLINE.split(text.removeprefix("\ufeff")) if line.strip()]


def check_text(text: str, where: str) -> str:
    """The text itself. Raises DataError if more than a tenth of it are control characters, as in UTF-16 that was read
    as UTF-8.
    """
    if 10 * (len(text) - len(text.translate(_CONTROLS))) > len(text):
        raise DataError(
            f"{where} is no text, it is full of control characters: if it is UTF-16, convert it to UTF-8 (iconv)."
        )
    return text
