"""The text side: phone encoder, duration predictor, length regulator (paper.md, sections 1.1 and 1.2).

Known from the paper's Figure 1: phones are embedded and encoded, a duration predictor sees the text states beside the
prompt's duration tokens, and a length regulator expands the states to codec frames. Layer types and sizes are our
choice; the predictor's two convolutions and its loss, the squared error of log(d + 1), are FastSpeech 2's, the authors'
base.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ms_core.config import ModelConfig
from ms_core.layers import Attention, ChannelDropout, conformer


class PhoneEncoder(nn.Module):
    """Phone ids to states."""

    def __init__(self, config: ModelConfig, phones: int):
        super().__init__()
        self.embedding = nn.Embedding(phones, config.dim, padding_idx=0)
        self.blocks = conformer(config, config.text_layers)

    def forward(self, phones: Int[Tensor, "b p"], padded: bool = True) -> Float[Tensor, "b p d"]:
        """Id 0 is padding, of which there is none where not `padded`."""
        mask = phones != 0 if padded else None
        x = self.embedding(phones)  # (b, p, d)
        for block in self.blocks:
            x = block(x, mask)
        return x


class DurationExtractor(nn.Module):
    """The prompt's phones with their measured durations, as a sequence of states (Figure 1: "Duration Extractor").

    Our choice: durations come from a forced alignment of the prompt; the state of a phone is its embedding plus a
    projection of log(d + 1), passed through one Conformer block.
    """

    def __init__(self, config: ModelConfig, phones: int):
        super().__init__()
        self.embedding = nn.Embedding(phones, config.dim, padding_idx=0)
        self.duration = nn.Linear(1, config.dim)
        (self.block,) = conformer(config, 1)

    def forward(
        self, phones: Int[Tensor, "b p"], durations: Int[Tensor, "b p"], padded: bool = True
    ) -> Float[Tensor, "b p d"]:
        """`padded` as in `PhoneEncoder`."""
        x = self.embedding(phones) + self.duration(torch.log1p(durations.float())[..., None])
        return self.block(x, phones != 0 if padded else None)


class DurationPredictor(nn.Module):
    """Text states, attending to the prompt's duration states, to log(d + 1) of each phone."""

    GRADIENT = 0.1  # share of the gradient that reaches the text states, as in NATSpeech

    def __init__(self, config: ModelConfig):
        super().__init__()
        dim = config.dim
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, config.heads) if config.prompt_durations else None
        self.convolutions = nn.ModuleList(nn.Conv1d(dim, dim, 3, padding=1) for _ in range(config.duration_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(config.duration_layers))
        self.add = ChannelDropout(min(0.5, 3 * config.dropout))
        self.out = nn.Linear(dim, 1)
        nn.init.constant_(self.out.bias, 1.6)  # log(4 + 1): a phone lasts about 4 frames

    def forward(
        self,
        states: Float[Tensor, "b p d"],
        mask: Bool[Tensor, "b p"] | None = None,
        prompt: Float[Tensor, "b s d"] | None = None,
        prompt_mask: Bool[Tensor, "b s"] | None = None,
    ) -> Float[Tensor, "b p"]:
        """Predicted log(d + 1); `prompt` are the DurationExtractor's states, None where the config has none.

        Without masks all phones are real.
        """
        x = self.norm(states * self.GRADIENT + states.detach() * (1 - self.GRADIENT))
        if self.attention is not None:
            x = x + self.attention.cross(x, self.attention.keys_values(prompt), prompt_mask)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            y = convolution((x if mask is None else x * mask[..., None]).transpose(1, 2)).transpose(1, 2)
            x = self.add(x, norm(F.relu(y)))
        return self.out(x)[..., 0]


@dataclass(frozen=True)
class Frames:
    """What the length regulator does: the phone of each frame, and where in its phone a frame lies (our addition)."""

    phone: Int[Tensor, "b t"]
    position: Float[Tensor, "b t 2"]  # from 0 to 1, and log(d + 1)
    mask: Bool[Tensor, "b t"] | None  # False beyond the end; None: nothing is padded

    @classmethod
    def of(cls, durations: Int[Tensor, "b p"], frames: int) -> "Frames":
        """Each phone for its duration, padded to `frames`."""
        ends = durations.cumsum(1)  # (b, p)
        time = torch.arange(frames, device=durations.device).expand(len(durations), -1).contiguous()  # (b, t)
        phone = torch.searchsorted(ends, time, right=True).clamp_max(durations.shape[1] - 1)  # (b, t)
        mask = time < ends[:, -1:]
        length = durations.gather(1, phone).float()
        start = ends.gather(1, phone).float() - length
        position = torch.stack([(time - start + 0.5) / length.clamp_min(1), torch.log1p(length)], -1)
        return cls(phone, position * mask[..., None], mask)

    def expand(self, states: Float[Tensor, "b p d"]) -> Float[Tensor, "b t d"]:
        """Each phone's state repeated for its duration; zero beyond the end."""
        expanded = states.gather(1, self.phone[..., None].expand(-1, -1, states.shape[-1]))
        return expanded if self.mask is None else expanded * self.mask[..., None]

    def phones(self, phones: Int[Tensor, "b p"]) -> Int[Tensor, "b t"]:
        """The phone id spoken in each frame, 0 beyond the end."""
        spoken = phones.gather(1, self.phone)
        return spoken if self.mask is None else spoken * self.mask


def length_regulate(
    states: Float[Tensor, "b p d"], durations: Int[Tensor, "b p"], frames: int
) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b t 2"]]:
    """The length regulator: states repeated for their durations, padded with zeros to `frames`; `Frames.position`."""
    regulated = Frames.of(durations, frames)
    return regulated.expand(states), regulated.position
