"""The speech mask decoder (SMD): Conformer over the token grid, the three mask regimes, iterative parallel decoding.

What Figure 1(b) of the paper shows: text states plus the sum of the code embeddings enter a Conformer; layer 1 is
trained with all frames masked (P_{1-alpha}) or part of them (P_alpha), a higher layer with the layers below visible,
part of its own frames masked and all above masked (P_rank). What it does not show is our choice: alpha, the law of
P_rank, sizes, the ratio cos(u) (SoundStorm's), and the decoding schedule (MaskGIT's and SoundStorm's; paper.md,
sections 2, 3).

Ours besides (`codebook_prior`): the decoder predicts the codec's continuous latent of each frame, and a token's logit
starts from how near its code vector lies to what the layers below have left of that latent. It is a Gaussian in the
codec's own geometry, on which the usual linear head builds; it only adds terms to the logits.

And (`prompt_copy`): what is characteristic of a voice lies in how its frames differ from those of others that share
their lower layers. The decoder need not learn to write that; it looks up the prompt's frames and copies their vectors.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ms_core.config import MaskConfig, ModelConfig
from ms_core.layers import ConformerBlock
from ms_core.prompt import Condition

Generators = Sequence[torch.Generator]
GAIN = 10.0  # on scalar parameters of the codebook prior: Adam moves each by about the learning rate a step, too slowly


class SpeechMaskDecoder(nn.Module):
    """Fills one layer of the grid: text states and known codes in, logits of the chosen layer out.

    Args:
        books: the codec's code vectors (n, bins, c), None for a codec without them; a constant, not saved.
    """

    def __init__(self, config: ModelConfig, n_q: int, bins: int, books: Float[Tensor, "n bins c"] | None):
        super().__init__()
        dim = config.dim
        self.n_q, self.bins, self.mask_id = n_q, bins, bins
        self.embedding = nn.Embedding(n_q * (bins + 1), dim)  # one table a layer, MASK last in each
        self.layer = nn.Embedding(n_q, dim)  # which layer is asked for
        self.blocks = nn.ModuleList(
            ConformerBlock(dim, config.heads, config.ffn_mult, config.conv_kernel, config.dropout, config.prefix)
            for _ in range(config.smd_layers)
        )
        self.head = nn.Parameter(torch.zeros(n_q, dim, bins))
        self.bias = nn.Parameter(torch.zeros(n_q, 1, bins))
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.layer.weight, std=0.02)
        self.prior = CodebookPrior(dim, books) if config.codebook_prior and books is not None else None
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
        x = self.embedding(codes + offset).sum(1)  # (b, t, d)
        if self.prior is None:
            return x
        return x + self.prior.embed(self.prior.known(codes) if known is None else known)

    def forward(
        self,
        condition: Condition,
        codes: Int[Tensor, "b n t"],
        layer: Int[Tensor, " b"],
        mask: Bool[Tensor, "b t"],
    ) -> tuple[Float[Tensor, "b t bins"], Float[Tensor, "b t c"] | None]:
        """Logits of layer `layer` (0-based, one for each example), and the predicted residual of the codec's latent."""
        known = None if self.prior is None else self.prior.known(codes)
        x = condition.text + self.embed(codes, known) + self.layer(layer)[:, None]
        prompt, copied = condition.prompt, None
        for index, block in enumerate(self.blocks):
            if self.copy is not None and index == self.copy_at:
                x, copied = self.copy(x, known, layer, *prompt.copy, prompt.mask, condition.likeness)
            x = block(x, mask, prompt.prefix[index] if prompt.prefix else None, prompt.mask)
        logits = torch.baddbmm(self.bias[layer], x, self.head[layer])  # (b, t, bins)
        if self.prior is None:
            return logits, None
        prior, residual = self.prior(x, layer, copied)
        return logits + prior, residual


