"""Flow matching's way: the latent of all frames at once, from noise along straight paths (Lipman et al. 2023).

x_s = (1 - s) noise + s latent; the network says the direction latent - noise, of which generation takes `STEPS` Euler
steps. No classifier-free guidance, as ours has none.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ms_core.baselines import Baseline, LatentDecoder
from ms_core.config import CodecConfig, ModelConfig
from ms_core.prompt import Condition

STEPS = 16  # of a generation; our choice


class FlowModel(Baseline):
    """The same Conformer, which also sees the noisy latent and how far it is on its way."""

    FORMAT = "ms-flow-1"

    def __init__(self, config: ModelConfig, codec_config: CodecConfig, codebooks: Float[Tensor, "n bins c"]):
        super().__init__(config, codec_config, codebooks)
        self.smd = LatentDecoder(config, codebooks)
        self.noisy = nn.Linear(codebooks.shape[-1], config.dim)
        self.time = nn.Sequential(nn.Linear(1, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim))

    def direction(
        self,
        x: Float[Tensor, "b t c"],
        time: Float[Tensor, " b"],
        condition: Condition,
        mask: Bool[Tensor, "b t"] | None,
    ) -> Float[Tensor, "b t c"]:
        states = condition.text + self.noisy(x) + self.time(time[:, None])[:, None]
        return self.smd(states, condition, mask)

    def frame_loss(
        self, condition: Condition, codes: Int[Tensor, "b n t"], mask: Bool[Tensor, "b t"]
    ) -> Float[Tensor, ""]:
        latent = self.smd.latents(codes)
        noise = torch.randn_like(latent)
        time = torch.rand(len(latent), device=latent.device)
        x = torch.lerp(noise, latent, time[:, None, None])
        error = (self.direction(x, time, condition, mask) - (latent - noise)).square().mean(-1)
        return (error * mask).sum() / mask.sum()

    def fill(self, condition: Condition, frames: int, generator: torch.Generator) -> Int[Tensor, "1 n t"]:
        x = torch.randn(1, frames, self.smd.codebooks.shape[-1], generator=generator).to(condition.text.device)
        for step in range(STEPS):
            time = torch.full((1,), step / STEPS, device=x.device)
            x = x + self.direction(x, time, condition, None) / STEPS
        return self.smd.quantise(x)
