"""The phone table: ARPAbet with stress, three marks between words, and the errors and warnings of reading a text.

The paper says only that the input is a phone sequence; the table is our choice, and checkpoints depend on its order.
"""

from collections.abc import Iterable

PAD, BOUNDARY, SHORT_PAUSE, LONG_PAUSE = "<pad>", "_", ",", "."
BOUNDARIES = frozenset({BOUNDARY, SHORT_PAUSE, LONG_PAUSE})
VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = (
    *("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG"),
    *("P", "R", "S", "SH", "T", "TH", "V", "W", "Y", "Z", "ZH"),
)
PHONES = (PAD, BOUNDARY, SHORT_PAUSE, LONG_PAUSE, *sorted([v + s for v in VOWELS for s in "012"] + list(CONSONANTS)))
"""All symbols; a symbol's index is its id."""

_IDS = {phone: i for i, phone in enumerate(PHONES)}


class TextError(ValueError):
    """A text that cannot be read aloud, with the reason."""


class TextWarning(UserWarning):
    """Something in a text is not read aloud: a symbol without a reading, or markup."""


def phone_ids(phones: Iterable[str]) -> list[int]:
    """Ids (indices into `PHONES`) of phones; TextError names a symbol that is none of them."""
    phones = list(phones)
    unknown = sorted(set(phones) - _IDS.keys())
    if unknown:
        raise TextError(f"not phones: {unknown}; allowed are {' '.join(PHONES[1:])}")
    return [_IDS[phone] for phone in phones]


def shortened(text: str) -> str:
    """A text as an error message quotes it."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
