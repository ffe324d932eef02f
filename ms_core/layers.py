"""Building blocks that every part shares: rotary attention, the Conformer block, masks.

The SMD's backbone is labelled "ConFormer Decoder" in the paper's Figure 1; its inner form is not given. Ours follows
the macaron Conformer of the authors' code lineage (feed-forward, attention, convolution of kernel 9, feed-forward),
with two changes of our own: rotary positions, which need no table, and LayerNorm instead of BatchNorm in the
convolution module, so that neither padding nor the other examples of a batch can change a result.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ms_core.config import ModelConfig

Cache = tuple[Tensor, Tensor]  # keys and values of a prompt, (b, h, s, c) each


def lengths_to_mask(lengths: Int[Tensor, " b"], longest: int) -> Bool[Tensor, "b t"]:
    """True where a frame or phone is real, False where it is padding."""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


def rotary(x: Float[Tensor, "b h t c"], first: int | torch.SymInt | Int[Tensor, " b"]) -> Float[Tensor, "b h t c"]:
    """Rotate pairs of channels by position (Su et al. 2021); the positions are first, first + 1, ..."""
    half = x.shape[-1] // 2
    rate = 10_000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    position = torch.arange(x.shape[2], device=x.device, dtype=torch.float32)[:, None]
    position = position + (first[:, None, None, None] if isinstance(first, Tensor) else first)
    angle = position * rate  # (t, c/2), or (b, 1, t, c/2) where examples start at different positions
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Attention(nn.Module):
    """Multi-head attention; self-attention with rotary positions, or plain cross-attention.

    A `cache` of prompt keys and values stands before the sequence as a prefix: every frame may look at it, and it is
    computed once for a voice, not once for a pass (`prompt_cache`).
    """

    def __init__(self, dim: int, heads: int, prefix: bool = False):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.prompt_key_value = nn.Linear(dim, 2 * dim) if prefix else None

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b t (h c) -> b h t c", h=self.heads)

    def keys_values(self, context: Float[Tensor, "b s d"]) -> Cache:
        """Keys and values of a context to which `cross` attends."""
        key, value = self.key_value(context).chunk(2, -1)
        return self._split(key), self._split(value)

    def prompt_cache(self, prompt: Float[Tensor, "b s d"], lengths: Int[Tensor, " b"] | None = None) -> Cache:
        """Keys (at the positions just before the sequence) and values of the prompt states.

        Without `lengths` no prompt is padded; with them the last real frame has position -1, whatever the padding.
        """
        key, value = self.prompt_key_value(prompt).chunk(2, -1)
        return rotary(self._split(key), -prompt.shape[1] if lengths is None else -lengths), self._split(value)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Bool[Tensor, "b s"] | None) -> Tensor:
        if self.training and query.device.type == "cpu" and query.dtype == torch.bfloat16:
            # in half the time of the fused operator, whose way back computes in fp32
            score = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)  # (b, h, t, s)
            if mask is not None:
                score = score + torch.zeros_like(mask, dtype=score.dtype).masked_fill(~mask, -torch.inf)[:, None, None]
            y = score.softmax(-1) @ value
        else:
            y = F.scaled_dot_product_attention(query, key, value, None if mask is None else mask[:, None, None])
        return self.out(rearrange(y, "b h t c -> b t (h c)"))

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        mask: Bool[Tensor, "b t"] | None,
        cache: Cache | None = None,
        cache_mask: Bool[Tensor, "b s"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Self-attention over the sequence and, where given, the prefix; without a mask all of both is real."""
        key, value = self.keys_values(x)
        query, key = rotary(self._split(self.query(x)), 0), rotary(key, 0)
        if cache is not None:
            key, value = torch.cat([cache[0], key], 2), torch.cat([cache[1], value], 2)
            mask = None if mask is None else torch.cat([cache_mask, mask], 1)
        return self._attend(query, key, value, mask)

    def cross(
        self, x: Float[Tensor, "b t d"], cache: Cache, mask: Bool[Tensor, "b s"] | None
    ) -> Float[Tensor, "b t d"]:
        """Attention to a context's keys and values; without positions."""
        return self._attend(self._split(self.query(x)), *cache, mask)


