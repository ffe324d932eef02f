"""VALL-E's shape: layer 1 frame by frame by a causal Transformer, the layers above in one pass each.

Unlike VALL-E's, which finds its own tempo, layer 1 is told each frame's phone by the same durations as all systems
here: a small model does not learn to align in minutes. The layers above are filled by the SMD's Conformer, all of
their frames masked, as VALL-E's non-autoregressive model does. Each has half of the SMD's blocks.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ms_core.baselines import Baseline
from ms_core.config import CodecConfig, ModelConfig
from ms_core.layers import ChannelDropout, FeedForward, rotary
from ms_core.prompt import Condition
from ms_core.smd import SpeechMaskDecoder, apply_mask

TEMPERATURE = 0.8  # of the tokens drawn; our choice


class CausalBlock(nn.Module):
    """Self-attention to the past and to the prompt, then a feed-forward; keeps keys and values while it generates."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        dim, self.heads = config.dim, config.heads
        self.norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed_forward = FeedForward(dim, 2 * config.ffn_mult)
        self.add = ChannelDropout(config.dropout)

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b t (h c) -> b h t c", h=self.heads)

    def forward(
        self, x: Float[Tensor, "b t d"], allowed: Bool[Tensor, "b 1 t s"] | None, past: list[Tensor], first: int
    ) -> Float[Tensor, "b t d"]:
        """past: [keys, values] of the prompt and of the frames before `first`; those of these frames are added."""
        query, key, value = (self._split(y) for y in self.query_key_value(self.norm(x)).chunk(3, -1))
        past[0] = torch.cat([past[0], rotary(key, first)], 2)
        past[1] = torch.cat([past[1], value], 2)
        y = F.scaled_dot_product_attention(rotary(query, first), *past, allowed)
        x = self.add(x, self.out(rearrange(y, "b h t c -> b t (h c)")))
        return self.add(x, self.feed_forward(x))


class AutoregressiveModel(Baseline):
    """Layer 1 by `first`, the others by the SMD."""

    FORMAT = "ms-autoregressive-1"

    def __init__(self, config: ModelConfig, codec_config: CodecConfig, codebooks: Float[Tensor, "n bins c"]):
        super().__init__(config.model_copy(update={"prefix": True}), codec_config, codebooks)
        half = self.config.model_copy(update={"smd_layers": max(1, config.smd_layers // 2)})
        self.smd = SpeechMaskDecoder(half, codec_config.n_q, codec_config.bins, codebooks)
        self.first = nn.ModuleList(CausalBlock(config) for _ in range(half.smd_layers))
        self.before = nn.Embedding(codec_config.bins + 1, config.dim)  # the frame before; id `bins`: there is none
        self.norm, self.head = nn.LayerNorm(config.dim), nn.Linear(config.dim, codec_config.bins)

    def _prompts(self, condition: Condition) -> list[list[Tensor]]:
        """Keys and values of the prompt for each causal block: those that stand before the SMD's block of its place."""
        return [list(cache) for cache in condition.prompt.prefix]

    def _logits(self, x: Tensor, allowed: Tensor | None, past: list[list[Tensor]], first: int) -> Tensor:
        for block, own in zip(self.first, past, strict=True):
            x = block(x, allowed, own, first)
        return self.head(self.norm(x)).float()

    def frame_loss(
        self, condition: Condition, codes: Int[Tensor, "b n t"], mask: Bool[Tensor, "b t"]
    ) -> Float[Tensor, ""]:
        batch, n_q, frames = codes.shape
        before = F.pad(codes[:, 0, :-1], (1, 0), value=self.smd.bins)
        causal = torch.ones(frames, frames, dtype=torch.bool, device=codes.device).tril().expand(batch, -1, -1)
        allowed = torch.cat([condition.prompt.mask[:, None].expand(-1, frames, -1), causal], 2)[:, None]
        logits = self._logits(condition.text + self.before(before), allowed, self._prompts(condition), 0)
        ce = F.cross_entropy(logits.flatten(0, 1), codes[:, 0].flatten(), reduction="none").view(batch, frames)
        layer = torch.randint(1, n_q, (batch,), device=codes.device)
        grid = apply_mask(codes, layer, mask, self.smd.mask_id)
        above, _ = self.smd(condition, grid, layer, mask)
        target = codes.gather(1, layer[:, None, None].expand(-1, 1, frames))[:, 0]
        more = F.cross_entropy(above.float().flatten(0, 1), target.flatten(), reduction="none").view(batch, frames)
        return ((ce + more) * mask).sum() / mask.sum()

    def fill(self, condition: Condition, frames: int, generator: torch.Generator) -> Int[Tensor, "1 n t"]:
        device, past = condition.text.device, self._prompts(condition)
        token = torch.full((1, 1), self.smd.bins, device=device)
        codes = torch.full((1, self.smd.n_q, frames), self.smd.mask_id, device=device)
        for frame in range(frames):
            x = condition.text[:, frame : frame + 1] + self.before(token)
            logits = self._logits(x, None, past, frame)[0, 0].cpu()
            token = torch.multinomial((logits / TEMPERATURE).softmax(-1), 1, generator=generator)[None].to(device)
            codes[0, 0, frame] = token[0, 0]
        mask = torch.ones(1, frames, dtype=torch.bool, device=device)
        for layer in range(1, self.smd.n_q):
            logits, _ = self.smd(condition, codes, torch.full((1,), layer, device=device), mask)
            codes[:, layer] = logits.argmax(-1)
        return codes
