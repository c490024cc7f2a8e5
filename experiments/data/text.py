"""When two texts count as equal, and what counts as text."""

import re
import unicodedata

from experiments.harness.errors import DataError


class _Invisible(dict[int, int | None]):
    """For str.translate: removes the byte-order mark, zero-width spaces and joiners, soft hyphens, direction marks and
    variation selectors of emoji. Filled on demand: a table of all characters takes a tenth of a second to build.
    """

    def __missing__(self, code: int) -> int | None:
        is_invisible = unicodedata.category(chr(code)) == "Cf" or 0xFE00 <= code < 0xFE10
        self[code] = None if is_invisible else code
        return self[code]


_INVISIBLE = _Invisible()
_CONTROLS = {code: None for code in range(32) if not chr(code).isspace()}
_NEWLINE = re.compile("\r\n|\r|\n")


def folded(text: str) -> str:
    """A canonical form, equal for texts that differ only in case, white space, invisible characters, and in Unicode's
    equivalent forms of a character: composed or decomposed accents, full or half width.
    """
    if not text.isascii():
        # Normalized again, because case folding may produce a letter and an accent.
        text = unicodedata.normalize("NFKD", text.translate(_INVISIBLE)).casefold()
        text = unicodedata.normalize("NFKD", text)
    return " ".join(text.casefold().split())


def lines(text: str) -> list[str]:
    """The non-blank lines of a text, split only at newlines: U+2028 and form feeds are part of a line."""
    return [line for line in _NEWLINE.split(text.removeprefix("\ufeff")) if line.strip()]


def check_text(text: str, where: str) -> str:
    """The text itself. Raises DataError if over a tenth is control characters, as in UTF-16 that was read as UTF-8."""
    if 10 * (len(text) - len(text.translate(_CONTROLS))) > len(text):
        raise DataError(
            f"{where} is not text but full of control characters: if it is UTF-16, convert it to UTF-8 (iconv)."
        )
    return text
