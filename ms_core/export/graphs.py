"""The parts of MobileSpeech as modules that become ONNX graphs, each for one utterance of any length, without padding.

The modules reuse the model's own layers, with two rewritings that keep its numbers up to rounding: the prior's linear
map of a code vector is folded into the code embedding, and the prior's constants are folded into one factor.

=========== ================================================= ==========================================
graph       inputs                                            outputs
=========== ================================================= ==========================================
text        phones (1, p), duration_states                    states (1, p, d), log_durations (1, p)
prompt      prompt_codes (1, n, s), prompt_phones (1, q),     prompt_mean (1, d), cross (2, 1, h, s, c),
            prompt_frame_phones (1, s),                       prefix (2, L, 1, h, s, c),
            prompt_durations (1, q)                           copy_keys (1, h, s, c), copy_latents (1, n + 1, s, v),
                                                              duration_states (1, q, d)
condition   states, index (t), place (1, t, 2), prompt_mean,  text (1, t, d), content_scores (1, h, t, s)
            cross, prompt_states (1, q, d),
            prompt_index (s), prompt_place (1, s, 2),
            copy_latents
smd         text, content_scores, codes (1, n, t), layer (1),       logits (1, r, bins)
            frames (r), prefix, copy_keys, copy_latents
codec       latent (1, c, t)                                  log_f0 (1, k), pulse, phase, noise (1, k, f)
=========== ================================================= ==========================================

`cross` and `prefix` hold attention keys, then values; `prompt_states` are the `states` of the prompt's own phones. So
`prompt` and then `text` run once for a voice, `text` and `condition` once for an utterance, `smd` once for a decoding
pass; it yields logits of the asked frames alone. What a config switches off has no input and no output.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ms_core.additions import GAIN
from ms_core.codec.mini import MiniCodec
from ms_core.model import MobileSpeechModel
from ms_core.prompt import PromptStates
from ms_core.smd import SpeechMaskDecoder


def wide(x: Tensor) -> Tensor:
    """fp32 of what was gathered from a table that may be stored in fp16; no operator where it is fp32 already."""
    return x if x.dtype == torch.float32 else x.float()


class TextGraph(nn.Module):
    """Phone encoder and duration predictor."""

    def __init__(self, model: MobileSpeechModel):
        super().__init__()
        self.text, self.duration = model.text, model.duration

    def forward(self, phones: Tensor, duration_states: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.text.embedding(phones)
        for block in self.text.blocks:
            x = block(x, None)
        return x, self.duration(x, None, duration_states, None)


class CodeEmbedding(nn.Module):
    """`SpeechMaskDecoder.embed` as one table lookup: the prior's linear map of a code vector is part of its row."""

    @torch.no_grad()
    def __init__(self, smd: SpeechMaskDecoder):
        super().__init__()
        table = smd.embedding.weight.detach().clone()
        if smd.prior is not None:
            in_proj = smd.prior.in_proj
            books = smd.prior.codebooks / smd.prior.scale[0]  # (n, bins + 1, c)
            table += (books @ in_proj.weight.T).flatten(0, 1)
            table += in_proj.bias / smd.n_q  # each frame sums one row of every layer
        self.embedding = nn.Parameter(table)  # (n * (bins + 1), d)
        self.rows = smd.bins + 1

    def forward(self, codes: Tensor) -> Tensor:
        offset = torch.arange(codes.shape[1])[:, None] * self.rows
        return wide(nn.functional.embedding(codes + offset, self.embedding)).sum(1)


class CodeVectors(nn.Module):
    """The codec's code vectors as one table, MASK (a zero vector) last in each layer."""

    @torch.no_grad()
    def __init__(self, smd: SpeechMaskDecoder):
        super().__init__()
        self.vectors = nn.Parameter(smd.prior.codebooks.detach().flatten(0, 1).clone())  # (n * (bins + 1), c)
        self.bins = smd.bins

    def forward(self, codes: Tensor) -> Tensor:
        """Of each code: (1, n, t, c)."""
        offset = torch.arange(codes.shape[1])[:, None] * (self.bins + 1)
        return wide(nn.functional.embedding(codes + offset, self.vectors))

    def book(self, layer: Tensor) -> Tensor:
        """Those of one layer: (bins, c)."""
        return wide(nn.functional.embedding(layer * (self.bins + 1) + torch.arange(self.bins), self.vectors))


