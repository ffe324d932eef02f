"""What a text asks for besides its words: pauses, tempo, pronunciations and who speaks.

Marks in brackets, `[pause:0.5]` and `[voice:NAME]`, and a subset of SSML: speak, p, s, break, prosody (rate), say-as,
sub, phoneme, voice. The text between them is read by the language's front end, all other markup as it reads it. No XML
parser is asked: no entity is defined in a text, and one that merely holds a tag is no document. Our choice.
"""

import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ms_core.text import MAX_CHARACTERS, check_words, front_end, read_words
from ms_core.text.phones import (
    BOUNDARIES,
    BOUNDARY,
    LONG_PAUSE,
    SHORT_PAUSE,
    TextError,
    TextWarning,
    phone_ids,
    shortened,
)

SLOWEST, FASTEST = 0.5, 2.0  # times the natural tempo
MAX_PAUSE, MAX_PAUSES = 10.0, 300.0  # seconds of one pause that is asked for, and of all in a text
PAUSES = {"none": 0.0, "x-weak": 0.1, "weak": 0.2, "medium": 0.4, "strong": 0.7, "x-strong": 1.2}  # s, of a <break>
RATES = {"x-slow": 0.6, "slow": 0.8, "medium": 1.0, "default": 1.0, "fast": 1.25, "x-fast": 1.6}
LEXICON_BYTES = 4 << 20  # a larger file is refused

_MARK = re.compile(
    r"\[(?:(?P<pause>pause)(?::(?P<length>[^\[\]]{0,40}))?|voice:(?P<name>[^\[\]]{1,200}))\]"
    r"|<(?P<close>/?)(?P<tag>speak|p|s|break|prosody|say-as|sub|phoneme|voice)"
    r"""(?P<rest>(?:\s+[\w:-]{1,40}\s*=\s*(?:"[^"<]{0,500}"|'[^'<]{0,500}'))*)\s*/?>""",
    re.IGNORECASE,
)
_ATTRIBUTE = re.compile(r"""([\w:-]{1,40})\s*=\s*(?:"([^"<]*)"|'([^'<]*)')""")
_WORD = re.compile(r"\{[^{}]*\}|[^\W_][\w'’&.+]*(?:-[\w'’&.+]+)*")


@dataclass(frozen=True)
class Passage:
    """What one voice says at a stretch.

    Attributes:
        voice: its name in the text; None for the voice that is asked to speak.
        text: as written, without the marks; words: as read, a word each, and the pauses between them.
        phones: see `text.phonemise`; rates: for each, how many times as fast; pauses: for each boundary of which the
            text says how long it is, seconds, else None. language: that was read.
    """

    voice: str | None
    text: str
    words: tuple[str, ...]
    phones: tuple[str, ...]
    rates: tuple[float, ...]
    pauses: tuple[float | None, ...]
    language: str = "en"


def one_sequence(passages: Sequence[Passage]) -> Passage:
    """Passages as one: where the voice changes, they share a boundary as two sentences do."""
    whole = passages[0]
    for passage in passages[1:]:
        between = None
        if whole.pauses[-1] is not None or passage.pauses[0] is not None:
            between = (whole.pauses[-1] or 0.0) + (passage.pauses[0] or 0.0)
        whole = Passage(
            None,
            f"{whole.text} {passage.text}",
            (*whole.words, LONG_PAUSE, *passage.words),
            (*whole.phones[:-1], LONG_PAUSE, *passage.phones[1:]),
            (*whole.rates[:-1], *passage.rates),
            (*whole.pauses[:-1], between, *passage.pauses[1:]),
            whole.language,
        )
    return whole


Piece = tuple[str | float, float]  # a text, or a pause in seconds, and the tempo there


def read_script(text: str, language: str = "en", lexicon: Mapping[str, str] | None = None) -> list[Passage]:
    """A text with marks as what each voice says, one after the other.

    lexicon: see `read_lexicon`.
    Raises TextError as `text.normalise` does, and for a mark that cannot be followed; what is left out is warned of.
    """
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        read_words(text, language)  # says what is wrong
    passages: list[Passage] = []
    lead = 0.0
    for voice, pieces in _turns(text, language):
        passage, silence = _passage(voice, pieces, language, lexicon or {}, lead)
        passages += [passage] if passage else []
        lead = silence  # where nothing was said: pauses go to whoever speaks next
    check_words((word for passage in passages for word in passage.words), text)
    if lead:
        *before, last = passages[-1].pauses
        passages[-1] = replace(passages[-1], pauses=(*before, (last or 0.0) + lead))
    total = sum(seconds or 0.0 for passage in passages for seconds in passage.pauses)
    if total > MAX_PAUSES:
        raise TextError(f"the text asks for {total:.0f} s of pauses; at most {MAX_PAUSES:.0f} s are made")
    return passages


