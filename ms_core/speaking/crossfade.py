"""The parts of streamed speech become one: each pause at which a text was cut is made once. Numpy, for both runtimes.

A part is spoken as an utterance of its own, so it brings the silence of an utterance's start and end, each with its own
length and noise: end to end, two parts pause for longer than a sentence does inside, and the noise steps in the middle.
So both parts of a cut get a silence as long as the pause that the whole text would have there, and the two are blended
from end to end. How the authors join parts is unknown: our choice.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ms_core.tokens import Voice


@dataclass(frozen=True)
class Part:
    """What is spoken at once: phones with their frames, in one voice.

    Attributes:
        pause: frames of its last phone that the next part begins with; 0 for the last part.
        silences: frames of silence to be put into pauses, by index of phone.
    """

    phones: Sequence[str]
    frames: list[int]
    voice: Voice | None = None
    seed: int = 0
    pause: int = 0
    silences: Mapping[int, int] = field(default_factory=dict)

    def lasting(self) -> list[int]:
        """Frames of its phones with their silences, without the pause that the next part begins with."""
        frames = [count + self.silences.get(index, 0) for index, count in enumerate(self.frames)]
        return frames[:-1] if self.pause else frames


def joined(spoken: Iterable[tuple[Part, np.ndarray]]) -> Iterator[np.ndarray]:
    """Parts with their samples (l,), to waveforms as they become ready; end to end these are the whole speech.

    A part's last silence is held back until the next part is there; the first sound comes no later for it. The whole
    has as many frames as the parts' phones, each pause counted once, and the silences that were put in.
    """
    held = np.zeros(0, dtype=np.float32)
    for part, wave in spoken:
        hop = len(wave) // sum(part.frames)
        wave = np.concatenate([blend(held, wave[: len(held)]), wave[len(held) :]])
        kept = len(wave) - part.pause * hop
        held = wave[kept:]
        yield with_silences(wave[:kept], part.frames, part.silences, hop) if part.silences else wave[:kept]


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
