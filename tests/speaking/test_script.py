"""Marks in a text: what they ask for, and what is said of those that cannot be followed."""

import contextlib
import time
import warnings

import pytest

from ms_core.speaking.script import MAX_PAUSES, one_sequence, read_lexicon, read_script
from ms_core.text import TextError, TextWarning, phonemise


def asked(text: str) -> list[tuple[str, float, float | None]]:
    """(phone, rate, pause) of every phone whose rate or pause a mark has set."""
    whole = one_sequence(read_script(text))
    return [row for row in zip(whole.phones, whole.rates, whole.pauses, strict=True) if row[1:] != (1.0, None)]


@pytest.mark.parametrize("text", ["Good day.", "At 7:45, Dr. Smith's 2 cars\n\nleft [sic]!", "a < b and <b>c</b>"])
@pytest.mark.filterwarnings("ignore::ms_core.text.TextWarning")
def test_a_text_without_marks_is_read_as_ever(text: str) -> None:
    (passage,) = read_script(text)
    assert list(passage.phones) == phonemise(text) and passage.voice is None
    assert set(passage.rates) == {1.0} and set(passage.pauses) == {None}


@pytest.mark.parametrize(
    ("text", "pauses"),
    [
        ("Go [pause:0.5] on", [(",", 1.0, 0.5)]),
        ("Go. [pause:500ms] On", [(".", 1.0, 0.5)]),
        ('Go <break time="1.5s"/> on', [(",", 1.0, 1.5)]),
        ("Go <break strength='strong'/> on", [(",", 1.0, 0.7)]),
        ("Go [pause] [pause:.1] on", [(",", 1.0, 0.5)]),
        ("[pause:1] Go on [pause:2]", [("_", 1.0, 1.0), ("_", 1.0, 2.0)]),
        ("[voice:a][pause:1][voice:b]Go[pause:0]", [("_", 1.0, 1.0), ("_", 1.0, 0.0)]),
        ("[voice:a][pause:1][voice:b][voice:c]Go", [("_", 1.0, 1.0)]),
    ],
)
def test_pauses_stand_where_they_were_written(text: str, pauses: list) -> None:
    assert asked(text) == pauses


def test_the_tempo_of_a_part_and_of_parts_in_it() -> None:
    rows = asked('Go <prosody rate="slow">on <prosody rate="+50%">my</prosody></prosody> way')
    assert [(phone, round(rate, 3)) for phone, rate, _ in rows] == [
        *(("AA1", 0.8), ("N", 0.8), ("_", 0.8)),
        *(("M", 1.2), ("AY1", 1.2), ("_", 1.2)),
    ]


def test_words_across_marks_are_one_sentence() -> None:
    """What stands before a mark still says how the word behind it is said."""
    (passage,) = read_script('They will <prosody rate="slow">read</prosody> it')
    assert list(passage.phones) == phonemise("They will read it")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("<speak>Hello <s>there</s><p>Go</p></speak>", "Hello. there. Go"),
        ("the <sub alias='World Wide Web'>WWW</sub> page", "the World Wide Web page"),
        ('a <phoneme alphabet="cmu-arpabet" ph="K AA1 R">x</phoneme> b', "a {K AA1 R} b"),
        ("<say-as interpret-as='characters'>ab1</say-as>", "A. B. one"),
        ("<say-as interpret-as='ordinal'>21</say-as> day", "twenty first day"),
        ("in <say-as interpret-as='cardinal'>1984</say-as>", "in one thousand nine hundred and eighty four"),
        ("<say-as interpret-as='digits'>1984</say-as>", "one nine eight four"),
        ("5 &amp; 6 &lt; 7", "five and six less than seven"),
    ],
)
def test_ssml_is_read(text: str, plain: str) -> None:
    def sounds(phones) -> list[str]:
        return [p for p in phones if p not in "_,."]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sounds(one_sequence(read_script(text)).phones) == sounds(phonemise(plain))


def test_voices_take_turns() -> None:
    passages = read_script('Hi. [voice:anna] Who? <voice name="bob">Me.</voice> Ah.')
    assert [(p.voice, p.text) for p in passages] == [(None, "Hi."), ("anna", "Who?"), ("bob", "Me."), ("anna", "Ah.")]
    whole = one_sequence(passages)
    assert list(whole.phones) == phonemise("Hi. Who? Me. Ah.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[pause:60] a", "60 s; allowed are 0 to 10 s"),
        ("[pause:soon] a", "'soon' is none of what is allowed: 0.5"),
        ("<break time='-1s'/> a", "allowed are 0 to 10"),
        ("a [pause:9] " * 40, f"360 s of pauses; at most {MAX_PAUSES:.0f}"),
        ("<prosody rate='900%'>a</prosody>", "9 times the tempo; allowed are 0.5 to 2"),
        ("<prosody rate='loud'>a</prosody>", "'loud' is none of"),
        ("a</prosody>", "closes nothing"),
        ("<voice name='x'>a", "<voice> is never closed"),
        ("<voice>a</voice>", "give name="),
        ("<phoneme ph='X'>a</phoneme>", "not phones"),
        ("<phoneme alphabet='ipa' ph='a'>a</phoneme>", "alphabet 'ipa' is not read"),
        ("[pause:1]", "has no word to say"),
        (5, "must be a string"),
        ("word " * 2001, "2,001 words"),
        ("a " * 999 + "[pause:0]" + "a " * 1002, "2,001 words"),
    ],
)
def test_marks_that_cannot_be_followed(text: str, message: str) -> None:
    with pytest.raises(TextError, match=message):
        read_script(text)


def test_what_has_no_effect_is_named() -> None:
    with pytest.warns(TextWarning, match="no effect with pitch"):
        read_script("<prosody pitch='high'>a</prosody>")
    with pytest.warns(TextWarning, match="'poetry' is read as plain text"):
        read_script("<say-as interpret-as='poetry'>a</say-as>")
    with pytest.warns(TextWarning, match="<emphasis>"):
        read_script("<speak><emphasis>a</emphasis></speak>")


def test_many_marks_are_read_soon() -> None:
    for text in (
        "[pause:0]" * 4000 + "a",
        "<s>" * 13_000 + "a",
        "[" * 40_000,
        "<prosody " * 4_000,
        "[voice:a]b " * 1000,
    ):
        start = time.process_time()
        with contextlib.suppress(TextError):
            one_sequence(read_script(text))
        assert time.process_time() - start < 1.0, text[:9]


def test_a_lexicon_says_words(tmp_path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("# names\nNguyen  N W IH1 N\nJSON\tJ EY1\n".replace("J EY1", "JH EY1"), encoding="utf-8")
    lexicon = read_lexicon(file)
    assert lexicon == {"nguyen": "N W IH1 N", "json": "JH EY1"}
    (passage,) = read_script("NGUYEN's json-Nguyen, nguyens.", lexicon=lexicon)
    assert passage.words[:4] == ("{N W IH1 N Z}", "{JH EY1}", "{N W IH1 N}", ",") and len(passage.words) > 5
    for line, message in (("word", "line 1: 'word': .*no phones"), ("word AA", "not phones"), ("word _", "no phones")):
        file.write_text(line)
        with pytest.raises(TextError, match=message):
            read_lexicon(file)
    with pytest.raises(TextError, match="cannot be read"):
        read_lexicon(tmp_path / "none")
