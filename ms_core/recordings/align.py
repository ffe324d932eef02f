"""Phone durations: forced alignment of a text with its recording.

The paper's durations come from an external aligner; which one is not known to us (its authors' other systems use the
Montreal Forced Aligner, MFA). Our choice is pocketsphinx with the en-us model that its package carries, since it needs
no download.

pocketsphinx carries its noise statistics from one utterance to the next, so that a result would depend on what was
aligned before. Every utterance therefore gets a decoder of its own (15 ms), and `align` is a pure function.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ms_core.text import BOUNDARIES, BOUNDARY, normalise, pronunciations

SAMPLE_RATE = 16_000
FRAME = 0.01  # seconds of one frame of pocketsphinx
MIN_PHONE_FRAMES = 3  # a phone of pocketsphinx has three states and hence at least three frames
MIN_SCORE = -36.0
"""Least mean acoustic score of the words' frames. pocketsphinx counts a frame's score from the best of all its states,
so that 0 is perfect and recordings are comparable. Our choice, from LibriSpeech test-other: right texts -10 to -34,
texts of another utterance, where they can be aligned at all, -34 to -67."""
MIN_UNSPOKEN = -15.0
"""Least score that silences may cost, a mean over all frames: speech that the text does not have has to be taken for
silence. Our choice, from LibriSpeech test-other: right texts 0 to -6, without their last fifth -13 in the median."""
BEAMS = ({}, {"beam": 1e-80, "pbeam": 1e-80, "wbeam": 1e-60})
"""Search widths: pocketsphinx's own, and a wider one for the 1 in 1,000 recordings where that loses the path."""
FRAMES_OFF = 3  # how many codec frames may stand above or below an alignment's length: codecs pad at the end


class AlignmentError(ValueError):
    """A text and a recording that cannot be aligned, with the reason."""


@dataclass(frozen=True)
class Aligned:
    """Phones of an utterance with their times.

    phones: `PHONES` symbols, "_" at both edges and between all words; starts, ends: seconds, contiguous (each end is
    the next start); a boundary may have zero length. `ends[-1]` is the length of the recording.
    """

    phones: list[str]
    starts: list[float]
    ends: list[float]

    @property
    def seconds(self) -> float:
        return self.ends[-1]


@dataclass(frozen=True)
class Fit:
    """How well a text fits its recording; see `MIN_SCORE` and `MIN_UNSPOKEN`."""

    score: float
    unspoken: float


def align(wav: Float[np.ndarray, "L"], text: str) -> Aligned:
    """Align a recording, wav float (L,) in [-1, 1] at 16 kHz, with the text that is said in it.

    Times are multiples of 10 ms, a phone has at least 30 ms. Of a word's pronunciations the best fitting one is taken.
    Raises AlignmentError where the text does not fit the recording, TextError where the text cannot be read.
    """
    aligned, fit = align_scored(wav, text)
    check_fit(fit)
    return aligned


def align_scored(wav: Float[np.ndarray, "L"], text: str) -> tuple[Aligned, Fit]:
    """`align` without the judgement whether text and recording fit."""
    wav = np.asarray(wav)
    if wav.ndim != 1 or not np.issubdtype(wav.dtype, np.floating) or not np.isfinite(wav).all():
        raise AlignmentError(f"the recording must be finite floats of shape (L,), got {wav.dtype} of shape {wav.shape}")
    words = [w for w in normalise(text) if w not in BOUNDARIES]
    variants = {word: _variants(word) for word in words}
    seconds = len(wav) / SAMPLE_RATE
    n_phones = sum(min(map(len, variants[word])) for word in words)
    needed = n_phones * MIN_PHONE_FRAMES * FRAME
    if needed > seconds:
        raise AlignmentError(
            f"the text has {n_phones} phones, which take {needed:.2f} s at the least, but the recording has only "
            f"{seconds:.2f} s; give the words that are said in it"
        )
    pcm = (np.clip(wav, -1, 1) * 32767).astype(np.int16).tobytes()
    for beam in BEAMS:
        try:
            return _assemble(_decode(pcm, words, variants, beam), words, variants, seconds)
        except RuntimeError as error:
            failure = error
    raise AlignmentError(
        f"the text does not fit the recording: no path through both was found ({failure}); "
        "give the words that are said in it"
    ) from failure


def check_fit(fit: Fit) -> None:
    """Raises AlignmentError for a text that is not the recording's; see `MIN_SCORE` and `MIN_UNSPOKEN`."""
    if fit.score < MIN_SCORE:
        raise AlignmentError(
            f"the text does not fit the recording: mean acoustic score {fit.score:.1f} a frame, allowed is {MIN_SCORE} "
            "or more; give the words that are said in it"
        )
    if fit.unspoken < MIN_UNSPOKEN:
        raise AlignmentError(
            "the recording has speech, or loud noise, that the text has not: its pauses cost "
            f"{fit.unspoken:.1f} a frame, allowed is {MIN_UNSPOKEN} or more; give every word that is said in it"
        )


