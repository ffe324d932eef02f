"""Text -> normalised words and pauses -> phones (ARPAbet with stress).

The front end of every system here, behind the name of a language. What is particular to one language (its readings of
numbers and signs, its dictionary) is a package that `LANGUAGES` names and that loads at first use.
"""

import re
from collections.abc import Iterable, Sequence
from importlib import import_module
from types import ModuleType

from ms_core.text.phones import (  # noqa: F401
    BOUNDARIES,
    BOUNDARY,
    LONG_PAUSE,
    PHONES,
    SHORT_PAUSE,
    VOWELS,
    TextError,
    TextWarning,
    phone_ids,
    shortened,
)

LANGUAGES = {"en": "ms_core.text.english"}
"""The languages that can be read, each with the package that has its front end and its readings: what
`ms_core.text.english` names in `__all__`."""
PHONE_TABLES = {"en": PHONES}  # the phone table of each of them

MAX_WORDS = 2000  # the longest text that is read at once: about a quarter of an hour of speech
MAX_CHARACTERS = 40_000  # of a text with its markup; 2,000 English words have about 12,000
MAX_LETTERS = 100
"""The longest run of characters without a space that is taken for a word; English words have up to 45 letters."""
DIGITS_A_WORD = 2
"""At most: "1111" is "eleven eleven"; so the words that numbers will have are known before they are read."""

FIRST_PHONES = 48
"""Of a streamed text's first part, where a pause is that near: about 4 s, so that sound starts early. Our choice."""


def front_end(name: str = "en") -> ModuleType:
    """The package of a language: what it names in `__all__`. TextError for one unknown."""
    phone_table(name)
    return import_module(LANGUAGES[name])


def phone_table(language: str = "en") -> tuple[str, ...]:
    """The symbols that a model of a language is given; a symbol's index is its id. TextError for one unknown.

    Needs nothing of the front end, which a machine that only trains may lack.
    """
    if language not in LANGUAGES:
        raise TextError(f"cannot read the language {language!r}; allowed are {', '.join(LANGUAGES)}")
    return PHONE_TABLES[language]


def normalise(text: str, language: str = "en") -> list[str]:
    """Words in lower case and the pauses "," and "." between them; a spelled letter is written "b.".

    A comma, semicolon, colon or dash is ","; a full stop, question or exclamation mark and an empty line are ".".
    No pause stands at the edges and never two in a row (the longer one stays). HTML, SSML and Markdown are read as
    markup, entities as the characters that they stand for. Phones in braces, as in "my {K AA1 R}", are one word.

    Raises TextError for an unknown language, for a text with nothing to say, with more than `MAX_CHARACTERS` or
    `MAX_WORDS` words (before any of the work) or with letters that the language has not. Emoji and other symbols
    without a reading, tags and comments are left out with a TextWarning that names them.
    """
    words = read_words(text, language)
    check_words(words, text)
    return _merge_pauses(words)


