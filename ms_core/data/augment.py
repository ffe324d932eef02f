"""Other voices out of the same recordings, since nine hours hold too few speakers to learn cloning from.

Three devices, all our choice, all on training speech alone. Speed perturbation (Ko et al. 2015) resamples a recording:
pitch, formants and tempo change together, which makes another speaker. A random smooth equaliser changes timbre; prompt
and target share one curve, so that the prompt tells what to copy. It works on log-mel features, which are quantised
anew each time: no token sequence is ever seen twice, where a model would learn it by heart. Virtual voices are made by
WORLD (Morise et al. 2016): pitch and spectral envelope are shifted apart from each other, and the tempo stays.
"""

import math
import warnings
import zlib
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float, Int
from lhotse import MonoCut

from ms_core.align import Aligned
from ms_core.codec.mini import MEL_FLOOR, MiniCodec
from ms_core.codec.source_filter import F0_CEILING, F0_FLOOR

CURVES = 4  # cosines over the mel axis that make up a curve; the k-th has 1/k of the first one's deviation
PITCH, FORMANTS = (0.75, 1.35), (0.85, 1.18)  # ranges of a virtual voice's factors on the reader's F0 and envelope
APART = 0.6  # from the reader at least: the sum of both log factors, each over about the largest in its range
VOICE_SEED = 77


def perturb_speed(cut: MonoCut, speed: float) -> MonoCut:
    """The cut played `speed` times as fast, as another speaker's."""
    if speed == 1.0:
        return cut
    cut = cut.perturb_speed(speed)
    supervision = cut.supervisions[0]
    supervision.speaker = f"{supervision.speaker}_sp{speed:g}"
    return cut.with_id(f"{cut.id.partition('_sp')[0]}_sp{speed:g}")


def scale_alignment(aligned: Aligned, speed: float) -> Aligned:
    """The alignment of a recording played `speed` times as fast."""
    return Aligned(aligned.phones, [s / speed for s in aligned.starts], [e / speed for e in aligned.ends])


class Equaliser:
    """Log-mel features to codes, through a random curve where `deviation` (dB) is above 0."""

    def __init__(self, codec: MiniCodec, deviation: float):
        self.codec, self.deviation = codec, deviation

    def draw(self, rng: np.random.Generator) -> Float[np.ndarray, " mels"]:
        """A curve: the factor on each band's magnitude. Its mean level varies as much as its first cosine."""
        bands = (np.arange(self.codec.config.n_mels) + 0.5) / self.codec.config.n_mels
        decibels = rng.normal() + sum(rng.normal() / k * np.cos(math.pi * k * bands) for k in range(1, CURVES + 1))
        return (10 ** (self.deviation * decibels / 20)).astype(np.float32)

    @torch.inference_mode()
    def __call__(self, features: Float[np.ndarray, "m t"], curve: Float[np.ndarray, " mels"]) -> Int[np.ndarray, "n t"]:
        """The codes of features whose bands are multiplied by the curve."""
        factor = torch.from_numpy(np.tile(curve, self.codec.config.substeps))[:, None]
        mel = torch.from_numpy(features.astype(np.float32)).exp() - MEL_FLOOR
        changed = torch.log(mel.clamp_min(0) * factor + MEL_FLOOR)
        return self.codec.tokenise(changed[None])[0].numpy()


def world() -> ModuleType:
    """pyworld, which the extra `train` brings; raises ImportError without it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that pkg_resources is going
        import pyworld
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
    ImportError without pyworld.
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
        source = (bins / formants).clip(0, bins[-1])  # what a bin shall hold, as a place on the old axis
        low = source.astype(int).clip(max=len(bins) - 2)
        part = source - low
        moved = (old[:, low] * (1 - part) + old[:, low + 1] * part for old in (envelope, noise))
        moved_envelope, moved_noise = (np.ascontiguousarray(new) for new in moved)
        made = pyworld.synthesize(f0 * pitch, np.exp(moved_envelope), moved_noise, rate)[: len(wave)]
        voice[: len(made)] = made * min(1.0, 0.99 / max(np.abs(made).max(), 1e-9))
    return voices