def _variants(word: str) -> list[list[str]]:
    """Pronunciations that still differ when the stress is removed, the default first."""
    distinct: dict[str, list[str]] = {}
    for phones in pronunciations(word):
        distinct.setdefault(_unstressed(phones), phones)
    return list(distinct.values())


def _unstressed(phones: list[str]) -> str:
    return " ".join(phone.rstrip("012") for phone in phones)


def _decode(pcm: bytes, words: list[str], variants: dict[str, list[list[str]]], beam: dict[str, float]) -> list:
    """pocketsphinx's entries [(word, [(phone, start, duration, score)])] in frames; RuntimeError if it finds none."""
    from pocketsphinx import Decoder, get_model_path

    # bestpath would rescore a lattice and hand on phones shorter than their three states
    settings = {"hmm": get_model_path("en-us/en-us"), "lm": None, "dict": None, "bestpath": False, "loglevel": "FATAL"}
    decoder = Decoder(**settings, **beam)
    for word, choices in variants.items():
        for i, phones in enumerate(choices, start=1):
            decoder.add_word(word if i == 1 else f"{word}({i})", _unstressed(phones), False)
    decoder.set_align_text(" ".join(words))
    for level in ("words", "phones"):
        if level == "phones":
            decoder.set_alignment()
        decoder.start_utt()
        decoder.process_raw(pcm, full_utt=True)
        decoder.end_utt()
    return [(w.name, [(p.name, p.start, p.duration, p.score) for p in w]) for w in decoder.get_alignment()]


def _assemble(entries: list, words: list[str], variants: dict, seconds: float) -> tuple[Aligned, Fit]:
    """Stressed phones with their times, silences as boundaries."""
    phones, ends = [BOUNDARY], [0.0]
    spoken, silent = [], []  # (frames, score)
    remaining = iter(words)
    for name, parts in entries:
        is_silence = name.startswith(("<", "["))
        (silent if is_silence else spoken).extend((duration, score) for _, _, duration, score in parts)
        if is_silence:
            ends[-1] = (parts[-1][1] + parts[-1][2]) * FRAME
            continue
        word, variant = name.removesuffix(")").rsplit("(", 1) if name.endswith(")") else (name, 1)
        if word != (expected := next(remaining, None)):
            raise AlignmentError(f"the alignment has the word {word!r} where the text has {expected!r}")
        for phone, (_, start, duration, _) in zip(variants[word][int(variant) - 1], parts, strict=True):
            phones.append(phone)
            ends.append((start + duration) * FRAME)
        phones.append(BOUNDARY)
        ends.append(ends[-1])
    if (missing := next(remaining, None)) is not None:
        raise AlignmentError(f"the recording ends before the word {missing!r} of the text")
    ends[-1] = seconds
    ends = [round(t, 4) for t in ends]
    frames = [sum(duration for duration, _ in part) for part in (spoken, silent)]
    scores = [sum(score for _, score in part) for part in (spoken, silent)]
    fit = Fit(score=scores[0] / frames[0], unspoken=scores[1] / sum(frames))
    return Aligned(phones, [0.0, *ends[:-1]], ends), fit


def durations(aligned: Aligned, n_frames: int, frame_rate: float) -> list[int]:
    """Codec frames of each phone: int per phone, sum exactly `n_frames`, a boundary >= 0, any other phone >= 1.

    Cumulative ends are rounded, so that errors do not add up; a phone that would vanish takes a frame of its neighbour.
    frame_rate: codec frames a second. Raises AlignmentError where that is impossible or where `n_frames` does not
    belong to this recording.
    """
    expected = aligned.seconds * frame_rate
    if abs(n_frames - expected) > FRAMES_OFF:
        raise AlignmentError(
            f"the codec has {n_frames} frames, the alignment of {aligned.seconds:.2f} s at {frame_rate:g} Hz has "
            f"{expected:.1f}; at most {FRAMES_OFF} may differ: align the same recording that was encoded"
        )
    least = [0 if phone in BOUNDARIES else 1 for phone in aligned.phones]
    if sum(least) > n_frames:
        raise AlignmentError(f"{sum(least)} phones do not fit into {n_frames} codec frames; leave this recording out")
    ends = [min(math.floor(end * frame_rate + 0.5), n_frames) for end in aligned.ends]
    ends[-1] = n_frames
    previous = 0
    for i, minimum in enumerate(least):  # push ends to the right ...
        previous = ends[i] = max(ends[i], previous + minimum)
    following = n_frames
    for i in reversed(range(len(ends))):  # ... and back, where they now run over the end
        ends[i] = min(ends[i], following)
        following = ends[i] - least[i]
    return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
