"""Words of English text: abbreviations, acronyms, names with capitals inside, addresses, elongations, and pauses."""

import re
from functools import lru_cache

from ms_core.text.english import tables
from ms_core.text.english.numbers import SPELL, cardinal, spell
from ms_core.text.english.sounds import NAME_LETTERS, dictionary, is_sayable, is_spelled
from ms_core.text.phones import LONG_PAUSE, PHONES, SHORT_PAUSE

_TOKEN = re.compile(r"""(["(\[{¿¡*_~|/\\]*)(.*?)([.,;:?!"')\]}*_~|/\\]*)""", re.DOTALL)
_INITIALS = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]?")
_SPELLED_LETTER = re.compile(rf"[a-z]{SPELL}(?:'s)?")
_CAMEL = re.compile(r"[A-Z]{2,}(?=[a-z](?![a-z]))|[A-Z]+(?![a-z])|[A-Z]?[a-z']+")
_PIECE = re.compile(r"\d+|[A-Za-z']+|[^\w\s]")
_ACRONYM_LENGTH = 5  # a longer unknown word in capitals is emphasised rather than an acronym

FIRST_PHONE = 0xE100  # phones written in a text are carried as characters from here on

_TLD = "com|org|net|edu|gov|info|biz|io|co|uk|us|eu|de|fr|ca|au|tv|ai|dev|app|me"
_FILE = "txt|py|js|html|pdf|md|csv|tsv|jpg|jpeg|png|gif|mp3|mp4|wav|json|yaml|zip|docx|xlsx|exe|cpp|sh|gz"
_ADDRESS = re.compile(
    rf"[\w.+-]{{1,64}}@[\w-]{{1,60}}(?:\.[\w-]{{1,60}}){{1,5}}|(?:https?|ftp)://[^\s<>\"]{{1,300}}|\bwww\.[^\s<>\"]{{1,300}}"
    rf"|(?<![\w.@/-])\w[\w-]{{0,60}}(?:\.[\w-]{{1,60}}){{0,4}}\.(?:{_TLD}|{_FILE})\b(?:/[^\s<>\"]{{0,300}})?"
)
_ADDRESS_SIGNS = {
    ".": "dot", "/": "slash", "-": "dash", "_": "underscore", "@": "at", ":": "colon", "?": "question mark",
    "=": "equals", "&": "and", "#": "hash", "%": "percent", "~": "tilde", "+": "plus",
}  # fmt: skip


def read_addresses(text: str) -> str:
    """The text with its e-mail and web addresses and names of files in words."""
    return _ADDRESS.sub(_address, text)


def _address(m: re.Match) -> str:
    address = m[0].rstrip(".,;:?!)")
    after_dot, words = False, []
    for piece in re.findall(r"\d+|[A-Za-z]+|.", re.sub(r"^\w+://", "", address).rstrip("/")):
        lower = piece.lower()
        if piece in _ADDRESS_SIGNS:
            words.append(_ADDRESS_SIGNS[piece])
        elif piece[0].isdigit():
            words.append(cardinal(piece))
        elif (after_dot or lower == "www") and lower in tables.ENDINGS:
            words += [spell(w) if w[-1] == "." else w for w in tables.ENDINGS[lower].split()]
        elif lower not in dictionary() and (len(piece) < 3 or not re.search("[aeiouy]", lower)):
            words.append(spell(piece))
        else:
            words.append(piece if piece.isupper() else lower)
        after_dot = piece == "."
    return f" {' '.join(words)} {m[0][len(address) :]}"


def read_tokens(text: str) -> list[str]:
    """Words and pauses of a text whose numbers are words already."""
    tokens = text.split()
    several = sum(sum(c.isalpha() for c in token) > 1 for token in tokens) > 1
    shout = several and not any(c.islower() for token in tokens for c in token if token[-1] != SPELL)
    shouted = [shout or _is_shouted(tokens, i) for i in range(len(tokens))]
    out: list[str] = []
    for i, token in enumerate(tokens):
        if _SPELLED_LETTER.fullmatch(token):
            out.append(token.replace(SPELL, "."))
            continue
        body, tail = _TOKEN.fullmatch(token).group(2, 3)
        following = tokens[i + 1].lstrip("\"'([{") if i + 1 < len(tokens) else ""
        previous = "" if not i or not out or out[-1] in (LONG_PAUSE, SHORT_PAUSE) else tokens[i - 1]
        first = i < 2 or tokens[i - 2][-1] in ".?!:"
        out += _token(body, tail, previous, following, shouted[i], first)
    return out


def _is_shouted(tokens: list[str], i: int) -> bool:
    """Whether a word in capitals stands beside another that is a common word, as in "DO IT"."""
    if not tokens[i].isupper():
        return False
    beside = [tokens[k].strip(".,;:?!\"'()") for k in (i - 1, i + 1) if 0 <= k < len(tokens)]
    return any(
        w.isalpha() and w.isupper() and len(w) > 1 and _is_word(w.lower()) and w.lower() not in tables.SPELLED
        for w in beside
    )


