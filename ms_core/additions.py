"""What is ours and not the paper's: logits that start from the codec's geometry, and copies of the prompt's frames.

`CodebookPrior` (`ModelConfig.codebook_prior`): the decoder predicts the codec's continuous latent of each frame, and a
token's logit starts from how near its code vector lies to what the layers below have left of that latent. It is a
Gaussian in the codec's own geometry, on which the usual linear head builds; it only adds terms to the logits.

`PromptCopy` (`ModelConfig.prompt_copy`): what is characteristic of a voice lies in how its frames differ from those of
others that share their lower layers. The decoder need not learn to write that; it looks up the prompt's frames and
copies their vectors.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

GAIN = 10.0  # on scalar parameters of the codebook prior: Adam moves each by about the learning rate a step, too slowly


class CodebookPrior(nn.Module):
    """Logits from the codec's geometry: log N(code vector; predicted residual, precision), up to a constant."""

    def __init__(self, dim: int, codebooks: Float[Tensor, "n bins c"]):
        super().__init__()
        n_q, _, width = codebooks.shape
        # standard deviation of what layers j.. add to the latent, (n, c), from the codebooks alone
        scale = torch.stack([codebooks[j:].square().mean(1).sum(0) for j in range(n_q)]).sqrt().clamp_min(1e-4)
        self.register_buffer(
            "codebooks", torch.cat([codebooks, torch.zeros(n_q, 1, width)], 1), persistent=False
        )  # MASK: zero
        self.register_buffer("scale", scale, persistent=False)
        self.in_proj = nn.Linear(width, dim)
        self.residual = nn.Parameter(torch.randn(n_q, dim, width) * dim**-0.5 / 4)
        self.log_precision = nn.Parameter(torch.full((n_q, width), math.log(0.5) / GAIN))  # over 1 / scale^2
        # 0: entries are equally likely before the model has learned; 1: a pure Gaussian, under which far ones are rare
        self.norm_weight = nn.Parameter(torch.zeros(n_q))
        self.confidence = nn.Linear(dim, n_q)
        nn.init.zeros_(self.confidence.weight)
        nn.init.zeros_(self.confidence.bias)

    def known(self, codes: Int[Tensor, "b n t"]) -> Float[Tensor, "b t c"]:
        """Sum of the code vectors that are known; MASK counts as zero."""
        return self._vectors(codes).sum(1)

    def partial_sums(self, codes: Int[Tensor, "b n t"]) -> Float[Tensor, "b m t c"]:
        """Code vectors summed over the first 0, 1, ..., N layers: m = N + 1."""
        return F.pad(self._vectors(codes).cumsum(1), (0, 0, 0, 0, 1, 0))

    def _vectors(self, codes: Int[Tensor, "b n t"]) -> Float[Tensor, "b n t c"]:
        index = torch.arange(codes.shape[1], device=codes.device)[:, None]
        return self.codebooks[index, codes].float()  # an export may hold them in fp16

    def embed(self, known: Float[Tensor, "b t c"]) -> Float[Tensor, "b t d"]:
        return self.in_proj(known / self.scale[0])

    def forward(
        self, x: Float[Tensor, "b t d"], layer: Int[Tensor, " b"], copied: Float[Tensor, "b t c"] | None = None
    ) -> tuple[Float[Tensor, "b t bins"], Float[Tensor, "b t c"]]:
        """Logits, and the residual that they were made from: the model's guess at latent minus layers below.

        `copied`, in standard units, is added to what the states say.
        """
        with torch.autocast(x.device.type, enabled=False):  # distances need more than bf16's three digits
            x = x.float()
            residual = torch.bmm(x, self.residual.index_select(0, layer).float())  # (b, t, c), standard units
            residual = residual if copied is None else residual + copied
            weighted, half_norm = self.geometry(layer)
            confidence = self.confidence(x).gather(-1, layer[:, None, None].expand(-1, x.shape[1], 1)).exp()
            return (residual @ weighted.transpose(1, 2) - half_norm) * confidence, residual * self.scale[layer][:, None]

    def geometry(self, layer: Int[Tensor, " b"]) -> tuple[Float[Tensor, "b bins c"], Float[Tensor, "b 1 bins"]]:
        """What the logits of a layer need that no input decides: code vectors by precision, and half their norms."""
        book = (
            self.codebooks.index_select(0, layer)[:, :-1].float() / self.scale[layer][:, None]
        )  # (b, bins, c), standard units
        weighted = book * (GAIN * self.log_precision[layer]).exp()[:, None]
        return weighted, (weighted * book).sum(-1)[:, None] / 2 * (GAIN * self.norm_weight[layer, None, None])