class PromptCopy(nn.Module):
    """Attention to the prompt's frames whose values are their code vectors, as they are.

    Heads find frames by what is said there (`likeness`: the text encoder's states of both, which the voice has no part
    in), by the decoder's own states, and by how near the layers below are in the prompt's frame to those of the frame
    in question. What the higher layers add in the found frames enters the predicted residual with learned weights, as
    far as the frame trusts what was found. How near is near is fixed for each head: cross-entropy would learn to blur
    many frames together, where a voice is heard in few. Our choice.

    Args:
        scale: standard deviation of what layers j.. add to the latent (n, c), as in `CodebookPrior`.
    """

    # the squared distance that divides a weight by e, as a share of what lies between two frames at random: that of the
    # first head, and its growth from head to head. Five times as wide, which was learned, cost .03 of SIM on dev-other
    NEAREST, WIDER = 0.01, 3.6
    LIKENESS = 8.0  # weight of the cosine between words, before training

    def __init__(self, dim: int, heads: int, scale: Float[Tensor, "n c"]):
        super().__init__()
        n_q, width = scale.shape
        self.heads = heads
        self.register_buffer("scale", scale, persistent=False)
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.words = nn.Linear(dim, dim)  # of both sides, so that the same words are alike from the first step on
        nn.init.orthogonal_(self.words.weight)
        self.likeness_weight = nn.Parameter(torch.full((heads,), self.LIKENESS / GAIN))
        self.enter_said = nn.Linear(heads * width, dim)
        reach = 2 * self.NEAREST * self.WIDER ** torch.arange(heads) * scale[0].square().sum()
        self.register_buffer("reach", reach, persistent=False)
        self.sharpness = 1.0  # of decoding (`DecodingConfig.copy_sharpness`): divides `reach`
        self.gate = nn.Parameter(torch.zeros(n_q, heads, 2, width))
        nn.init.constant_(self.gate[:, :, 0], 0.3 / heads)
        self.enter = nn.Linear(heads * 2 * width, dim)
        self.trust = nn.Linear(dim + heads, 2 * heads)  # how much of what was found is copied, frame by frame
        for layer in (self.enter, self.enter_said, self.trust):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def keys(self, states: Float[Tensor, "b s d"]) -> Float[Tensor, "b h s c"]:
        """Of the prompt's states; computed once for a voice."""
        return rearrange(self.key(states), "b s (h c) -> b h s c", h=self.heads)

    def said(self, text: Float[Tensor, "b t d"]) -> Float[Tensor, "b h t c"]:
        """Directions that stand for what is said in each frame, from the text states of target or prompt."""
        return F.normalize(rearrange(self.words(text), "b t (h c) -> b h t c", h=self.heads), dim=-1)

    def likeness(self, text: Float[Tensor, "b t d"], said: Float[Tensor, "b h s c"]) -> Float[Tensor, "b h t s"]:
        """Scores of the prompt's frames by what is said in them; computed once for an utterance."""
        return self.said(text) @ said.transpose(2, 3) * (GAIN * self.likeness_weight[:, None, None])

    def preview(
        self, likeness: Float[Tensor, "b h t s"], latents: Float[Tensor, "b n s c"], mask: Bool[Tensor, "b s"] | None
    ) -> Float[Tensor, "b t d"]:
        """How the prompt says what is alike, for the states before the first block; computed once for an utterance."""
        found = _real(likeness, mask).softmax(-1) @ (latents[:, -1] / self.scale[0])[:, None]  # (b, h, t, c)
        return self.enter_said(rearrange(found, "b h t c -> b t (h c)"))

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        known: Float[Tensor, "b t c"],
        layer: Int[Tensor, " b"],
        keys: Float[Tensor, "b h s k"],
        latents: Float[Tensor, "b n s c"],
        mask: Bool[Tensor, "b s"] | None,
        likeness: Float[Tensor, "b h t s"] | None = None,
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b t c"]]:
        """The states with what was found added, and the part of the residual (standard units) that is copied.

        Args:
            known: code vectors of the frames, summed over the layers that are known.
            latents: the same of the prompt's frames, over the first 0, 1, ..., N layers.
            mask: None when no prompt is padded.
        """
        below, whole = latents[torch.arange(len(x), device=x.device), layer], latents[:, -1]  # (b, s, c)
        query = rearrange(self.query(self.norm(x)), "b t (h c) -> b h t c", h=self.heads)
        content = (query @ keys.transpose(2, 3)).float() * query.shape[-1] ** -0.5
        with torch.autocast(x.device.type, enabled=False):
            # minus the squared distance, up to what is the same for all frames of the prompt
            near = 2 * known @ below.transpose(1, 2) - below.square().sum(-1)[:, None]  # (b, t, s)
            content = content if likeness is None else content + likeness.float()
            score = content + near[:, None] * (self.sharpness / self.reach[:, None, None])
            weight = _real(score, mask).softmax(-1)  # (b, h, t, s)
            scale = self.scale[layer][:, None]  # (b, 1, c)
            found = weight @ ((whole - below) / scale)[:, None]  # (b, h, t, c): what the higher layers add there
            apart = weight @ (whole / scale)[:, None] - (known / scale)[:, None]  # ... and what it takes to get there
            found = torch.stack([found, apart], 2)  # (b, h, 2, t, c)
        x = x + self.enter(rearrange(found, "b h i t c -> b t (h i c)"))
        peak = weight.square().sum(-1)  # (b, h, t): 1 where a single frame was found, near 0 where all alike
        trust = self.trust(torch.cat([x, peak.transpose(1, 2)], -1)).float()  # (b, t, 2 h)
        with torch.autocast(x.device.type, enabled=False):
            trust = rearrange(2 * trust.sigmoid(), "b t (h i) -> b h i t 1", i=2)
            copied = (found * self.gate[layer][:, :, :, None] * trust).sum((1, 2))
        return x, copied


