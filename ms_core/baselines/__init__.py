"""What the paper compares its method with, small: other ways to fill the frames, all else being MobileSpeech's.

Phone encoder, durations, speaker prompt and the place of the frames are those of `MobileSpeechModel`, the budget and
the speech are the ablation study's, so that a difference is one of generation. `autoregressive` has VALL-E's shape,
`regression` FastSpeech 2's, `flow` that of flow-matching systems. All sizes are our choice; none is the published
system.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ms_core.config import CodecConfig, ModelConfig
from ms_core.layers import conformer, lengths_to_mask
from ms_core.model import MobileSpeechModel, duration_loss
from ms_core.prompt import Condition
from ms_core.synthesis import MobileSpeech
from ms_core.tokens import Batch, Voice

NETWORKS = {"autoregressive": "AutoregressiveModel", "regression": "RegressionModel", "flow": "FlowModel"}


def network_class(kind: str) -> type[MobileSpeechModel]:
    """The model that a variant's `network` names."""
    return (
        MobileSpeechModel if kind == "masked" else getattr(import_module(f"ms_core.baselines.{kind}"), NETWORKS[kind])
    )


class Baseline(MobileSpeechModel):
    """A model whose `fill` makes codes of a condition at once. A subclass gives `frame_loss` and `fill`."""

    def __init__(self, config: ModelConfig, codec_config: CodecConfig, codebooks: Float[Tensor, "n bins c"]):
        plain = {"codebook_prior": False, "prompt_copy": False}  # ours, and of masked decoding
        super().__init__(config.model_copy(update=plain), codec_config, codebooks)

    def frame_loss(
        self, condition: Condition, codes: Int[Tensor, "b n t"], mask: Bool[Tensor, "b t"]
    ) -> Float[Tensor, ""]:
        """What is lost in generating the true codes."""
        raise NotImplementedError

    def fill(self, condition: Condition, frames: int, generator: torch.Generator) -> Int[Tensor, "1 n t"]:
        """Codes of one utterance; `generator` is on the CPU."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`frames`, the loss of `frame_loss`, and `duration`."""
        mask = lengths_to_mask(batch.durations.sum(1), batch.codes.shape[-1])
        voice = self.voice(batch.prompt_codes, batch.prompt_phones, batch.prompt_durations)
        states = self.text(batch.phones)
        condition = self.expand(states, batch.durations, batch.codes.shape[-1], voice)
        lost = duration_loss(self.predict_durations(states, batch.phones, voice).float(), batch.durations, batch.phones)
        return {"frames": self.frame_loss(condition, batch.codes, mask), "duration": lost}


class LatentDecoder(nn.Module):
    """In the SMD's stead: its embedding of the prompt and its Conformer, over the codec's continuous latent."""

    copy = prior = None  # what MobileSpeechModel asks an SMD for

    def __init__(self, config: ModelConfig, codebooks: Float[Tensor, "n bins c"]):
        super().__init__()
        self.register_buffer("codebooks", codebooks, persistent=False)
        self.register_buffer(
            "scale", codebooks.square().mean(1).sum(0).sqrt().clamp_min(1e-4), persistent=False
        )  # (c,)
        width = codebooks.shape[-1]
        self.in_proj = nn.Linear(width, config.dim)
        self.blocks = conformer(config, config.smd_layers, config.prefix)
        self.out_proj = nn.Linear(config.dim, width)

    def latents(self, codes: Int[Tensor, "b n t"]) -> Float[Tensor, "b t c"]:
        """Sums of the code vectors, in standard units."""
        index = torch.arange(codes.shape[1], device=codes.device)[:, None]
        return self.codebooks[index, codes].sum(1) / self.scale

    def embed(self, codes: Int[Tensor, "b n t"]) -> Float[Tensor, "b t d"]:
        return self.in_proj(self.latents(codes))

    def forward(
        self, x: Float[Tensor, "b t d"], condition: Condition, mask: Bool[Tensor, "b t"] | None
    ) -> Float[Tensor, "b t c"]:
        """States to what is said of the latent, in standard units."""
        prompt = condition.prompt
        for index, block in enumerate(self.blocks):
            x = block(x, mask, prompt.prefix[index] if prompt.prefix else None, prompt.mask)
        return self.out_proj(x).float()

    def quantise(self, latents: Float[Tensor, "b t c"]) -> Int[Tensor, "b n t"]:
        """Codes whose sum is nearest, layer by layer, as the codec's quantiser has it."""
        residual, codes = latents * self.scale, []
        for book in self.codebooks:
            code = (book.square().sum(-1) / 2 - residual @ book.T).argmin(-1)
            residual = residual - book[code]
            codes.append(code)
        return torch.stack(codes, 1)


class BaselineSpeech(MobileSpeech):
    """Speaks with a `Baseline`; `steps` mean nothing to it."""

    @torch.inference_mode()
    def generate(
        self,
        phones: Sequence[str],
        voice: Voice | Any,
        seed: int = 0,
        steps: Sequence[int] | None = None,
        durations: Sequence[int] | None = None,
        known: np.ndarray | None = None,
        timings: dict[str, float] | None = None,
        on_pass: Any = None,
    ) -> tuple[np.ndarray, list[int]]:
        clock = self._clock(timings)
        states = self.encode_voice(voice)
        clock.lap("prompt")
        condition, frames = self._conditioned(phones, states, durations)
        clock.lap("duration")
        codes = self.model.fill(condition, int(frames.sum()), torch.Generator().manual_seed(seed))
        clock.lap("smd")
        return codes[0].cpu().numpy(), frames.tolist()
