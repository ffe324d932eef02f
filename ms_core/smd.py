"""The speech mask decoder (SMD): Conformer over the token grid, the three mask regimes.

What Figure 1(b) of the paper shows: text states plus the sum of the code embeddings enter a Conformer; layer 1 is
trained with all frames masked (P_{1-alpha}) or part of them (P_alpha), a higher layer with the layers below visible,
part of its own frames masked and all above masked (P_rank). What it does not show is our choice: alpha, the law of
P_rank, sizes, and the ratio cos(u) (SoundStorm's; paper.md, section 2).

What is ours besides (`CodebookPrior`, `PromptCopy`) stands in `additions.py`, the decoding in `decoding.py`.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ms_core.additions import CodebookPrior, PromptCopy
from ms_core.config import MaskConfig, ModelConfig
from ms_core.layers import conformer
from ms_core.prompt import Condition


class SpeechMaskDecoder(nn.Module):
    """Fills one layer of the grid: text states and known codes in, logits of the chosen layer out.

    Args:
        codebooks: the codec's code vectors (n, bins, c), None for a codec without them; a constant, not saved.
    """

    def __init__(self, config: ModelConfig, n_q: int, bins: int, codebooks: Float[Tensor, "n bins c"] | None):
        super().__init__()
        dim = config.dim
        self.n_q, self.bins, self.mask_id = n_q, bins, bins
        self.embedding = nn.Embedding(n_q * (bins + 1), dim)  # one table a layer, MASK last in each
        self.layer = nn.Embedding(n_q, dim)  # which layer is asked for
        self.blocks = conformer(config, config.smd_layers, config.prefix)
        self.head = nn.Parameter(torch.zeros(n_q, dim, bins))
        self.bias = nn.Parameter(torch.zeros(n_q, 1, bins))
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.layer.weight, std=0.02)
        self.prior = CodebookPrior(dim, codebooks) if config.codebook_prior and codebooks is not None else None
        copies = config.prompt_copy and self.prior is not None
        self.copy = PromptCopy(dim, config.heads, self.prior.scale) if copies else None
        self.copy_at = (config.smd_layers + 1) // 2  # blocks before the prompt is looked up
        if self.prior is None:
            nn.init.normal_(self.head, std=dim**-0.5)

    def embed(self, codes: Int[Tensor, "b n t"], known: Float[Tensor, "b t c"] | None = None) -> Float[Tensor, "b t d"]:
        """Sum over layers of the code embeddings; MASK (id `bins`) has an embedding of its own in each layer.

        known: what `prior.known(codes)` gave, where it is at hand.
        """
        offset = torch.arange(codes.shape[1], device=codes.device)[:, None] * (self.bins + 1)
        if self.training and codes.device.type == "cpu":  # without a tensor of all layers
            bags = (codes + offset).transpose(1, 2).flatten(0, 1)
            x = F.embedding_bag(bags, self.embedding.weight, mode="sum").unflatten(0, (len(codes), -1))
        else:
            x = self.embedding(codes + offset).float().sum(1)  # (b, t, d); an export may hold its tables in fp16
        if self.prior is None:
            return x
        return x + self.prior.embed(self.prior.known(codes) if known is None else known)

    def forward(
        self,
        condition: Condition,
        codes: Int[Tensor, "b n t"],
        layer: Int[Tensor, " b"],
        mask: Bool[Tensor, "b t"] | None,
    ) -> tuple[Float[Tensor, "b t bins"], Float[Tensor, "b t c"] | None]:
        """Logits of layer `layer` (0-based, one for each example), and the predicted residual of the codec's latent."""
        return self.logits(*self.states(condition, codes, layer, mask), layer)

    def states(
        self,
        condition: Condition,
        codes: Int[Tensor, "b n t"],
        layer: Int[Tensor, " b"],
        mask: Bool[Tensor, "b t"] | None,
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b t c"] | None]:
        """What `logits` asks for: states, and what `PromptCopy` copied."""
        known = None if self.prior is None else self.prior.known(codes)
        x = condition.text + self.embed(codes, known) + self.layer(layer)[:, None]
        prompt, copied = condition.prompt, None
        for index, block in enumerate(self.blocks):
            if self.copy is not None and index == self.copy_at:
                x, copied = self.copy(
                    x, known, layer, *prompt.copy, prompt.mask, condition.content_scores, condition.sharpness
                )
            x = block(x, mask, prompt.prefix[index] if prompt.prefix else None, prompt.mask)
            if prompt.modulation is not None:
                scale, shift = prompt.modulation[:, index, :, None].unbind(1)  # (b, 1, d) each
                x = x + x * scale + shift
        return x, copied

    def logits(
        self, x: Float[Tensor, "b t d"], copied: Float[Tensor, "b t c"] | None, layer: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b t bins"], Float[Tensor, "b t c"] | None]:
        """Logits and predicted residual from the `states` of any frames."""
        head, bias = self.head.index_select(0, layer).float(), self.bias.index_select(0, layer)
        logits = torch.baddbmm(bias, x, head)  # (b, t, bins)
        if self.prior is None:
            return logits, None
        prior, residual = self.prior(x, layer, copied)
        return logits + prior, residual


def draw_masks(
    frames: Bool[Tensor, "b t"], n_q: int, config: MaskConfig, generator: torch.Generator
) -> tuple[Int[Tensor, " b"], Bool[Tensor, "b t"]]:
    """For each example the layer to train (0-based) and its masked frames.

    The layer is drawn by P_rank. Layer 1: with probability 1 - alpha every frame, else each frame with probability
    cos(u), u ~ U[0, pi/2]; a higher layer: always the latter. At least one real frame is masked; padding never is.
    Drawn on the generator's device, which nothing here waits for.
    """
    batch, device = len(frames), generator.device
    rank = torch.rand(batch, generator=generator, device=device)
    share, layer = 0.0, torch.zeros(batch, dtype=torch.long, device=device)
    for probability in config.rank_probabilities(n_q)[:-1]:
        share += probability
        layer += rank >= share
    whole = (layer == 0) & (torch.rand(batch, generator=generator, device=device) >= config.alpha)
    ratio = torch.cos(torch.rand(batch, generator=generator, device=device) * (math.pi / 2))
    draw = torch.rand(frames.shape, generator=generator, device=device)
    layer, whole, ratio, draw = (x.to(frames.device) for x in (layer, whole, ratio, draw))
    masked = (whole[:, None] | (draw < ratio[:, None])) & frames
    first = draw.masked_fill(~frames, 2.0).argmin(1, keepdim=True)  # the frame to mask if no other was
    masked |= frames & ~masked.any(1, keepdim=True) & torch.zeros_like(masked).scatter(1, first, True)
    return layer, masked


def apply_mask(
    codes: Int[Tensor, "b n t"], layer: Int[Tensor, " b"], masked: Bool[Tensor, "b t"], mask_id: int
) -> Int[Tensor, "b n t"]:
    """Layers below `layer` visible, `layer` hidden where `masked`, all layers above hidden."""
    rank = torch.arange(codes.shape[1], device=codes.device)[None, :, None]
    chosen = layer[:, None, None]
    hidden = (rank > chosen) | ((rank == chosen) & masked[:, None])
    return codes.masked_fill(hidden, mask_id)
