"""The parts of streamed speech become one: each pause at which a text was cut is made once. Numpy, for both runtimes.

A part is spoken as an utterance of its own, so it brings the silence of an utterance's start and end, each with its own
length and noise: end to end, two parts pause for longer than a sentence does inside, and the noise steps in the middle.
So both parts of a cut get a silence as long as the pause that the whole text would have there, and the two are blended
from end to end. How the authors join parts is unknown: our choice.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

CONTEXT = 80  # phones on each side of a pause by which its length is predicted; ExecuTorch programs take 256 in all
SHORTEST = 2  # codec frames of a pause between parts: 40 ms at 50 frames a second, so that there is room for a blend


def planned(
    phones: Sequence[str], parts: Sequence[Sequence[str]], durations: Callable[[Sequence[str]], Sequence[int]]
) -> Iterator[tuple[list[int] | None, int]]:
    """For each part, when it is asked for: frames of its phones (None: those that the model predicts, of a text that is
    one part) and frames of the pause after it, which are its last phone's and the next part's first; 0 after the last.

    Args:
        phones: of the whole text.
        parts: what `text.chunks` cut them into.
        durations: phones -> the frames that the model predicts for each.
    """
    at, pause = 0, 0
    for index, part in enumerate(parts):
        frames = None if len(parts) == 1 else list(durations(part))
        if index:
            frames[0] = pause
        if index + 1 == len(parts):
            pause = 0
        else:
            at += len(part) - 1  # the pause's index among all phones
            first = max(at - CONTEXT, 0)
            pause = max(durations(phones[first : at + CONTEXT + 1])[at - first], SHORTEST)
            frames[-1] = pause
        yield frames, pause


def joined(
    plan: Iterable[tuple[list[int] | None, int]], speak: Callable[[int, Sequence[int] | None], np.ndarray]
) -> Iterator[np.ndarray]:
    """The parts' waveforms as they become ready, each with the pause before it; end to end they are the whole speech.

    Args:
        plan: see `planned`.
        speak: (index of a part, its frames in the plan) -> its samples (l,).

    A part's last silence is held back until the next part is there; the first sound comes no later for it. The whole
    has as many frames as the parts' phones, each pause counted once: the frames predicted for it, at least `SHORTEST`.
    """
    held = np.zeros(0, dtype=np.float32)
    for index, (frames, pause) in enumerate(plan):
        wave = speak(index, frames)
        wave = np.concatenate([blend(held, wave[: len(held)]), wave[len(held) :]])
        kept = len(wave) - pause * (len(wave) // sum(frames)) if pause else len(wave)
        held = wave[kept:]
        yield wave[:kept]


def blend(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A crossfade of equal power from `one` to `other` (l,), as for unrelated noises."""
    angle = ((np.arange(len(one)) + 0.5) * (np.pi / 2 / max(len(one), 1))).astype(np.float32)
    return (one * np.cos(angle) + other * np.sin(angle)).clip(-1, 1)