class ChannelDropout(nn.Module):
    """Adds a branch to the states; in training whole channels of the branch are zero, one draw for an example.

    A draw for each number, as dropout has it, took a fifth of a step on a CPU. Our choice.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(
        self, x: Float[Tensor, "b t d"], branch: Float[Tensor, "b t d"], weight: float = 1.0
    ) -> Float[Tensor, "b t d"]:
        """x + weight * branch."""
        if not self.training or self.rate == 0:
            return torch.add(x, branch, alpha=weight)
        kept = torch.rand(len(x), 1, x.shape[-1], device=x.device) >= self.rate
        kept = (kept * (weight / (1 - self.rate))).to(branch.dtype)
        return torch.addcmul(x, branch, kept) if x.dtype == branch.dtype else x + branch * kept


class FeedForward(nn.Sequential):
    """Norm, widen, Swish, narrow."""

    def __init__(self, dim: int, mult: int):
        unused = nn.Identity()  # a dropout's place, which checkpoints count
        super().__init__(nn.LayerNorm(dim), nn.Linear(dim, mult * dim), nn.SiLU(), unused, nn.Linear(mult * dim, dim))


class ConvModule(nn.Module):
    """The Conformer's convolution: pointwise GLU, depthwise convolution, LayerNorm, Swish, pointwise."""

    def __init__(self, dim: int, kernel: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.in_proj = nn.Linear(dim, 2 * dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.inner_norm = nn.LayerNorm(dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b t d"], mask: Bool[Tensor, "b t"] | None) -> Float[Tensor, "b t d"]:
        y = F.glu(self.in_proj(self.norm(x)), -1)
        if mask is not None:
            y = y * mask[..., None]  # padding must not leak through the kernel
        if self.training and y.device.type == "cpu":
            # as an image one pixel wide, channels last: a ninth of the time of the strided one-dimensional kernel
            conv = self.depthwise
            image = y[:, :, None].permute(0, 3, 1, 2)  # (b, d, t, 1)
            image = F.conv2d(image, conv.weight[..., None], conv.bias, padding=(*conv.padding, 0), groups=conv.groups)
            y = image.permute(0, 2, 3, 1)[:, :, 0]
        else:
            y = self.depthwise(y.transpose(1, 2)).transpose(1, 2)
        return self.out_proj(F.silu(self.inner_norm(y)))


class ConformerBlock(nn.Module):
    """Half feed-forward, self-attention, convolution, half feed-forward, norm (Gulati et al. 2020)."""

    def __init__(self, dim: int, heads: int, mult: int, kernel: int, dropout: float, prefix: bool = False):
        super().__init__()
        self.first = FeedForward(dim, mult)
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, prefix)
        self.convolution = ConvModule(dim, kernel)
        self.second = FeedForward(dim, mult)
        self.norm = nn.LayerNorm(dim)
        self.add = ChannelDropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        mask: Bool[Tensor, "b t"] | None,
        cache: Cache | None = None,
        cache_mask: Bool[Tensor, "b s"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        if self.training and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))  # states stay in it from branch to branch: no casts between them
        x = self.add(x, self.first(x), 0.5)
        x = self.add(x, self.attention(self.attention_norm(x), mask, cache, cache_mask))
        x = self.add(x, self.convolution(x, mask))
        x = self.add(x, self.second(x), 0.5)
        return self.norm(x)


def conformer(config: ModelConfig, layers: int, prefix: bool = False) -> nn.ModuleList:
    """So many blocks of a model's sizes."""
    sizes = config.dim, config.heads, config.ffn_mult, config.conv_kernel, config.dropout
    return nn.ModuleList(ConformerBlock(*sizes, prefix) for _ in range(layers))
