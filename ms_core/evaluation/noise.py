"""Noise on prompts: white noise and babble, added at a set signal-to-noise ratio.

The paper names noisy prompts as its failure, without numbers. What is added to which prompt, and how the ratio is
defined, is our choice: the power of speech is that of its active parts (ITU-T P.56's margin, frame by frame), since
pauses would make a prompt that has many of them look quieter than it is heard.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

FRAME = 0.02  # seconds, of the frames whose level tells speech from pauses
MARGIN = 15.9  # dB below the active level down to which a frame is active (ITU-T P.56)
PEAK = 0.99  # a mixture whose peak is higher is scaled down as a whole: the ratio stays, nothing is clipped


def active_power(wav: Float[np.ndarray, "L"], sample_rate: int) -> float:
    """Mean power of the active frames of speech, wav (L,): those at most `MARGIN` below that very mean.

    Found from the mean over all frames on, frame by frame, where P.56 has an envelope. Raises ValueError for silence.
    """
    size = round(FRAME * sample_rate)
    whole = np.asarray(wav, dtype=np.float64)[: max(1, len(wav) // size) * size]
    frames = np.square(whole).reshape(-1, min(size, len(whole))).mean(axis=1)  # (F,)
    power, before = frames.mean(), -1.0
    if not power > 0:
        raise ValueError(f"speech of {len(wav) / sample_rate:.2f} s is silent: it has no level to set a noise against")
    while power != before:  # the set of active frames only shrinks
        before, power = power, frames[frames >= power * 10 ** (-MARGIN / 10)].mean()
    return float(power)


def mix(
    speech: Float[np.ndarray, "L"], noise: Float[np.ndarray, "L"], snr: float, sample_rate: int
) -> Float[np.ndarray, "L"]:
    """Speech with noise at `snr` dB: active power of the speech over the mean power of the noise; float32 (L,).

    Raises ValueError for another length of the noise, silent speech and silent noise.
    """
    if len(noise) != len(speech):
        raise ValueError(f"{len(noise)} samples of noise for {len(speech)} of speech: give as many")
    power = float(np.mean(np.square(noise, dtype=np.float64)))
    if not power > 0:
        raise ValueError("the noise is silent: it has no level to set")
    gain = np.sqrt(active_power(speech, sample_rate) / power / 10 ** (snr / 10))
    mixed = np.asarray(speech, dtype=np.float64) + gain * noise
    return (mixed * min(1.0, PEAK / np.abs(mixed).max())).astype(np.float32)


def white(length: int, rng: np.random.Generator) -> Float[np.ndarray, "L"]:
    """White Gaussian noise (L,) of power 1."""
    return rng.standard_normal(length)


def babble(
    talkers: Sequence[Float[np.ndarray, "..."]], length: int, sample_rate: int, rng: np.random.Generator
) -> Float[np.ndarray, "L"]:
    """The sum (L,) of several people's speech, each as loud as the others by `active_power`.

    Each recording begins at a random place and is repeated as often as is needed.
    """
    total = np.zeros(length)
    for wav in talkers:
        start = int(rng.integers(len(wav)))
        part = np.resize(np.roll(np.asarray(wav, dtype=np.float64), -start), length)
        total += part / np.sqrt(active_power(wav, sample_rate))
    return total