class PromptCopy(nn.Module):
    """Attention to the prompt's frames whose values are their code vectors, as they are.

    Heads find frames by what is said there (`content_scores`: the text encoder's states of both, in which the voice
    has no part), by the decoder's own states, and by how near the layers below are in the prompt's frame to those
    of the frame in question. What the higher layers add in the found frames enters the predicted residual with
    learned weights, as far as a gate of the frame's lets it. How near is near is fixed for each head: cross-
    entropy would learn to blur many frames together, where a voice is heard in few. Our choice.

    Args:
        scale: standard deviation of what layers j.. add to the latent (n, c), as in `CodebookPrior`.
    """

    # the squared distance that divides a weight by e, as a share of what lies between two frames at random: that of the
    # first head, and its growth from head to head. Five times as wide, which was learned, cost .03 of SIM on dev-other
    NEAREST, WIDER = 0.01, 3.6
    CONTENT_WEIGHT = 8.0  # weight of the cosine between words, before training

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
        self.content_weight = nn.Parameter(torch.full((heads,), self.CONTENT_WEIGHT / GAIN))
        self.content_proj = nn.Linear(heads * width, dim)
        bandwidth = 2 * self.NEAREST * self.WIDER ** torch.arange(heads) * scale[0].square().sum()
        self.register_buffer("bandwidth", bandwidth, persistent=False)
        self.gate = nn.Parameter(torch.zeros(n_q, heads, 2, width))
        nn.init.constant_(self.gate[:, :, 0], 0.3 / heads)
        self.in_proj = nn.Linear(heads * 2 * width, dim)
        self.copy_gate = nn.Linear(dim + heads, 2 * heads)  # how much of what was found is copied, frame by frame
        for layer in (self.in_proj, self.content_proj, self.copy_gate):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def keys(self, states: Float[Tensor, "b s d"]) -> Float[Tensor, "b h s c"]:
        """Of the prompt's states; computed once for a voice."""
        return rearrange(self.key(states), "b s (h c) -> b h s c", h=self.heads)

    def content_keys(self, text: Float[Tensor, "b t d"]) -> Float[Tensor, "b h t c"]:
        """Directions that stand for what is said in each frame, from the text states of target or prompt."""
        return F.normalize(rearrange(self.words(text), "b t (h c) -> b h t c", h=self.heads), dim=-1)

    def content_scores(
        self, text: Float[Tensor, "b t d"], content_keys: Float[Tensor, "b h s c"]
    ) -> Float[Tensor, "b h t s"]:
        """Scores of the prompt's frames by what is said in them; computed once for an utterance."""
        return self.content_keys(text) @ content_keys.transpose(2, 3) * (GAIN * self.content_weight[:, None, None])

    def preview(
        self,
        content_scores: Float[Tensor, "b h t s"],
        latents: Float[Tensor, "b n s c"],
        mask: Bool[Tensor, "b s"] | None,
    ) -> Float[Tensor, "b t d"]:
        """How the prompt says what is alike, for the states before the first block; computed once for an utterance."""
        heard = _real(content_scores, mask).softmax(-1) @ (latents[:, -1] / self.scale[0])[:, None]  # (b, h, t, c)
        return self.content_proj(rearrange(heard, "b h t c -> b t (h c)"))

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        known: Float[Tensor, "b t c"],
        layer: Int[Tensor, " b"],
        keys: Float[Tensor, "b h s k"],
        latents: Float[Tensor, "b n s c"],
        mask: Bool[Tensor, "b s"] | None,
        content_scores: Float[Tensor, "b h t s"] | None = None,
        sharpness: float = 1.0,
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b t c"]]:
        """The states with what was found added, and the part of the residual (standard units) that is copied.

        Args:
            known: code vectors of the frames, summed over the layers that are known.
            latents: the same of the prompt's frames, over the first 0, 1, ..., N layers.
            mask: None when no prompt is padded.
            sharpness: divides `bandwidth`; above 1, fewer frames are copied.
        """
        below, whole = latents[torch.arange(len(x), device=x.device), layer], latents[:, -1]  # (b, s, c)
        query = rearrange(self.query(self.norm(x)), "b t (h c) -> b h t c", h=self.heads)
        content = (query @ keys.transpose(2, 3)).float() * query.shape[-1] ** -0.5
        with torch.autocast(x.device.type, enabled=False):
            # minus the squared distance, up to what is the same for all frames of the prompt
            near = 2 * known @ below.transpose(1, 2) - below.square().sum(-1)[:, None]  # (b, t, s)
            content = content if content_scores is None else content + content_scores.float()
            score = content + near[:, None] * (sharpness / self.bandwidth[:, None, None])
            weight = _real(score, mask).softmax(-1)  # (b, h, t, s)
            scale = self.scale[layer][:, None]  # (b, 1, c)
            copies = weight @ ((whole - below) / scale)[:, None]  # (b, h, t, c): what the higher layers add there
            apart = weight @ (whole / scale)[:, None] - (known / scale)[:, None]  # ... and what it takes to get there
            copies = torch.stack([copies, apart], 2)  # (b, h, 2, t, c)
        x = x + self.in_proj(rearrange(copies, "b h i t c -> b t (h i c)"))
        peak = weight.square().sum(-1)  # (b, h, t): 1 where a single frame was found, near 0 where all alike
        gate = self.copy_gate(torch.cat([x, peak.transpose(1, 2)], -1)).float()  # (b, t, 2 h)
        with torch.autocast(x.device.type, enabled=False):
            gate = rearrange(2 * gate.sigmoid(), "b t (h i) -> b h i t 1", i=2)
            copied = (copies * self.gate[layer][:, :, :, None] * gate).sum((1, 2))
        return x, copied