@lru_cache(maxsize=2048)
def _is_word(lower: str) -> bool:
    if len(lower) == 2:
        return lower in tables.SAID_AS_WORDS
    return lower in dictionary() and not is_spelled(lower)


def _token(body: str, tail: str, previous: str, following: str, shout: bool, first: bool) -> list[str]:
    """Words and pause of one token: `body` without the punctuation `tail`, between two other tokens.

    first: the token before this one begins its sentence, so that its capital says nothing.
    """
    key = body.lower()
    if (written := tables.WRITTEN_SHORT.get((key + tail).rstrip(",.;:?!)") if "/" in tail else key)) is not None:
        return [*written.split(), *_pause(tail)]
    name_follows = following[:1].isupper() and not shout
    if tail.startswith(".") and (words := _abbreviation(body, previous, following, name_follows, first)):
        if tail[1:2] in tuple(",;:"):
            ends = False
        elif key in tables.MAY_END or key in tables.STREETS and words[0] not in {"saint", "doctor"}:
            ends = name_follows and not _is_label(following)
        else:
            ends = name_follows and "." in body and following.rstrip(",.;:!?").lower() in tables.STARTERS
        return [*words, *_pause(tail if ends or not following else tail[1:])]
    if key in tables.STREETS and body.istitle() and not tail.startswith("."):
        if previous[:1].isupper() and (tail or not name_follows):
            return [*_abbreviation(body, previous, "", False, first), *_pause(tail)]
        if key == "st" and name_follows:
            return ["saint"]
    if body == "A" and not shout and _is_letter(previous, following, tail):
        return ["a.", *_pause(tail)]
    trailing = "'" if tail.startswith("'") else ""
    if "." in key and key in tables.ABBREVIATIONS:  # "Ph.D" without its last full stop
        return [*tables.ABBREVIATIONS[key].split(), *_pause(tail)]
    parts = re.split(r"[-/]", body)
    if "/" in body and all(part in tables.EITHER for part in key.split("/")):
        return [*key.replace("/", " or ").split(), *_pause(tail)]
    if len(parts) == 2 and "/" in body and parts[0] in tables.UNITS and parts[1] in tables.PER:  # "in km/h"
        return [*tables.UNITS[parts[0]][1].split(), "per", tables.PER[parts[1]], *_pause(tail)]
    return [w for part in parts for w in _part(part, trailing, shout, len(parts))] + _pause(tail)


def _is_label(following: str) -> bool:
    """Whether the next word goes on with a time or a name: "5 p.m. EST", "p.m. Monday"."""
    word = following.rstrip(",.;:!?")
    short = word.lower()[:3]
    return word.isupper() and len(word) > 1 or short in tables.MONTH_NAMES or short in tables.DAYS


def _is_letter(previous: str, following: str, tail: str) -> bool:
    """Whether a capital A within a sentence is the letter: "plan A", "from A to B"."""
    if not previous:
        return bool(tail) or not following
    return previous.lower() in tables.LETTER_AFTER or bool(tail) or not following[:1].isupper()


def _abbreviation(body: str, previous: str, following: str, name_follows: bool, first: bool) -> list[str]:
    """What an abbreviation with its full stop stands for; empty where it is none."""
    key = body.lower()
    if _INITIALS.fullmatch(body + ".") and key not in tables.ABBREVIATIONS:
        return [letter + "." for letter in key.replace(".", "")]
    if len(key) == 1 and key.isalpha() and body.isupper():
        ends = following[-1:].isalpha() and following.lower() in tables.STARTERS
        return [key + "."] if name_follows and not ends else []
    starts = following.rstrip(",.;:!?").lower() in tables.STARTERS
    previous = previous.removesuffix("'s")
    after_name = previous[:1].isupper() and previous.isalpha() and (not first or not name_follows or starts)
    if key in ("st", "dr") and (after_name or key == "st" and not name_follows):
        return ["street" if key == "st" else "drive"]
    capital = body[:1].isupper()
    is_another_word = (
        key not in tables.ABBREVIATIONS,
        key in tables.BEFORE_NAME and not (capital and name_follows),
        key in tables.BEFORE_LOWER and (name_follows or not following),
        (key in tables.DAYS or key in tables.MONTH_NAMES or key == "ms") and not capital,
        key in ("p", "v") and not (name_follows and not capital),
    )
    if any(is_another_word):
        return []
    return tables.ABBREVIATIONS[key].split()


def _pause(punctuation: str) -> list[str]:
    if re.search(r"[.?!]", punctuation):
        return [LONG_PAUSE]
    return [SHORT_PAUSE] if re.search(r"[,;:]", punctuation) else []


