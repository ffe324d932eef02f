"""Roman numerals: which capitals are one, and whether it is said as a number or, after a ruler, as "the eighth"."""

import re
from collections.abc import Callable

from ms_core.text.english import tables
from ms_core.text.english.numbers import cardinal, ordinal, pairs

_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_CANONICAL = re.compile(r"M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})")
_AFTER_WORD = re.compile(r"(?:\b([A-Z][\w'.]*) )?\b([A-Za-z][\w']*)[ -]([IVXLCDM]+|[ivx]{2,})(?![\w&/]|'(?!s\b)|\.\w)")
_LIST = re.compile(
    rf"\b({'|'.join(name.capitalize() for name in sorted(tables.NUMBERED))})(s? )([IVXLC]+)"
    r"((?:,? (?:and|or|to|through) |, |[-–]))([IVXLC]+)\b"
)
_CENTURY = re.compile(r"\b([IVXL]{2,})(?:th|st|nd|rd)? (?=centur(?:y|ies)\b|dynast(?:y|ies)\b)", re.I)
_HEADING = re.compile(r"(?:^|(?<=\. ))([IVX]{2,})(?=\. [A-Z])")
_YEAR = re.compile(r"\bM[CDLXVIM]{3,}\b")
_RULES = re.compile(r"(?:,|\.| of| was| died| ruled| reigned| became| and| had)(?!\w)")
_CROWNS = frozenset({"king", "queen", "pope", "emperor", "empress", "tsar", "czar", "kaiser", "prince", "duke"})


def _value(numeral: str) -> int:
    """The number that a numeral stands for, 0 where the letters are none."""
    if not _CANONICAL.fullmatch(numeral):
        return 0
    values = [_VALUES[letter] for letter in numeral]
    return sum(-v if v < following else v for v, following in zip(values, [*values[1:], 0], strict=True))


def _read(m: re.Match) -> str:
    before, word, numeral = m.groups()
    name, value = word.lower(), _value(numeral.upper())
    if not value:
        return m[0]
    start = m[0][: len(m[0]) - len(numeral)]
    if name in tables.NUMBERED and (len(numeral) > 1 or word.istitle()):
        return start + cardinal(str(value))
    if not word[0].isupper() or numeral.islower() or value > 39:
        return m[0]
    rest = m.string[m.end() : m.end() + 12]
    crowned = (before or "").lower() in _CROWNS or _RULES.match(rest) is not None
    if name in tables.RULERS and (numeral != "I" or crowned):
        return f"{start}the {ordinal(str(value))}"
    if (
        numeral in ("I", "X")
        or len(numeral) < 2
        and not word.istitle()
        or name in tables.LETTER_AFTER
        or name in tables.STARTERS
        or len(word) < 2
        or word.isupper()
        and len(word) > 4
    ):
        return m[0]
    if before and before.lower() in tables.RULERS:
        return f"{start}the {ordinal(str(value))}"
    return start + cardinal(str(value))


def _alone(m: re.Match, reading: Callable[[str], str]) -> str:
    value = _value(m[1].upper())
    return f"{reading(str(value))} " if value else m[0]


def _read_list(m: re.Match) -> str:
    first, last = _value(m[3]), _value(m[5])
    link = " to " if m[4] in "-–" else m[4]
    return f"{m[1]}{m[2]}{cardinal(str(first))}{link}{cardinal(str(last))}" if first and last else m[0]


def read_roman(text: str) -> str:
    """The text with its Roman numerals in words."""
    text = _LIST.sub(_read_list, text)
    for pattern, reading in ((_CENTURY, ordinal), (_HEADING, cardinal)):
        text = pattern.sub(lambda m, reading=reading: _alone(m, reading), text)
    text = _AFTER_WORD.sub(_read, text)
    return _YEAR.sub(lambda m: pairs(str(_value(m[0]))) if _value(m[0]) else m[0], text)
