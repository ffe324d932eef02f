"""The English front end: `clean` a text, `read` it as words and pauses, `pronounce` the words.

`ms_core.text` calls what `__all__` names; another language has the same in a package of its own.
"""

import re
import unicodedata
import warnings

from ms_core.text.english import tables
from ms_core.text.english.markup import say_as, strip_markup
from ms_core.text.english.numbers import STREET, read_numbers, spell
from ms_core.text.english.roman import read_roman
from ms_core.text.english.sounds import plural, pronounce, pronunciations
from ms_core.text.english.words import FIRST_PHONE, read_addresses, read_tokens
from ms_core.text.phones import CONSONANTS, PHONES, VOWELS, TextError, TextWarning, phone_ids, shortened

__all__ = ["PHONES", "clean", "pronounce", "pronunciations", "read", "say_as"]

_CHARACTERS = str.maketrans(tables.CHARACTERS)
_SIGNS = {sign: f" {words} " for sign, words in tables.SIGNS.items()}
_ROMAN = {chr(0x2160 + i): f" {i + 1} " for i in range(12)} | {chr(0x2170 + i): f" {i + 1} " for i in range(12)}
_KEPT = frozenset("".join(tables.ASCII_SIGNS) + "".join(tables.CURRENCIES) + "¿¡µ–—―")
_RAISED = re.compile("[⁰¹²³⁴-⁹⁻⁺ⁿ]+")
_UNREAD = frozenset("*^~|\\_`")  # signs that are left where no rule has read them
_INLINE = re.compile(r"\{([A-Z]{1,2}[0-2]?(?:\s+[A-Z]{1,2}[0-2]?){1,30}|[A-Z]{2}[0-2])\}('s\b)?")
_LETTERS = "".join(tables.GREEK)
_GREEK = re.compile(f"(?<![{_LETTERS}])[{_LETTERS}](?![{_LETTERS}]{{2}})|(?<=[{_LETTERS}])[{_LETTERS}](?![{_LETTERS}])")
"""Greek letters that stand for themselves; three together are a word."""

_BEFORE_READING = tuple(
    (re.compile(pattern, flags), replacement)
    for pattern, replacement, flags in (
        (r"\b(I|you|he|she|it|we|they|that|there|who|what)\s(ll|ve|re)\b", r"\1'\2", re.I),  # in LibriSpeech
        (r"\.{2,}", ". ", 0),
        (r"\n\s*\n", " . ", 0),  # a new paragraph is a long pause
        (r"\s+", " ", 0),
    )
)
_COMPARED = {"<": "less than or equal to", ">": "greater than or equal to", "=": "equals", "!": "not equal to"}
_STREETS = {"St": "Street", "Dr": "Drive"}
_LIFE = {"c": "circa ", "ca": "circa ", "b": "born ", "d": "died "}
_GRADE = {"+": " plus", "-": " minus"}
_WINDS = {"N": "north", "S": "south", "E": "east", "W": "west"}
_BEFORE_NUMBER = "|".join(sorted(tables.BEFORE_NUMBER))
_DAY_OR_MONTH = "|".join(name.capitalize() for name in tables.DAYS | tables.MONTH_NAMES)


def _name(short: str) -> str:
    return (tables.DAYS | tables.MONTH_NAMES)[short.lower()]


_BEFORE_NUMBERS = (
    (re.compile(r"\+/-"), " plus or minus "),
    (re.compile(r"<=>|<->|[-=]{1,2}>"), " to "),
    (re.compile(r"([<>=!])="), lambda m: f" {_COMPARED[m[1]]} "),
    (re.compile(r"(?<!\w)a(?=\s?[\^=])"), spell("a")),
    (
        re.compile(rf"\b({_BEFORE_NUMBER})\.\s?(?=\d|[IVXLC]+\b)|\b(fig|figs|vol|pp|eq|apt|ste|rm)\s(?=\d)", re.I),
        lambda m: tables.ABBREVIATIONS[(m[1] or m[2]).lower()] + " ",
    ),
    (re.compile(r"(\d(?:st|nd|rd|th)) (St|Dr)\b(?:\.(?=,|\s[a-z]))?"), lambda m: f"{m[1]} {_STREETS[m[2]]}"),
    (re.compile(r"\b(ca?|b|d)\.\s?(?=\d{3,4}\b)"), lambda m: _LIFE[m[1]]),
    (re.compile(r"\b[Vv](?:er)?\.\s?(?=\d)"), "version "),
    (re.compile(r"\b[Rr]ev\.\s?(?=\d)"), "revision "),
    (re.compile(r"\bPh\.D\.?(?='?s\b)"), "PhD"),
    (re.compile(r"([$£€¥₹])\s?-(?=\d)"), r"-\1"),
    (re.compile(r"\b0x([0-9A-Fa-f]+)\b"), lambda m: " ".join(["zero x", *m[1]])),
    (re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d+)\b"), r"\1 times 10^\2"),
    (re.compile(r"\b(?:No|Nos)\.\s?(?=\d)|(?<!is )(?<!was )(?<!say )(?<!said )(?<!says )\bnos?\.\s?(?=\d)"), "number "),
    (re.compile(r"\b([A-Z]{1,3})&([A-Z]{1,2})\b"), lambda m: f"{spell(m[1])} and {spell(m[2])}"),
    (re.compile(r"(?<!\w)([CF])#(?!\w)"), lambda m: m[1].lower() + " sharp"),
    (re.compile(r"(?<!\w)([A-Z])\+\+(?!\w)"), lambda m: m[1].lower() + " plus plus"),
    (re.compile(r"(?<!\w)(AB|[A-FO])([+-])(?![\w+-])"), lambda m: spell(m[1]) + _GRADE[m[2]]),
    (re.compile(r"(?<!\w)#(?=[A-Za-z])"), "hashtag "),
    (re.compile(r"\bper ([A-Za-zµ]{1,5})\b"), lambda m: f"per {tables.UNITS.get(m[1], (m[1],))[0]}"),
    (re.compile(r"(?<=°)\s?([NSEW])\b"), lambda m: f" {_WINDS[m[1]]}"),
    (re.compile(rf"\b({_DAY_OR_MONTH})\.?\s?[-–]\s?({_DAY_OR_MONTH})\b"), lambda m: f"{_name(m[1])} to {_name(m[2])}"),
    (re.compile(r"(?<=\d)–(?=[A-Za-z])|(?<=[a-z])–(?=[A-Z\d])"), " to "),
    (re.compile(rf"(?<=\d)-(?=(?:{_DAY_OR_MONTH})\b)"), " to "),
    (re.compile(r"401\(k\)"), "four oh one k"),
    (re.compile(rf"\b([NSEW])\.? (?={STREET.strip()})"), lambda m: _WINDS[m[1]] + " "),
)
_AFTER_NUMBERS = (
    (re.compile(r"—|–|―|-{2,}|(?<=\s)-(?=\s)"), " , "),
    (re.compile(r"([A-Za-z]{2})\.(?=[A-Z][a-z])"), r"\1. "),  # a missing space: hello.World
    (re.compile(r"([A-Za-z])([,;:?!])(?=[A-Za-z])"), r"\1\2 "),
    (re.compile(r"(?<=[A-Za-z0-9])_(?=[A-Za-z0-9])"), " "),
    (re.compile("([" + re.escape("".join(set(tables.ASCII_SIGNS) - set("@#&"))) + "])"), r" \1 "),
)