class PromptGraph(nn.Module):
    """Everything of a voice."""

    def __init__(self, model: MobileSpeechModel, embedding: CodeEmbedding, vectors: CodeVectors | None):
        super().__init__()
        self.embed, self.prompt, self.extractor = embedding, model.prompt, model.extractor
        self.copy, self.code_vectors = model.smd.copy, vectors
        self.prefix = nn.ModuleList(b.attention for b in model.smd.blocks) if model.config.prefix else None

    def forward(
        self,
        prompt_codes: Tensor,
        prompt_frame_phones: Tensor,
        prompt_phones: Tensor | None = None,
        prompt_durations: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        x = self.embed(prompt_codes) + self.prompt.phone(prompt_frame_phones)
        for block in self.prompt.blocks:
            x = block(x, None)
        out = [self.prompt.mean(x.mean(1))]
        if self.prompt.attention is not None:
            out.append(torch.stack(self.prompt.attention.keys_values(x)))
        if self.prefix is not None:
            keys, values = zip(*(attention.prompt_cache(x) for attention in self.prefix), strict=True)
            out.append(torch.stack([torch.stack(keys), torch.stack(values)]))
        if self.copy is not None:
            sums = self.code_vectors(prompt_codes).cumsum(1)
            out += [self.copy.keys(x), torch.cat([torch.zeros_like(sums[:, :1]), sums], 1)]
        if self.extractor is not None:
            seconds = torch.log1p(prompt_durations.float())[..., None]
            y = self.extractor.embedding(prompt_phones) + self.extractor.duration(seconds)
            out.append(self.extractor.block(y, None))
        return tuple(out)


class ConditionGraph(nn.Module):
    """Length regulator and cross-attention: `MobileSpeechModel.expand` with the regulator's indices given."""

    def __init__(self, model: MobileSpeechModel):
        super().__init__()
        self.prompt, self.position_in_phone, self.copy = model.prompt, model.position_in_phone, model.smd.copy

    def forward(
        self,
        states: Tensor,
        index: Tensor,
        place: Tensor,
        prompt_mean: Tensor,
        cross: Tensor | None = None,
        prompt_states: Tensor | None = None,
        prompt_index: Tensor | None = None,
        prompt_place: Tensor | None = None,
        copy_latents: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        expanded = states.index_select(1, index) + self.position_in_phone(place)
        kept = None if cross is None else (cross[0], cross[1])
        text = self.prompt.attend(expanded, PromptStates(None, prompt_mean, kept, ()))
        if self.copy is None:
            return (text,)
        content_keys = self.copy.content_keys(
            prompt_states.index_select(1, prompt_index) + self.position_in_phone(prompt_place)
        )
        content_scores = self.copy.content_scores(expanded, content_keys)
        return text + self.copy.preview(content_scores, copy_latents, None), content_scores


class SmdGraph(nn.Module):
    """One pass of the speech mask decoder: `SpeechMaskDecoder.forward`, the head and prior of one layer picked."""

    def __init__(
        self, smd: SpeechMaskDecoder, embedding: CodeEmbedding, vectors: CodeVectors | None, sharpness: float = 1.0
    ):
        super().__init__()
        self.sharpness = sharpness
        self.embed, self.layer, self.blocks = embedding, smd.layer, smd.blocks
        self.head, self.bias, self.prior = smd.head, smd.bias, smd.prior
        self.copy, self.copy_at, self.code_vectors = smd.copy, smd.copy_at, vectors
        if smd.prior is not None:
            prior = smd.prior
            _, half_norm = prior.geometry(torch.arange(smd.n_q))
            self.half_norm = nn.Parameter(half_norm.detach())  # (n, 1, bins)
            self.factor = nn.Parameter(((GAIN * prior.log_precision).exp() / prior.scale).detach())  # (n, c)

    def forward(
        self,
        text: Tensor,
        codes: Tensor,
        layer: Tensor,
        frames: Tensor,
        prefix: Tensor | None = None,
        copy_keys: Tensor | None = None,
        copy_latents: Tensor | None = None,
        content_scores: Tensor | None = None,
    ) -> Tensor:
        x = text + self.embed(codes) + self.layer(layer)[:, None]
        copied = None
        for i, block in enumerate(self.blocks):
            if self.copy is not None and i == self.copy_at:
                known = self.code_vectors(codes).sum(1)
                x, copied = self.copy(x, known, layer, copy_keys, copy_latents, None, content_scores, self.sharpness)
            x = block(x, None, None if prefix is None else (prefix[0, i], prefix[1, i]))
        x = x.index_select(1, frames)  # (1, r, d)
        logits = x @ wide(self.head.index_select(0, layer)) + self.bias.index_select(0, layer)
        if self.prior is None:
            return logits
        residual = x @ wide(self.prior.residual.index_select(0, layer))  # (1, r, c), standard units
        residual = residual if copied is None else residual + copied.index_select(1, frames)
        weighted = residual * self.factor.index_select(0, layer)
        prior = weighted @ self.code_vectors.book(layer).T - self.half_norm.index_select(0, layer)
        return logits + prior * self.prior.confidence(x).index_select(2, layer).exp()


class CodecGraph(nn.Module):
    """The codec's network, time before frequency."""

    def __init__(self, codec: MiniCodec):
        super().__init__()
        self.decoder = codec.decoder

    def forward(self, latent: Tensor) -> tuple[Tensor, ...]:
        log_f0, *filters = self.decoder.controls(latent)
        return log_f0, *(x.transpose(1, 2) for x in filters)


@dataclass(frozen=True)
class Graph:
    """A module with an example of each input, the axes that may have any length, and its outputs' names."""

    module: nn.Module
    inputs: dict[str, Tensor]
    axes: dict[str, dict[int, str]]
    outputs: tuple[str, ...]


def graphs(model: MobileSpeechModel, codec: MiniCodec, sharpness: float = 1.0) -> dict[str, Graph]:
    """The five graphs of a codec and its model; sharpness: `DecodingConfig.copy_sharpness`.

    The examples' lengths are all different, so that no two are taken for one.
    """
    config, n_q = model.config, codec.config.n_q
    d, heads = config.dim, config.heads

    def ids(*shape: int) -> Tensor:
        return torch.ones(shape, dtype=torch.int64)

    p, q, s, t, r = 11, 7, 23, 37, 19
    cross = torch.zeros(2, 1, heads, s, d // heads)
    prefix = torch.zeros(2, config.smd_layers, 1, heads, s, d // heads)
    latents = torch.zeros(1, n_q + 1, s, codec.config.latent_dim)
    copies = {"copy_keys": torch.zeros(1, heads, s, d // heads), "copy_latents": latents}
    words = {"prompt_states": torch.zeros(1, q, d), "prompt_index": ids(s), "prompt_place": torch.zeros(1, s, 2)}
    embedding = CodeEmbedding(model.smd)
    vectors = None if model.smd.prior is None else CodeVectors(model.smd)

    inputs = {
        "text": {"phones": ids(1, p), "duration_states": torch.zeros(1, q, d)},
        "prompt": {"prompt_codes": ids(1, n_q, s), "prompt_frame_phones": ids(1, s),
                   "prompt_phones": ids(1, q), "prompt_durations": ids(1, q)},
        "condition": {"states": torch.zeros(1, p, d), "index": ids(t), "place": torch.zeros(1, t, 2),
                      "prompt_mean": torch.zeros(1, d), "cross": cross, **words, "copy_latents": latents},
        "smd": {"text": torch.zeros(1, t, d), "codes": ids(1, n_q, t), "layer": ids(1), "frames": ids(r),
                "prefix": prefix, **copies, "content_scores": torch.zeros(1, heads, t, s)},
        "codec": {"latent": torch.zeros(1, codec.config.latent_dim, t)},
    }  # fmt: skip
    axes = {
        "phones": {1: "p"}, "duration_states": {1: "q"}, "prompt_codes": {2: "s"}, "prompt_frame_phones": {1: "s"},
        "prompt_phones": {1: "q"}, "prompt_durations": {1: "q"}, "states": {1: "p"}, "index": {0: "t"},
        "place": {1: "t"}, "prompt_mean": {}, "cross": {3: "s"}, "text": {1: "t"}, "codes": {2: "t"}, "layer": {},
        "frames": {0: "r"}, "prefix": {4: "s"}, "copy_keys": {2: "s"}, "copy_latents": {2: "s"}, "latent": {2: "t"},
        "prompt_states": {1: "q"}, "prompt_index": {0: "s"}, "prompt_place": {1: "s"},
        "content_scores": {2: "t", 3: "s"},
    }  # fmt: skip
    outputs = {
        "text": ("states", "log_durations"),
        "prompt": ("prompt_mean", "cross", "prefix", "copy_keys", "copy_latents", "duration_states"),
        "condition": ("text", "content_scores"),
        "smd": ("logits",),
        "codec": ("log_f0", "pulse", "phase", "noise"),
    }
    modules = {
        "text": TextGraph(model),
        "prompt": PromptGraph(model, embedding, vectors),
        "condition": ConditionGraph(model),
        "smd": SmdGraph(model.smd, embedding, vectors, sharpness),
        "codec": CodecGraph(codec),
    }
    switches = {
        "cross": config.cross_attention,
        "prefix": config.prefix,
        **dict.fromkeys(("copy_keys", "copy_latents", "content_scores", *words), model.smd.copy is not None),
        **dict.fromkeys(("duration_states", "prompt_phones", "prompt_durations"), config.prompt_durations),
    }
    off = {name for name, on in switches.items() if not on}
    return {
        name: Graph(
            module.eval(),
            {k: v for k, v in inputs[name].items() if k not in off},
            {k: axes[k] for k in inputs[name] if k not in off},
            tuple(k for k in outputs[name] if k not in off),
        )
        for name, module in modules.items()
    }
