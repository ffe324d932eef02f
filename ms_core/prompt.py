"""The speaker prompt: prompt encoder, cross-attention, prefix (paper.md, section 1.3).

Known: prompt codes A of N layers by T_p frames pass a Prompt Encoder, whose states enter the text row by
cross-attention and the Conformer decoder directly. That the second path is a prefix is our reading of Figure 1. Ours
besides: the encoder also sees which phone is spoken in each prompt frame, so that attention can look a phone up in the
prompt, and the mean of the prompt states is added to every frame.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ms_core.config import ModelConfig
from ms_core.layers import Attention, Cache, conformer


@dataclass(frozen=True)
class PromptStates:
    """All that the decoder needs of a voice; computed once and kept."""

    mask: Bool[Tensor, "b s"] | None
    mean: Float[Tensor, "b d"] | None  # None where a text's frames have it already
    cross: Cache | None  # keys and values for the text's cross-attention
    prefix: tuple[Cache, ...]  # of each Conformer layer; empty when the config has no prefix
    copy: tuple[Tensor | None, Tensor] | None = None  # for PromptCopy: keys (b, h, s, c), latents (b, n + 1, s, c)
    content_keys: Float[Tensor, "b h s c"] | None = None  # for PromptCopy: of the prompt's words
    modulation: Float[Tensor, "b l 2 d"] | None = None  # scale and shift of each SMD block, see `VoiceModulation`


@dataclass(frozen=True)
class Condition:
    """All that the decoder is given besides codes: the same in every pass."""

    text: Float[Tensor, "b t d"]  # at frame rate, with what its frames found in the prompt
    prompt: PromptStates
    content_scores: Float[Tensor, "b h t s"] | None = None  # for PromptCopy; None: not asked
    sharpness: float = 1.0  # of what PromptCopy finds; see `DecodingConfig.copy_sharpness`


class SpeakerPrompt(nn.Module):
    """Embedded prompt codes to the states, and the cross-attention through which text frames read them."""

    def __init__(self, config: ModelConfig, phones: int):
        super().__init__()
        self.phone = nn.Embedding(phones, config.dim, padding_idx=0)
        self.blocks = conformer(config, config.prompt_layers)
        self.mean = nn.Linear(config.dim, config.dim)
        self.norm = nn.LayerNorm(config.dim).requires_grad_(config.cross_attention)  # else DDP waits for it
        self.attention = Attention(config.dim, config.heads) if config.cross_attention else None

    def forward(
        self, embedded: Float[Tensor, "b s d"], phones: Int[Tensor, "b s"], mask: Bool[Tensor, "b s"] | None
    ) -> tuple[Float[Tensor, "b s d"], Float[Tensor, "b d"]]:
        """Prompt states and their mean; `phones` names the phone of each frame."""
        x = embedded + self.phone(phones)
        for block in self.blocks:
            x = block(x, mask)
        if mask is None:
            return x, self.mean(x.mean(1))
        weight = mask[..., None] / mask.sum(1).clamp_min(1)[:, None, None]
        return x, self.mean((x * weight).sum(1))

    def attend(self, text: Float[Tensor, "b t d"], prompt: PromptStates) -> Float[Tensor, "b t d"]:
        """Text frames with what they found in the prompt added."""
        text = text + prompt.mean[:, None]
        if self.attention is None:
            return text
        return text + self.attention.cross(self.norm(text), prompt.cross, prompt.mask)