def _part(part: str, trailing: str, shout: bool, parts: int) -> list[str]:
    """Words of what stands between hyphens or slashes."""
    if part and ord(part[0]) >= FIRST_PHONE:
        return ["{" + " ".join(PHONES[ord(c) - FIRST_PHONE] for c in part) + "}"]
    if parts > 1 and len(part) == 1 and part.isupper():
        return [part.lower() + "."]
    if re.fullmatch(r"[A-Za-z']*", part):
        return _word(part, trailing, shout)
    if _SPELLED_LETTER.fullmatch(part):
        return [part.replace(SPELL, ".")]
    if _INITIALS.fullmatch(part) and "." in part:
        return [letter + "." for letter in part.lower().replace(".", "")]
    out: list[str] = []
    for piece in _PIECE.findall(part.replace(SPELL, "")):
        if piece.isdigit():
            out += cardinal(piece).split()
        elif piece == "s" and out:
            out[-1] += "'s"  # "MP3s"
        elif piece.isalpha() and (len(piece) <= 2 or piece.isupper()) and len(part) > len(piece):
            out += [letter + "." for letter in piece.lower()]  # "B2B", "mp3"
        elif piece[0].isalpha() or len(piece) > 1:
            out += _word(piece, "", shout)
        else:
            out += ["dot"] if piece == "." and out else tables.ASCII_SIGNS.get(piece, "").split()
    return out


@lru_cache(maxsize=8192)
def _words_of(word: str, trailing: str, shout: bool) -> tuple[str, ...]:
    lower, known = word.lower(), dictionary()
    plain = lower.strip("'")
    if not plain:
        return ()
    if plain in tables.TITLES and word[0].isupper() and not word.isupper():
        return (tables.ABBREVIATIONS[plain],)
    stem, _, suffix = word.strip("'").partition("'")
    if suffix in ("", "s", "S"):
        plural = re.fullmatch(r"([A-Z]{2,}|[A-Z][a-z][A-Z])s", stem) if not suffix else None
        letters = _letters(plural[1] if plural else stem, shout)
        if plural and not letters and plural[1].lower() not in tables.ACRONYM_WORDS:
            letters = [letter + "." for letter in plural[1].lower()]
        if letters:
            end = "'s" if plural or suffix else ""
            return (*letters[:-1], letters[-1] + end)
        if plural:
            return (stem.lower(),)
    once, twice = (re.sub(r"(.)\1{2,}", repeat, plain) for repeat in (r"\1", r"\1\1"))  # "sooo", "hmmm"
    elongated = (twice, once, plain) if twice in tables.DOUBLED else (plain, once, twice)
    parts = _CAMEL.findall(stem)
    if re.match(r"[a-z]+[A-Z]{2}|[A-Z][a-z]+[A-Z]{2}", stem):  # "iOS", "ChatGPT"
        return tuple(w for i, part in enumerate(parts) for w in _camel(part, parts[i + 1 :]))
    for form in (lower + trailing, lower, *elongated):
        if form in known and form != "'":
            return (form,)
    if unit := tables.UNITS.get(word) if len(word) > 1 and not word.isupper() else None:
        return tuple(unit[1].replace(".", ". ").split())
    if len(parts) > 1 and parts[0] not in tables.JOINED_NAMES and not word.isupper():
        return tuple(w for i, part in enumerate(parts) for w in _camel(part, parts[i + 1 :]))
    return (plain,)


def _word(word: str, trailing: str, shout: bool) -> list[str]:
    """One word of letters and apostrophes, spelled if it is an acronym; `trailing`: an apostrophe that follows it."""
    return list(_words_of(word, trailing, shout))


def _letters(stem: str, shout: bool) -> list[str]:
    """The letters of an acronym; empty for a word."""
    lower, known = stem.lower(), dictionary()
    if len(stem) < 2 or not stem.isupper() and not is_spelled(lower) and lower not in tables.SPELLED:
        return []
    if sum(c.isupper() for c in stem) > 1 and not stem.isupper() and lower in tables.SPELLED:  # "BSc"
        return [letter + "." for letter in lower]
    if stem.isupper() and not shout and (lower in tables.SPELLED or len(stem) == 2):
        as_word = lower in tables.SAID_AS_WORDS and lower not in tables.SPELLED
        return [] if as_word else [letter + "." for letter in lower]
    if is_spelled(lower):
        return [letter + "." for letter in lower] if not stem.islower() else []
    if lower in known or lower in tables.EXTRA_WORDS or re.search(r"(.)\1\1", lower[1:]):
        return []
    short = len(stem) <= _ACRONYM_LENGTH
    acronym = lower in tables.SPELLED or len(stem) < NAME_LETTERS and not is_sayable(lower) if shout else short
    return [letter + "." for letter in lower] if acronym else []


def _camel(part: str, rest: list[str]) -> tuple[str, ...]:
    """A part of a name with capitals inside: "Chat", "GPT"."""
    if len(part) == 1:
        return (part.lower() + ".",) if rest or part.isupper() else (part,)
    is_word = part.lower() in tables.EXTRA_WORDS or len(part) > 3 and part.lower() in dictionary()
    if part.isupper() and not is_word:
        return tuple(letter + "." for letter in part.lower())
    return (part.lower(),)
