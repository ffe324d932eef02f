"""Other voices out of the same recordings, since nine hours hold too few speakers to learn cloning from.

Two devices, both our choice, both on training speech alone. Speed perturbation (Ko et al. 2015) resamples a recording:
pitch, formants and tempo change together, which makes another speaker. A random smooth equaliser changes timbre; prompt
and target share one curve, so that the prompt tells what to copy. It works on log-mel features, which are quantised
anew each time: no token sequence is ever seen twice, where a model would learn it by heart.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from lhotse import MonoCut

from ms_core.align import Aligned
from ms_core.codec.mini import MEL_FLOOR, MiniCodec

CURVES = 4  # cosines over the mel axis that make up a curve; the k-th has 1/k of the first one's deviation


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
