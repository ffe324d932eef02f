"""The parts of streamed speech become one: each pause at which a text was cut is made once. Numpy, for both runtimes.

A part is spoken as an utterance of its own, so it brings the silence of an utterance's start and end, each with its own
length and noise: end to end, two parts pause for longer than a sentence does inside, and the noise steps in the middle.
So both parts of a cut get a silence as long as the pause that the whole text would have there, and the two are blended
from end to end. How the authors join parts is unknown: our choice.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

CONTEXT = 80  # phones on each side of a pause by which its length is predicted; ExecuTorch programs take 256 in all
SHORTEST = 2  # codec frames of a pause between parts: 40 ms at 50 frames a second, so that there is room for a blend


def planned(
    phones: Sequence[str], parts: Sequence[Sequence[str]], durations: Callable[[int, Sequence[str], int], Sequence[int]]
) -> Iterator[tuple[list[int], int]]:
    """For each part, when it is asked for: frames of its phones, and frames of the pause after it, which are its last
    phone's and the next part's first; 0 after the last.

    Args:
        phones: of the whole text.
        parts: what `text.chunks` cut them into.
        durations: (index of a part, phones, where they stand in the text) -> the frames that the model predicts for
            each with the part's voice.
    """
    at, pause = 0, 0
    for index, part in enumerate(parts):
        frames = list(durations(index, part, at))
        if index:
            frames[0] = pause
        if index + 1 == len(parts):
            pause = 0
        else:
            at += len(part) - 1  # the pause's index among all phones
            first = max(at - CONTEXT, 0)
            pause = max(durations(index, phones[first : at + CONTEXT + 1], first)[at - first], SHORTEST)
            frames[-1] = pause
        yield frames, pause


def joined(
    plan: Iterable[tuple[list[int], int, Mapping[int, int]]], speak: Callable[[int, Sequence[int]], np.ndarray]
) -> Iterator[np.ndarray]:
    """The parts' waveforms as they become ready, each with the pause before it; end to end they are the whole speech.

    Args:
        plan: for each part, what `planned` says, and frames of silence to be put into phones, by their index in it.
        speak: (index of a part, its frames in the plan) -> its samples (l,).

    A part's last silence is held back until the next part is there; the first sound comes no later for it. The whole
    has as many frames as the parts' phones, each pause counted once, and the silences that were put in.
    """
    held = np.zeros(0, dtype=np.float32)
    for index, (frames, pause, silences) in enumerate(plan):
        wave = speak(index, frames)
        hop = len(wave) // sum(frames)
        wave = np.concatenate([blend(held, wave[: len(held)]), wave[len(held) :]])
        kept = len(wave) - pause * hop
        held = wave[kept:]
        yield with_silences(wave[:kept], frames, silences, hop) if silences else wave[:kept]


def with_silences(wave: np.ndarray, frames: Sequence[int], silences: Mapping[int, int], hop: int) -> np.ndarray:
    """Samples (l,) with frames of silence put into the middle of phones; the sound fades out and in again there."""
    ends = np.cumsum(frames)
    pieces, at = [], 0
    for index, silent in sorted(silences.items()):
        middle = int(ends[index] - frames[index] + frames[index] // 2) * hop
        fade = min(hop // 2, (frames[index] // 2) * hop)
        piece, rest = wave[at:middle].copy(), wave[middle:].copy()
        piece[len(piece) - min(fade, len(piece)) :] *= np.linspace(1, 0, min(fade, len(piece)), dtype=np.float32)
        rest[:fade] *= np.linspace(0, 1, len(rest[:fade]), dtype=np.float32)
        pieces += [piece, np.zeros(silent * hop, dtype=np.float32)]
        wave, at = np.concatenate([wave[:middle], rest]), middle
    return np.concatenate([*pieces, wave[at:]])


def blend(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A crossfade of equal power from `one` to `other` (l,), as for unrelated noises."""
    angle = ((np.arange(len(one)) + 0.5) * (np.pi / 2 / max(len(one), 1))).astype(np.float32)
    return (one * np.cos(angle) + other * np.sin(angle)).clip(-1, 1)