def _real(score: Float[Tensor, "b h t s"], mask: Bool[Tensor, "b s"] | None) -> Float[Tensor, "b h t s"]:
    """Scores of the prompt's frames, with padding out of the question."""
    return score if mask is None else score.masked_fill(~mask[:, None, None], -torch.inf)


class CodebookPrior(nn.Module):
    """Logits from the codec's geometry: log N(code vector; predicted residual, precision), up to a constant."""

    def __init__(self, dim: int, books: Float[Tensor, "n bins c"]):
        super().__init__()
        n_q, _, width = books.shape
        # standard deviation of what layers j.. add to the latent, (n, c), from the codebooks alone
        scale = torch.stack([books[j:].square().mean(1).sum(0) for j in range(n_q)]).sqrt().clamp_min(1e-4)
        self.register_buffer("books", torch.cat([books, torch.zeros(n_q, 1, width)], 1), persistent=False)  # MASK: zero
        self.register_buffer("scale", scale, persistent=False)
        self.enter = nn.Linear(width, dim)
        self.residual = nn.Parameter(torch.randn(n_q, dim, width) * dim**-0.5 / 4)
        self.log_precision = nn.Parameter(torch.full((n_q, width), math.log(0.5) / GAIN))  # over 1 / scale^2
        # 0: entries are equally likely before the model has learned; 1: a pure Gaussian, under which far ones are rare
        self.norm_weight = nn.Parameter(torch.zeros(n_q))
        self.confidence = nn.Linear(dim, n_q)
        nn.init.zeros_(self.confidence.weight)
        nn.init.zeros_(self.confidence.bias)

    def known(self, codes: Int[Tensor, "b n t"]) -> Float[Tensor, "b t c"]:
        """Sum of the code vectors that are known; MASK counts as zero."""
        index = torch.arange(codes.shape[1], device=codes.device)[:, None]
        return self.books[index, codes].sum(1)

    def partial_sums(self, codes: Int[Tensor, "b n t"]) -> Float[Tensor, "b m t c"]:
        """Code vectors summed over the first 0, 1, ..., N layers: m = N + 1."""
        index = torch.arange(codes.shape[1], device=codes.device)[:, None]
        return F.pad(self.books[index, codes].cumsum(1), (0, 0, 0, 0, 1, 0))

    def embed(self, known: Float[Tensor, "b t c"]) -> Float[Tensor, "b t d"]:
        return self.enter(known / self.scale[0])

    def forward(
        self, x: Float[Tensor, "b t d"], layer: Int[Tensor, " b"], copied: Float[Tensor, "b t c"] | None = None
    ) -> tuple[Float[Tensor, "b t bins"], Float[Tensor, "b t c"]]:
        """Logits, and the residual that they were made from: the model's guess at latent minus layers below.

        `copied`, in standard units, is added to what the states say.
        """
        with torch.autocast(x.device.type, enabled=False):  # distances need more than bf16's three digits
            x = x.float()
            residual = torch.bmm(x, self.residual[layer])  # (b, t, c), standard units
            residual = residual if copied is None else residual + copied
            weighted, half_norm = self.geometry(layer)
            confidence = self.confidence(x).gather(-1, layer[:, None, None].expand(-1, x.shape[1], 1)).exp()
            return (residual @ weighted.transpose(1, 2) - half_norm) * confidence, residual * self.scale[layer][:, None]

    def geometry(self, layer: Int[Tensor, " b"]) -> tuple[Float[Tensor, "b bins c"], Float[Tensor, "b 1 bins"]]:
        """What the logits of a layer need that no input decides: code vectors by precision, and half their norms."""
        book = self.books[layer, :-1] / self.scale[layer][:, None]  # (b, bins, c), standard units
        weighted = book * (GAIN * self.log_precision[layer]).exp()[:, None]
        return weighted, (weighted * book).sum(-1)[:, None] / 2 * (GAIN * self.norm_weight[layer, None, None])


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