def read_words(text: str, language: str = "en") -> list[str]:
    """`normalise` for a piece of a text: there may be no word, and pauses stand at the edges and beside each other."""
    reader = front_end(language)
    if not isinstance(text, str):
        raise TextError(f"the text must be a string, got {type(text).__name__}")
    if len(text) > MAX_CHARACTERS:
        raise TextError(f"the text has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read at once: split it")
    plain = reader.clean(text)
    tokens = plain.split()
    digits = re.findall("[1-9]", plain)
    numbers = max(sum(any(c.isdigit() for c in token) for token in tokens), len(digits) // DIGITS_A_WORD)
    _refuse_long(sum(not any(c.isdigit() for c in token) for token in tokens) + numbers)
    for token in tokens:
        if len(token) > MAX_LETTERS:
            raise TextError(
                f"{shortened(token)} has {len(token):,} characters without a space; at most {MAX_LETTERS} are read"
            )
    return reader.read(plain)


def check_words(words: Iterable[str], text: str) -> None:
    """Raises TextError where the words and pauses of a text have nothing to say, or too many words."""
    spoken = sum(word not in BOUNDARIES for word in words)
    if not spoken:
        raise TextError(f"the text {shortened(text)} has no word to say; give at least one")
    _refuse_long(spoken)


def _refuse_long(words: int) -> None:
    if words > MAX_WORDS:
        raise TextError(f"the text has {words:,} words; at most {MAX_WORDS:,} are read at once: split it")


def _merge_pauses(words: list[str]) -> list[str]:
    out: list[str] = []
    for word in words:
        if word in BOUNDARIES and (not out or out[-1] in BOUNDARIES):
            if out and word == LONG_PAUSE:
                out[-1] = word
        else:
            out.append(word)
    return out[:-1] if out[-1] in BOUNDARIES else out


def phonemise(text: str, language: str = "en") -> list[str]:
    """Phones (`PHONES` symbols) of a text: "_", the words' phones with one of "_" "," "." between two words, "_".

    Raises TextError and warns as `normalise` does.
    """
    return phones_of(normalise(text, language), language)


def phones_of(words: Iterable[str], language: str = "en") -> list[str]:
    """The phone sequence of already normalised words and pauses; a heteronym is said as the words around it ask."""
    words = list(words)
    phones = [BOUNDARY]
    for word, pronunciation in zip(words, front_end(language).pronounce(words), strict=True):
        if word in BOUNDARIES:
            phones[-1] = word
        else:
            phones += [*pronunciation, BOUNDARY]
    phones[-1] = BOUNDARY
    return phones


def pronunciations(word: str, language: str = "en") -> list[list[str]]:
    """Every pronunciation of a normalised word, as ARPAbet with stress; the first one is the default.

    From the language's dictionary; a possessive follows from its stem; an unknown word has the one that is guessed.
    """
    return [list(p) for p in front_end(language).pronunciations(word.lower())]


def chunks(phones: Sequence[str], limit: int, first: int | None = None) -> list[list[str]]:
    """Cut a phone sequence at pauses into parts of at most `limit` phones; a part begins and ends with "_".

    A long pause is preferred, then a short one, then any word boundary, the last that fits; a word of more than `limit`
    phones is not cut.

    first: for early audio, the first part ends at a pause (of a sentence, else of a clause) within so many phones; each
    further part may be twice as long, up to `limit`, so that a part is filled while the one before it sounds. Where no
    pause is so near, the next one ends the part. A text is never cut between words for the sake of early audio.
    Raises ValueError for a `first` below 4.
    """
    if first is not None and first < 4:
        raise ValueError(f"first {first}: a first part has at least 4 phones; None cuts by the limit alone")
    phones, parts = list(phones), []
    most = limit if first is None else min(first, limit)
    while cut := _early_cut(phones, most, limit) or _cut(phones, limit):
        parts.append([*phones[:cut], BOUNDARY])
        phones = [BOUNDARY, *phones[cut + 1 :]]
        most = min(2 * most, limit)
    return [*parts, phones]


def _early_cut(phones: list[str], most: int, limit: int) -> int:
    """Index of the pause at which a part of about `most` < `limit` phones ends, 0 for none; the rest is no crumb."""
    if most >= limit or len(phones) <= most:
        return 0
    inner = range(max(most // 4, 1), min(len(phones) - most // 4, limit))
    pauses = [i for i in inner if phones[i] in (LONG_PAUSE, SHORT_PAUSE)]
    near = [i for i in pauses if i < most]
    return max([i for i in near if phones[i] == LONG_PAUSE] or near, default=min(pauses, default=0))


def _cut(phones: list[str], limit: int) -> int:
    """Index of the boundary at which a part of at most `limit` phones ends, 0 where all fits or nothing can be cut."""
    if len(phones) <= limit:
        return 0
    inner = range(1, len(phones) - 1)
    for kind in (LONG_PAUSE, SHORT_PAUSE, BOUNDARY):
        if cut := max((i for i in inner if phones[i] == kind and limit // 4 <= i < limit), default=0):
            return cut
    return min((i for i in inner if phones[i] in BOUNDARIES), default=0)
