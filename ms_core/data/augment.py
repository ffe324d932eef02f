"""Other voices out of the same recordings, since nine hours hold too few speakers to learn cloning from.

Virtual voices are made by WORLD (Morise et al. 2016), of training speech alone: pitch and spectral envelope are shifted
apart from each other, and the tempo stays. Our choice; what is varied anew at each step stands in `training.resident`.
"""

import math
import warnings
import zlib
from collections.abc import Sequence
from types import ModuleType

import numpy as np
from jaxtyping import Float

from ms_core.codec.source_filter import F0_CEILING, F0_FLOOR
from ms_core.data.corpora import DataError

PITCH, FORMANTS = (0.75, 1.35), (0.85, 1.18)  # ranges of a virtual voice's factors on the reader's F0 and envelope
APART = 0.6  # from the reader at least: the sum of both log factors, each over about the largest in its range
VOICE_SEED = 77


def world() -> ModuleType:
    """pyworld, which the extra `train` brings; raises DataError without it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that pkg_resources is going
        try:
            import pyworld
        except ImportError:
            raise DataError("pyworld is not installed: run `pip install 'ms-core[train]'`") from None
    return pyworld


def draw_voice(speaker: str, copy: int) -> tuple[float, float]:
    """Factors on pitch and on the frequencies of the envelope for a speaker's `copy`-th virtual voice, always the same.

    Both are drawn evenly on a logarithmic scale, again and again until the voice is far enough from the speaker's own.
    """
    rng = np.random.default_rng([zlib.crc32(speaker.encode()), copy, VOICE_SEED])
    while True:
        pitch, formants = (math.exp(rng.uniform(math.log(low), math.log(high))) for low, high in (PITCH, FORMANTS))
        if abs(math.log(pitch)) / 0.3 + abs(math.log(formants)) / 0.16 > APART:
            return pitch, formants


def virtual_voices(
    wave: Float[np.ndarray, " l"], rate: int, factors: Sequence[tuple[float, float]]
) -> Float[np.ndarray, "k l"]:
    """Speech at `rate` Hz as so many other voices say it, each with its factors (pitch, formants); float32.

    WORLD takes the speech apart once (Dio and StoneMask, CheapTrick, D4C) and puts it together for each voice. Raises
    DataError without pyworld.
    """
    pyworld = world()
    x = wave.astype(np.float64)
    f0, times = pyworld.dio(x, rate, f0_floor=F0_FLOOR, f0_ceil=F0_CEILING)
    f0 = pyworld.stonemask(x, f0, times, rate)
    envelope = np.log(pyworld.cheaptrick(x, f0, times, rate))  # (k, f)
    noise = np.nan_to_num(pyworld.d4c(x, f0, times, rate), nan=1.0)  # (k, f): share; NaN in a band without power
    bins = np.arange(envelope.shape[1], dtype=np.float64)
    voices = np.zeros((len(factors), len(wave)), np.float32)
    for voice, (pitch, formants) in zip(voices, factors, strict=True):
        places = bins / formants  # what a bin shall hold, as a place on the old axis
        moved = [np.stack([np.interp(places, bins, row) for row in old]) for old in (envelope, noise)]
        wave_of_voice = pyworld.synthesize(f0 * pitch, np.exp(moved[0]), moved[1], rate)[: len(wave)]
        voice[: len(wave_of_voice)] = wave_of_voice * min(1.0, 0.99 / max(np.abs(wave_of_voice).max(), 1e-9))
    return voices