class VoiceModulation(nn.Module):
    """A voice as weights: scale and shift of the states after each SMD block (FiLM, Perez et al. 2018). Our choice.

    What a few gradient steps on a prompt do to a decoder, in one pass. At first it changes nothing.

    Args:
        embedding: width of a speaker embedding; 0: attention pools the prompt's states instead.
    """

    POOLS = 4

    def __init__(self, dim: int, blocks: int, embedding: int):
        super().__init__()
        self.blocks = blocks
        self.pool = None if embedding else nn.Linear(dim, self.POOLS)
        self.hidden = nn.Linear(embedding or self.POOLS * dim, dim)
        self.out = nn.Linear(dim, blocks * 2 * dim)
        for values in (self.out.weight, self.out.bias):
            nn.init.zeros_(values)

    def forward(
        self,
        states: Float[Tensor, "b s d"],
        mask: Bool[Tensor, "b s"],
        embedding: Float[Tensor, "b e"] | None = None,
    ) -> Float[Tensor, "b l 2 d"]:
        """From the prompt's states, or from an embedding of unit length."""
        if self.pool is None:
            voice = embedding * embedding.shape[-1] ** 0.5
        else:
            weight = self.pool(states).masked_fill(~mask[..., None], -torch.inf).softmax(1)  # (b, s, p)
            voice = (weight.transpose(1, 2) @ states).flatten(1)
        return self.out(F.silu(self.hidden(voice))).view(len(mask), self.blocks, 2, -1)


def _real(score: Float[Tensor, "b h t s"], mask: Bool[Tensor, "b s"] | None) -> Float[Tensor, "b h t s"]:
    """Scores of the prompt's frames, with padding out of the question."""
    return score if mask is None else score.masked_fill(~mask[:, None, None], -torch.inf)