def clean(text: str) -> str:
    """Latin letters without accents, ASCII punctuation, no markup; signs of mathematics and Greek letters as words.

    Raises TextError for other letters; a TextWarning names the symbols that are left out.
    """
    text = strip_markup(text)
    if not text.isascii():
        text = _plain_characters(text)
    text = _INLINE.sub(_inline_phones, text)
    for pattern, replacement in _BEFORE_READING:
        text = pattern.sub(replacement, text)
    return text.strip()


def _inline_phones(m: re.Match) -> str:
    """ "{K AA1 R}" as characters that no rule reads; TextError where the stress of a vowel is missing."""
    symbols = m[1].split()
    if not all(symbol.rstrip("012") in {*VOWELS, *CONSONANTS} for symbol in symbols):
        return m[0]
    symbols += plural(symbols[-1]) if m[2] else ()
    return f" {''.join(chr(FIRST_PHONE + i) for i in phone_ids(symbols))} "


def read(plain: str) -> list[str]:
    """Words in lower case and pauses of a cleaned text; pauses may still stand beside each other."""
    text = read_addresses(plain)
    for pattern, replacement in _BEFORE_NUMBERS:
        text = pattern.sub(replacement, text)
    text = read_numbers(read_roman(text))
    for pattern, replacement in _AFTER_NUMBERS:
        text = pattern.sub(replacement, text)
    _warn_of([c for c in text if c in _UNREAD])
    return read_tokens(text)


def _plain_characters(text: str) -> str:
    left_out = [c for c in text if unicodedata.category(c) in {"So", "Sk"} and c not in {*tables.CHARACTERS, *"°^"}]
    _warn_of(left_out)
    characters = dict.fromkeys(left_out, " ") | _SIGNS | _ROMAN
    circled = [c for c in text if 0x2460 <= ord(c) <= 0x24FF and unicodedata.numeric(c, 0)]
    characters |= {c: f" {unicodedata.numeric(c):.0f} " for c in circled}
    text = re.sub("(?<=[0-9])(?=[¼-¾⅐-⅞])", " ", text.translate(str.maketrans(characters)).translate(_CHARACTERS))
    text = _RAISED.sub(lambda raised: "^" + unicodedata.normalize("NFKD", raised[0]).replace("−", "-"), text)
    decomposed = unicodedata.normalize("NFKD", text).translate(_CHARACTERS)
    text = "".join(c for c in decomposed if unicodedata.category(c) not in {"Mn", "Me", "Cf"})  # no accents
    text = re.sub("(?<=[0-9])( ?)μ(?=[A-Za-zΩ])", r"\1µ", text)  # the micro of a unit; alone it is the letter
    text = re.sub("(?<=[0-9])( ?[kMmµ]?)Ω", r"\1ohm", text)
    text = _GREEK.sub(lambda letter: f" {tables.GREEK[letter[0]]} ", text)
    foreign = [c for c in dict.fromkeys(text) if c.isalnum() and not c.isascii() and c not in _KEPT]
    if foreign:
        raise TextError(
            f"cannot read the characters {' '.join(foreign[:20])} in {shortened(text)}: only English text in Latin "
            "letters is read; transliterate them or leave them out"
        )
    odd = [c for c in text if not c.isascii() and c not in _KEPT and not c.isspace()]
    _warn_of(odd)
    return text.translate(str.maketrans(dict.fromkeys(odd, " ")))


def _warn_of(symbols: list[str]) -> None:
    if symbols:
        named = ", ".join(f"{c} ({unicodedata.name(c, 'unnamed')})" for c in dict.fromkeys(symbols))
        warnings.warn(f"dropped symbols that have no reading: {named}", TextWarning, stacklevel=4)
