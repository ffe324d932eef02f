"""Text normalisation and phones."""

import string
import subprocess
import sys
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_core.text import BOUNDARIES, MAX_WORDS, PHONES, TextError, normalise, phone_ids, phonemise, pronunciations


def test_phones_are_the_four_marks_and_69_arpabet_phones() -> None:
    assert PHONES[:4] == ("<pad>", "_", ",", ".")
    assert len(PHONES) == len(set(PHONES)) == 73
    assert (PHONES[4], PHONES[-1]) == ("AA0", "ZH")
    assert phone_ids(["<pad>", "_", ",", ".", "AA0", "ZH"]) == [0, 1, 2, 3, 4, 72]
    with pytest.raises(TextError, match=r"not phones: \['AA', 'xx'\]"):
        phone_ids(["xx", "AA", "AA1"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, world!", "hello , world"),
        ("One; two: three - four — five. Six? Seven", "one , two , three , four , five . six . seven"),
        ("Wait... what?!\n\nA new paragraph", "wait . what . a new paragraph"),
        ("\"Stop!\" (he said) 'now'", "stop . he said now"),
        ("Dr. Smith met Mrs. O'Brien, etc.", "doctor smith met missus o'brien , et cetera"),
        ("Dr Smith vs. Prof. X", "doctor smith versus professor x"),
        ("Main St. is near St. Paul.", "main street is near saint paul"),
        ("He owns Foo Inc. They left", "he owns foo incorporated . they left"),
        ("J. R. Smith, Ph.D.", "j. r. smith , p. h. d."),
        ("$12.50, £3 and ¥100", "twelve dollars fifty cents , three pounds and one hundred yen"),
        ("$5 million, $2.5bn", "five million dollars , two point five billion dollars"),
        ("4/5/2021", "april fifth twenty twenty one"),
        ("On Jan. 3rd, 1999", "on january third , nineteen ninety nine"),
        ("10:30 a.m. or 9:05pm. Then", "ten thirty a. m. or nine oh five p. m. . then"),
        ("the 1990s, the 80s", "the nineteen nineties , the eighties"),
        ("50% of 1,234,500", "fifty percent of one million two hundred and thirty four thousand five hundred"),
        ("3.14, -7, 10-20, 007", "three point one four , minus seven , ten to twenty , zero zero seven"),
        ("No. 5, 1/2, 2½, 3/4", "number five , one half , two and one half , three quarters"),
        ("5kg, 20 °C, 100km/h", "five kilograms , twenty degrees celsius , one hundred kilometers per hour"),
        ("BBC in the US: it's NASA's XKCD", "bbc in the u. s. , it's nasa's x. k. c. d."),
        ("B2B mp3", "b. two b. m. p. three"),
        ("well-known & foo@bar.com", "well known and foo at bar dot com"),
        ("naïve café, Straße", "naive cafe , strasse"),
        ("‘don’t’ “go”", "don't go"),
        ("'tis runnin' sooo late", "'tis runnin' so late"),
        ("I LL GO WE VE SEEN", "i'll go we've seen"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected.split()


def test_upper_case_text_reads_as_ordinary_text() -> None:
    text = "I don't know it, she said to us"
    assert normalise(text.upper()) == normalise(text)
    assert phonemise("DON'T") == ["_", "D", "OW1", "N", "T", "_"]


def test_boundaries_between_words() -> None:
    assert phonemise("Go, go. Go go?") == ["_", "G", "OW1", ",", "G", "OW1", ".", "G", "OW1", "_", "G", "OW1", "_"]


def test_acronyms_are_spelled() -> None:
    def plain(text: str) -> str:
        return " ".join(p.rstrip("012") for p in phonemise(text) if p not in BOUNDARIES)

    assert plain("The XKCD") == "DH AH EH K S K EY S IY D IY"
    assert plain("the BBC") == "DH AH B IY B IY S IY"


def test_pronunciations() -> None:
    assert pronunciations("read") == [["R", "EH1", "D"], ["R", "IY1", "D"]]
    assert pronunciations("snorfblatt") == [["S", "N", "AO1", "R", "F", "B", "L", "AE1", "T"]]
    assert pronunciations("snorfblatt's")[0][-2:] == ["T", "S"]
    assert pronunciations("zorbix's")[0][-2:] == ["IH0", "Z"]
    assert pronunciations("bcdf")[0] == ["B", "IY1", "S", "IY1", "D", "IY1", "EH1", "F"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no word"),
        (" ... !? \n", "has no word"),
        ("привет", "п р и в е т"),
        ("hello 世界", "世 界"),
        ("٣ apples", "٣"),
        ("a " * (MAX_WORDS + 1), "2,001 words; at most 2,000"),
        ("x" * 101, "101 characters without a space"),
        (None, "must be a string, got NoneType"),
    ],
)
def test_unreadable_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(TextError, match=message):
        phonemise(text)


def test_the_longest_text_is_read() -> None:
    assert len(normalise("word " * MAX_WORDS)) == MAX_WORDS


def test_emoji_are_dropped_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="GRINNING FACE.*TRADE MARK SIGN"):
        assert normalise("hi 😀 there™") == ["hi", "there"]
    with pytest.warns(UserWarning), pytest.raises(TextError, match="has no word"):
        normalise("😀")


def test_gruut_is_not_loaded_for_known_words() -> None:
    code = "import sys; from ms_core.text import phonemise; phonemise('Known words.'); sys.exit('gruut' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=string.printable + "—“”’éü½°€¥…", max_size=40))
def test_any_ascii_text_gives_well_formed_phones_or_a_text_error(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            phones = phonemise(text)
        except TextError:
            return
    assert phones[0] == phones[-1] == "_"
    assert "<pad>" not in phones
    phone_ids(phones)
    assert not any(a in BOUNDARIES and b in BOUNDARIES for a, b in zip(phones, phones[1:], strict=False))