def _passage(
    voice: str | None, pieces: Sequence[Piece], language: str, lexicon: Mapping[str, str], lead: float
) -> tuple[Passage | None, float]:
    """What pieces say; None and the seconds of their pauses where they have no word."""
    words: list[str] = []
    rates: list[float] = []
    asked: dict[int, float] = {-1: lead} if lead else {}  # seconds, by the pause's index in `words`; -1 leads
    for piece, rate in pieces:
        if not isinstance(piece, str):
            if words and words[-1] not in BOUNDARIES:
                words.append(SHORT_PAUSE)
                rates.append(rates[-1])
            asked[len(words) - 1] = asked.get(len(words) - 1, 0.0) + piece
            continue
        for word in read_words(_with_lexicon(piece, lexicon) if lexicon else piece, language):
            if word not in BOUNDARIES or (words and words[-1] not in BOUNDARIES):
                words.append(word)
                rates.append(rate)
            elif words and word == LONG_PAUSE:
                words[-1] = word
    if all(word in BOUNDARIES for word in words):
        return None, sum(asked.values())
    phones, speeds, pauses = [BOUNDARY], [rates[0]], [asked.get(-1)]
    for i, (word, said) in enumerate(zip(words, front_end(language).pronounce(words), strict=True)):
        if word in BOUNDARIES:
            phones[-1], pauses[-1] = word, asked.get(i)
        else:
            phones += [*said, BOUNDARY]
            speeds += [rates[i]] * (len(said) + 1)
            pauses += [None] * (len(said) + 1)
    phones[-1] = BOUNDARY
    plain = " ".join(piece.strip() for piece, _ in pieces if isinstance(piece, str) and piece.strip())
    return Passage(voice, plain, tuple(words), tuple(phones), tuple(speeds), tuple(pauses), language), 0.0


def _turns(text: str, language: str) -> list[tuple[str | None, list[Piece]]]:
    """The marks of a text resolved: who speaks in turn, and the pieces of each."""
    turns: list[tuple[str | None, list[Piece]]] = [(None, [])]
    open_tags: list[tuple[str, float, str | None, Mapping[str, str]]] = []  # tag, tempo and voice before, attributes
    rate, at, kept = 1.0, 0, ""

    def told(more: str) -> str:
        """Text inside the open tags, as they want it."""
        for tag, _, _, attributes in open_tags:
            if tag in ("sub", "phoneme"):
                return ""
            if tag == "say-as" and more.strip():
                return f" {front_end(language).say_as(attributes.get('interpret-as', ''), more.strip())} "
        return more

    for mark in _MARK.finditer(text):
        kept += told(text[at : mark.start()])
        at = mark.end()
        tag, attributes = (mark["tag"] or "").lower(), _attributes(mark["rest"])
        if tag in ("p", "s", "speak"):
            kept += "" if tag == "speak" else " . "
            continue
        if kept:
            turns[-1][1].append((kept, rate))
            kept = ""
        if mark["pause"] or tag == "break":
            wanted = mark["length"] if mark["pause"] else attributes.get("time") or attributes.get("strength")
            turns[-1][1].append((_seconds(wanted or "medium", mark[0]), rate))
        elif mark["name"]:
            turns.append((mark["name"].strip(), []))
        elif mark["close"]:
            if not open_tags or open_tags[-1][0] != tag:
                raise TextError(f"{mark[0]} closes nothing: each tag is closed by its own, the last one first")
            _, rate, before, _ = open_tags.pop()
            turns += [(before, [])] if tag == "voice" else []
        else:
            if tag == "sub":
                kept = f" {_needed(attributes, 'alias', mark[0])} "
            elif tag == "phoneme":
                kept = f" {_phoneme(attributes, mark[0])} "
            if mark[0].endswith("/>"):
                continue
            open_tags.append((tag, rate, turns[-1][0], attributes))
            if tag == "voice":
                turns.append((_needed(attributes, "name", mark[0]), []))
            elif tag == "prosody":
                rate *= _rate(attributes, mark[0])
                if not SLOWEST <= rate <= FASTEST:
                    raise TextError(f"{mark[0]}: {rate:g} times the tempo; allowed are {SLOWEST:g} to {FASTEST:g}")
    if open_tags:
        raise TextError(f"<{open_tags[-1][0]}> is never closed: write </{open_tags[-1][0]}> where it ends")
    turns[-1][1].append((kept + text[at:], rate))
    return turns


def _attributes(written: str | None) -> dict[str, str]:
    return {m[1].lower(): (m[2] or m[3] or "").strip() for m in _ATTRIBUTE.finditer(written or "")}


def _needed(attributes: Mapping[str, str], name: str, mark: str) -> str:
    if not attributes.get(name):
        raise TextError(f'{shortened(mark)}: give {name}="..."')
    return attributes[name]