def still_masked(frames: int, step: int, steps: int) -> int:
    """How many of `frames` stay masked after pass `step` (1-based) of `steps`: the cosine schedule."""
    if step >= steps:
        return 0
    return min(math.floor(frames * math.cos(math.pi / 2 * step / steps)), max(frames - step, 0))


def gumbel(shape: Sequence[int], lengths: Sequence[int], generators: Generators, device: torch.device) -> Tensor:
    """Standard Gumbel noise (b, t, ...), each example from its own generator.

    It is drawn on the CPU, so that every device draws the same, and for real frames alone, so that padding is free.
    """
    uniform = torch.full(tuple(shape), 0.5)
    for row, frames, generator in zip(uniform, lengths, generators, strict=True):
        row[:frames] = torch.rand((frames, *shape[2:]), generator=generator)
    return -torch.log(-torch.log(uniform.clamp(1e-10, 1 - 1e-7))).to(device)


@torch.inference_mode()
def fill_grid(
    decoder: SpeechMaskDecoder,
    condition: Condition,
    mask: Bool[Tensor, "b t"],
    steps: Sequence[int],
    generators: Generators,
    temperature: float = 1.0,
    choice_temperature: float = 1.0,
    known: Int[Tensor, "b n t"] | None = None,
    on_pass=None,
) -> Int[Tensor, "b n t"]:
    """Iterative parallel decoding, layer by layer from the lowest.

    In a layer of S > 1 passes each pass draws a token for every masked frame and keeps the surest: the log probability
    of the drawn token plus Gumbel noise, annealed to zero, is ranked; the cosine schedule says how many stay masked.
    A token once kept stays and is fed back. The last pass of a layer, so the only pass of most layers, is greedy.

    Args:
        known: codes (b, n_known, t) of the lowest layers, not to be predicted (true layers for a diagnosis, say).
        on_pass: called as on_pass(layer, step, codes) after every pass, for a picture or a progress bar.
    """
    batch, frames = mask.shape
    codes = torch.full((batch, decoder.n_q, frames), decoder.mask_id, device=mask.device)
    first = 0
    if known is not None:
        first = known.shape[1]
        codes[:, :first] = known
    lengths = mask.sum(1).tolist()
    for layer in range(first, decoder.n_q):
        index = torch.full((batch,), layer, device=mask.device)
        for step in range(1, steps[layer] + 1):
            unknown = (codes[:, layer] == decoder.mask_id) & mask  # (b, t)
            logits, _ = decoder(condition, codes, index, mask)
            logp = logits.float().log_softmax(-1)
            if step == steps[layer]:
                codes[:, layer] = torch.where(unknown, logp.argmax(-1), codes[:, layer])
            else:
                noisy = logp
                if temperature > 0:
                    noisy = logp + temperature * gumbel(logp.shape, lengths, generators, mask.device)
                token = noisy.argmax(-1)  # (b, t): Gumbel-max draws from softmax(logp / temperature)
                confidence = logp.gather(-1, token[..., None])[..., 0]
                noise = choice_temperature * (1 - step / steps[layer])
                if noise > 0:
                    confidence = confidence + noise * gumbel(confidence.shape, lengths, generators, mask.device)
                confidence = confidence.masked_fill(~unknown, torch.inf)
                keep_masked = [still_masked(n, step, steps[layer]) for n in lengths]
                rank = confidence.argsort(dim=1, stable=True).argsort(1)  # 0 is the least sure
                masked = rank < torch.tensor(keep_masked, device=mask.device)[:, None]
                codes[:, layer] = torch.where(unknown & ~masked, token, codes[:, layer])
            if on_pass is not None:
                on_pass(layer, step, codes)
        codes[:, layer] = codes[:, layer].masked_fill(~mask, 0)
    return codes
