"""FastSpeech 2's way: the codec's latent of every frame regressed at once, without masks or tokens.

The mean absolute error, as FastSpeech 2 has it for mel spectra. What many latents would fit, it blurs; that is the
question it answers here.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ms_core.baselines import Baseline, LatentDecoder
from ms_core.config import CodecConfig, ModelConfig
from ms_core.prompt import Condition


class RegressionModel(Baseline):
    """One pass to the latent, which the codec's quantiser turns into codes."""

    FORMAT = "ms-regression-1"

    def __init__(self, config: ModelConfig, codec_config: CodecConfig, codebooks: Float[Tensor, "n bins c"]):
        super().__init__(config, codec_config, codebooks)
        self.smd = LatentDecoder(config, codebooks)

    def frame_loss(
        self, condition: Condition, codes: Int[Tensor, "b n t"], mask: Bool[Tensor, "b t"]
    ) -> Float[Tensor, ""]:
        error = (self.smd(condition.text, condition, mask) - self.smd.latents(codes)).abs().mean(-1)  # (b, t)
        return (error * mask).sum() / mask.sum()

    def fill(self, condition: Condition, frames: int, generator: torch.Generator) -> Int[Tensor, "1 n t"]:
        return self.smd.quantise(self.smd(condition.text, condition, None))