def _measure(written: str, names: Mapping[str, float], units: Mapping[str, float], mark: str, forms: str) -> float:
    """A name's value, or a number times its unit; TextError says which forms are allowed."""
    if written in names:
        return names[written]
    m = re.fullmatch(rf"([+-]?\d{{1,6}}(?:\.\d{{0,6}})?|\.\d{{1,6}})\s*({'|'.join(units)})", written)
    if not m:
        raise TextError(f"{shortened(mark)}: {written!r} is none of what is allowed: {forms}, {', '.join(names)}")
    return float(m[1]) * units[m[2]]


def _seconds(written: str, mark: str) -> float:
    """ "0.5", "0.5s", "500ms" or a strength as seconds."""
    units = {"ms": 0.001, "s": 1.0, "": 1.0}
    seconds = _measure(written.strip().lower(), PAUSES, units, mark, "0.5, 0.5s, 500ms")
    if not 0 <= seconds <= MAX_PAUSE:
        raise TextError(f"{shortened(mark)}: {seconds:g} s; allowed are 0 to {MAX_PAUSE:g} s")
    return seconds


def _rate(attributes: Mapping[str, str], mark: str) -> float:
    """The factor of <prosody>; a TextWarning for what the model cannot do."""
    if unable := sorted(attributes.keys() - {"rate"}):
        warnings.warn(f"<prosody> has no effect with {', '.join(unable)}: rate alone", TextWarning, stacklevel=5)
    written = attributes.get("rate", "medium").lower()
    value = _measure(written, RATES, {"%": 0.01, "": 1.0}, mark, "1.2, 120%, +20%")
    return 1 + value if written[0] in "+-" and written[-1] == "%" else value


def _phoneme(attributes: Mapping[str, str], mark: str) -> str:
    """The phones of <phoneme> in braces; TextError for another alphabet than the phone table."""
    phones = _needed(attributes, "ph", mark)
    alphabet = attributes.get("alphabet", "arpabet").lower()
    if alphabet not in ("arpabet", "cmu", "x-arpabet", "cmu-arpabet", "x-cmu"):
        raise TextError(f"{shortened(mark)}: alphabet {alphabet!r} is not read; give ph in arpabet, as in K AA1 R")
    return _braces(phones)


def _braces(phones: str) -> str:
    """ "K AA1 R" as a text holds it; TextError where these are no phones."""
    symbols = phones.upper().split()
    phone_ids(symbols)
    if not symbols or set(symbols) & BOUNDARIES:
        raise TextError(f"{phones!r} holds no phones of a word, as in K AA1 R")
    return "{" + " ".join(symbols) + "}"


def read_file(path: str | Path, most: int = 16 << 20) -> str:
    """A UTF-8 file of at most so many bytes, "-" for stdin. Raises TextError for one that cannot be read."""
    try:
        if str(path) == "-":
            content = sys.stdin.buffer.read(most + 1)
        else:
            with open(path, "rb") as file:
                content = file.read(most + 1)
        if len(content) > most:
            raise TextError(f"{path}: more than {most >> 20} MiB of text; split it")
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"{path}: cannot be read as UTF-8 text ({error})") from None


def read_lexicon(path: str | Path) -> dict[str, str]:
    """How a file says words: one a line, `WORD PHONES...` as in CMUdict; a line that starts with # or ;;; is a comment.

    Words in lower case -> phones. Upper and lower case are one, a possessive follows from its word. Raises TextError
    for a file that is missing, too large or has a line without phones; the line is named.
    """
    lexicon = {}
    for number, line in enumerate(read_file(path, LEXICON_BYTES).splitlines(), 1):
        if not line.strip() or line.startswith(("#", ";;;")):
            continue
        word, *phones = line.split()
        try:
            lexicon[word.lower()] = _braces(" ".join(phones)).strip("{}")
        except TextError as error:
            raise TextError(f"{path}, line {number}: {word!r}: {error}") from None
    return lexicon


def _with_lexicon(text: str, lexicon: Mapping[str, str]) -> str:
    """A text with the words of a lexicon as phones in braces."""

    def look_up(word: str) -> str | None:
        stem = word.rstrip(".'’")
        base = re.sub(r"['’]s$", "", stem)
        for known in (word, stem, base):
            if phones := lexicon.get(known.lower()):
                return _braces(phones) + word[len(known) :]
        return None

    def said(m: re.Match) -> str:
        if m[0][0] == "{":
            return m[0]
        whole = look_up(m[0])
        if whole is None and any(parts := [look_up(part) for part in m[0].split("-")]):
            return " ".join(new or old for new, old in zip(parts, m[0].split("-"), strict=True))
        return whole or m[0]

    return _WORD.sub(said, text)
