"""Speed beside peers: networks of their published shapes with random weights, timed in turns with ours.

The paper (section 4) sets its RTF beside those of an autoregressive codec language model and others. Weights of these
are large or not to be had, but how long a pass takes depends on shapes alone. Each class says what is published, from
where we know it, and what is left out; what is left out is never counted, which favours the peer. A peer is timed by a
few units (one step, one pass), each of which its published decoding runs so and so many times.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from ms_core.evaluation.bench import PHONES_PER_SECOND, in_turns, seconds_of, text_of_length, torch_threads
from ms_core.evaluation.eval_set import PROMPT_SECONDS
from ms_core.evaluation.records import Provenance, Record, bootstrap
from ms_core.layers import ConformerBlock, ConvModule

MEL_RATE = 24_000 / 256  # frames a second of ZipVoice
MELS = 100


def sinusoids(positions: Float[Tensor, " t"], dim: int) -> Float[Tensor, "t d"]:
    """Sines and cosines of positions or times (Vaswani et al. 2017)."""
    rate = 10_000.0 ** (-torch.arange(dim // 2, device=positions.device) / (dim // 2))
    angle = positions[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], -1)


class Layer(nn.Module):
    """Pre-norm Transformer layer; causal with a cache of keys and values, or bidirectional."""

    def __init__(self, dim: int, heads: int, ffn: int):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed = nn.Sequential(nn.Linear(dim, ffn), nn.ReLU(), nn.Linear(ffn, dim))

    def forward(
        self, x: Tensor, causal: bool, cache: Tensor | None = None, first: int = 0, scales: Tensor | None = None
    ) -> Float[Tensor, "b t d"]:
        """first: position of x (b, t, d) in the cache (2, b, h, longest, c), which is written there and read up to it.
        scales: factor and shift (2, 2, d) of both norms' outputs (adaptive norm).
        """

        def norm(index: int, x: Tensor) -> Tensor:
            y = self.norms[index](x)
            return y if scales is None else y * scales[index, 0] + scales[index, 1]

        query, key, value = rearrange(self.query_key_value(norm(0, x)), "b t (n h c) -> n b h t c", n=3, h=self.heads)
        if cache is not None:
            last = first + x.shape[1]
            cache[0, :, :, first:last], cache[1, :, :, first:last] = key, value
            key, value = cache[0, :, :, :last], cache[1, :, :, :last]
        y = F.scaled_dot_product_attention(query, key, value, is_causal=causal and x.shape[1] > 1)
        x = x + self.out(rearrange(y, "b h t c -> b t (h c)"))
        return x + self.feed(norm(1, x))


class ValleShape(nn.Module):
    """VALL-E (Wang et al. 2023): a causal Transformer for the first EnCodec layer, another for the other seven.

    Published: twice 12 layers, d = 1024, 16 heads, FFN 4096, EnCodec at 75 Hz with 8 codebooks of 1024; adaptive norms
    by stage in the second (here tables, since a stage's factors are constants). 150 M each by the card of the open
    VALL-E X. The activation (ReLU) is recalled. Left out: phonemiser, sampling of tokens, EnCodec.
    """

    rate = 75.0

    def __init__(self, dim=1024, layers=12, heads=16, ffn=4096, n_q=8, bins=1024, phones=128):
        super().__init__()
        self.dim, self.heads, self.n_q, self.bins, self.n_phones = dim, heads, n_q, bins, phones
        self.phones = nn.ModuleList(nn.Embedding(phones, dim) for _ in range(2))
        self.first_codes = nn.Embedding(bins + 1, dim)  # one more: the end
        self.codes = nn.ModuleList(nn.Embedding(bins, dim) for _ in range(n_q))
        self.ar, self.nar = (nn.ModuleList(Layer(dim, heads, ffn) for _ in range(layers)) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.stages = nn.Parameter(
            torch.stack([torch.ones(n_q - 1, layers, 2, dim), torch.zeros(n_q - 1, layers, 2, dim)], 3)
        )
        self.first_head = nn.Linear(dim, bins + 1, bias=False)
        self.heads_out = nn.ModuleList(nn.Linear(dim, bins, bias=False) for _ in range(n_q - 1))

    def new_cache(self, longest: int) -> Float[Tensor, "layers 2 1 h longest c"]:
        """Room for the keys and values of `longest` positions of one utterance."""
        return torch.zeros(len(self.ar), 2, 1, self.heads, longest, self.dim // self.heads)

    def _causal(self, x: Tensor, cache: Tensor | None, first: int) -> Tensor:
        x = x + sinusoids(torch.arange(first, first + x.shape[1]).float(), self.dim)
        for index, layer in enumerate(self.ar):
            x = layer(x, True, None if cache is None else cache[index], first)
        return self.first_head(self.norms[0](x))

    def prefill(self, phones: Int[Tensor, "1 p"], codes: Int[Tensor, "1 s"], cache: Tensor | None = None) -> Tensor:
        """Logits (1, t, bins) of the autoregressive part at phones and first-layer codes: t = p + s."""
        return self._causal(torch.cat([self.phones[0](phones), self.first_codes(codes)], 1), cache, 0)

    def step(self, code: Int[Tensor, "1 1"], cache: Tensor, position: int) -> Float[Tensor, "1 1 bins"]:
        """Logits after one more code, which stands at `position` behind what the cache holds."""
        return self._causal(self.first_codes(code), cache, position)

    def fill(self, phones: Int[Tensor, "1 p"], prompt: Int[Tensor, "1 n s"], codes: Int[Tensor, "1 k t"]) -> Tensor:
        """One pass of the second part: logits (1, t, bins) of layer k + 1 out of the k layers below."""
        known = codes.shape[1]
        grids = (zip(self.codes, grid.unbind(1), strict=False) for grid in (prompt, codes))
        x = torch.cat([self.phones[1](phones), *(sum(table(row) for table, row in grid) for grid in grids)], 1)
        x = x + sinusoids(torch.arange(x.shape[1]).float(), self.dim)
        for layer, scales in zip(self.nar, self.stages[known - 1], strict=True):
            x = layer(x, False, scales=scales)
        return self.heads_out[known - 1](self.norms[1](x[:, -codes.shape[2] :]))


class WideConvModule(ConvModule):
    """The Conformer's convolution over twice the channels, as in soundstorm-pytorch (conv_expansion_factor 2)."""

    def __init__(self, dim: int, kernel: int):
        super().__init__(dim, kernel)
        self.in_proj = nn.Linear(dim, 4 * dim)
        self.depthwise = nn.Conv1d(2 * dim, 2 * dim, kernel, padding=kernel // 2, groups=2 * dim)
        self.inner_norm = nn.LayerNorm(2 * dim)
        self.out_proj = nn.Linear(2 * dim, dim)


class SoundStormShape(nn.Module):
    """SoundStorm (Borsos et al. 2023): a Conformer over summed embeddings of semantic tokens and 12 levels of codes.

    Published: 350 M parameters, 12 layers, d = 1024, 16 heads, FFN 4096, convolution of kernel 5, rotary positions,
    SoundStream of 12 levels at 50 Hz, passes (16, 1, ..., 1). The width inside the convolution is the one of the public
    soundstorm-pytorch, with which the parameters come out as published; that package itself needs two more systems.
    Left out: the autoregressive model that makes semantic tokens of text, sampling of tokens, SoundStream.
    """

    rate = 50.0

    def __init__(self, dim=1024, layers=12, heads=16, mult=4, kernel=5, levels=12, bins=1024):
        super().__init__()
        self.levels, self.bins = levels, bins
        self.semantic = nn.Embedding(bins, dim)
        self.codes = nn.ModuleList(nn.Embedding(bins + 1, dim) for _ in range(levels))  # one more: the mask
        self.blocks = nn.ModuleList(ConformerBlock(dim, heads, mult, kernel, 0.0) for _ in range(layers))
        for block in self.blocks:
            block.convolution = WideConvModule(dim, kernel)
        self.heads_out = nn.ModuleList(nn.Linear(dim, bins) for _ in range(levels))

    def forward(self, semantic: Int[Tensor, "1 t"], codes: Int[Tensor, "1 n t"], level: int) -> Tensor:
        """One pass: logits (1, t, bins) of a level (0-based) at every frame of prompt and output."""
        x = self.semantic(semantic) + sum(table(row) for table, row in zip(self.codes, codes.unbind(1), strict=True))
        for block in self.blocks:
            x = block(x, None)
        return self.heads_out[level](x)


def swoosh(x: Tensor, offset: float) -> Tensor:
    """Zipformer's activation (Yao et al. 2023): SwooshL for offset 4, SwooshR for 1, up to a constant."""
    return F.softplus(x - offset) - 0.08 * x


def two(inner: int, outer: int, between: int | None = None) -> nn.ModuleList:
    """Two linear layers, what stands between them being given where they are called."""
    return nn.ModuleList([nn.Linear(outer, inner), nn.Linear(between or inner, outer)])


class ZipformerLayer(nn.Module):
    """Zipformer layer: attention weights, computed once, serve two attentions and a gated one; three feed-forwards.

    Its convolutions: pointwise GLU, depthwise, SwooshR, pointwise.
    """

    query_dim, position_dim, value_dim, offsets_dim = 32, 4, 12, 48  # of each head; the last, of relative positions

    def __init__(self, dim: int, heads: int, ffn: int, kernel: int):
        super().__init__()
        self.heads = heads
        self.weights = nn.Linear(dim, (2 * self.query_dim + self.position_dim) * heads)
        self.offsets = nn.Linear(self.offsets_dim, heads * self.position_dim, bias=False)
        self.feeds = nn.ModuleList(two(width, dim) for width in (ffn * 3 // 4, ffn, ffn * 5 // 4))
        self.gated = two(3 * (dim * 3 // 4), dim, dim * 3 // 4)
        self.attentions = nn.ModuleList(two(heads * self.value_dim, dim) for _ in range(2))
        self.glus = nn.ModuleList(two(2 * dim, dim, dim) for _ in range(2))
        depthwise = {"padding": kernel // 2, "groups": dim}
        self.depthwise = nn.ModuleList(nn.Conv1d(dim, dim, kernel, **depthwise) for _ in range(2))
        self.norm_bias = nn.Parameter(torch.zeros(dim))
        self.norm_scale = nn.Parameter(torch.zeros(()))
        self.bypass = nn.Parameter(torch.full((2, dim), 0.5))

    def _weights(self, x: Tensor, offsets: Tensor) -> Float[Tensor, "1 h t t"]:
        sizes = [self.query_dim * self.heads, self.query_dim * self.heads, self.position_dim * self.heads]
        query, key, position = (
            rearrange(y, "b t (h c) -> b h t c", h=self.heads) for y in self.weights(x).split(sizes, -1)
        )
        offset = rearrange(self.offsets(offsets), "o (h c) -> h c o", h=self.heads)
        t = x.shape[1]
        relative = (position @ offset).contiguous()  # (b, h, t, 2t - 1): row i holds offsets -(t-1)..t-1
        batch, head, row, _ = relative.stride()
        absolute = relative.as_strided((*relative.shape[:3], t), (batch, head, row - 1, 1), t - 1)  # [i, t-1-i+j]
        return (query @ key.transpose(2, 3) + absolute).softmax(-1)

    def _feed(self, index: int, x: Tensor) -> Tensor:
        inner, outer = self.feeds[index]
        return x + outer(swoosh(inner(x), 4.0))

    def _gate(self, x: Tensor, weights: Tensor) -> Tensor:
        gate, value, factor = self.gated[0](x).chunk(3, -1)
        return x + self.gated[1](weights[:, 0] @ (value * gate.tanh()) * factor)

    def _attend(self, index: int, x: Tensor, weights: Tensor, moment: Tensor) -> Tensor:
        """Attention, then convolution."""
        inner, outer = self.attentions[index]
        value = rearrange(inner(x), "b t (h c) -> b h t c", h=self.heads)
        x = x + outer(rearrange(weights @ value, "b h t c -> b t (h c)")) + moment
        inner, outer = self.glus[index]
        return x + outer(swoosh(self.depthwise[index](F.glu(inner(x), -1).mT).mT, 1.0))

    def forward(self, x: Float[Tensor, "1 t d"], offsets: Float[Tensor, "o e"], moment: Tensor) -> Tensor:
        start, weights = x, self._weights(x, offsets)
        x = self._gate(self._feed(0, x + moment), weights)
        x = self._feed(1, self._attend(0, x, weights, moment))
        x = start + (x - start) * self.bypass[0]
        x = self._feed(2, self._attend(1, x, weights, moment))
        x = x * (x - self.norm_bias).square().mean(-1, keepdim=True).rsqrt() * self.norm_scale.exp()
        return start + (x - start) * self.bypass[1]


class ZipStack(nn.Module):
    """Zipformer layers at a lower frame rate: frames are averaged, at the end repeated and mixed with what came in."""

    def __init__(self, dim: int, heads: int, ffn: int, kernel: int, layers: int, factor: int, time_dim: int):
        super().__init__()
        self.factor = factor
        self.time = nn.Linear(time_dim, dim)
        self.layers = nn.ModuleList(ZipformerLayer(dim, heads, ffn, kernel) for _ in range(layers))
        self.average = nn.Parameter(torch.zeros(factor))
        self.bypass = nn.Parameter(torch.full((dim,), 0.5))

    def forward(self, x: Float[Tensor, "1 t d"], moment: Float[Tensor, "1 e"]) -> Float[Tensor, "1 t d"]:
        start, moment = x, self.time(swoosh(moment, 1.0))[:, None]
        if self.factor > 1:
            x = F.pad(x, (0, 0, 0, -x.shape[1] % self.factor))
            x = (rearrange(x, "b (t f) d -> b t f d", f=self.factor) * self.average.softmax(0)[:, None]).sum(2)
        width = ZipformerLayer.offsets_dim
        offset = torch.arange(1 - x.shape[1], x.shape[1], device=x.device).float()
        offset = (offset.sign() * (offset.abs() / width**0.5).log1p() * 2 * math.pi / width**0.5).atan()
        angle = offset[:, None] * torch.arange(1, width // 2 + 1, device=x.device)
        for layer in self.layers:
            x = layer(x, torch.cat([angle.cos(), angle.sin()], -1), moment)
        if self.factor == 1:
            return x
        x = x.repeat_interleave(self.factor, 1)[:, : start.shape[1]]
        return start + (x - start) * self.bypass


class ZipVoiceShape(nn.Module):
    """ZipVoice (Zhu et al. 2025): flow matching of mel frames by Zipformer stacks at several frame rates.

    Published: 123 M parameters; stacks of 2, 2, 4, 4, 4 layers at 1, 1/2, 1/4, 1/2, 1 of the frame rate, kernels 31,
    15, 7, 15, 31, d = 512, 4 heads, FFN 1536 (source: its repository's defaults), 100 mel bands at 24 kHz, hop 256.
    16 function evaluations, each of two passes (guidance); distilled 8 or 4 of one pass. Left out: the text encoder
    (4 layers of 192, once a text), the distilled model's embedding of the guidance, Vocos.
    """

    def __init__(
        self, dim=512, heads=4, ffn=1536, layers=(2, 2, 4, 4, 4), factors=(1, 2, 4, 2, 1), kernels=(31, 15, 7, 15, 31),
        time_dim=192,
    ):  # fmt: skip
        super().__init__()
        self.time_dim = time_dim
        self.time = two(2 * time_dim, time_dim)
        self.in_proj = nn.Linear(3 * MELS, dim)
        parts = zip(kernels, layers, factors, strict=True)
        self.stacks = nn.ModuleList(ZipStack(dim, heads, ffn, k, n, f, time_dim) for k, n, f in parts)
        self.out_proj = nn.Linear(dim, MELS)

    def forward(self, noisy: Tensor, prompt: Tensor, text: Tensor, moment: Tensor) -> Float[Tensor, "1 t m"]:
        """One pass: the velocity of every mel frame of prompt and output, all (1, t, m), at a moment (1,) of 0 to 1."""
        moment = self.time[1](swoosh(self.time[0](sinusoids(1000 * moment, self.time_dim)), 1.0))
        x = self.in_proj(torch.cat([noisy, text, prompt], -1))
        for stack in self.stacks:
            x = stack(x, moment)
        return self.out_proj(x)


class Plan(NamedTuple):
    """Units that can be run alone, and how often each system runs each of them for an utterance."""

    units: dict[str, Callable[[], object]]
    counts: dict[str, dict[str, float]]  # system without peer/ -> unit -> times


def valle_plan(model: ValleShape, prompt: float, seconds: float) -> Plan:
    """One pass over phones and prompt, a step for every frame of output, and a pass for each layer above the first.

    Steps are timed at the middle of the output: their cost grows evenly with what the cache holds.
    """
    frames, prompt_frames = max(2, round(model.rate * seconds)), max(1, round(model.rate * prompt))
    phones = torch.zeros(1, max(1, round(PHONES_PER_SECOND * (prompt + seconds))), dtype=torch.long)
    start = phones.shape[1] + prompt_frames
    cache = model.new_cache(start + frames)
    codes = torch.zeros(1, model.n_q, prompt_frames + frames, dtype=torch.long)
    known = codes[:, : max(1, model.n_q // 2), prompt_frames:]  # layers that are known in the pass that is timed
    units = {
        "prefill": lambda: model.prefill(phones, codes[:, 0, :prompt_frames], cache),
        "step": lambda: model.step(codes[:, 0, :1], cache, start + frames // 2),
        "pass": lambda: model.fill(phones, codes[..., :prompt_frames], known),
    }
    return Plan(units, {"vall-e-shape": {"prefill": 1, "step": frames, "pass": model.n_q - 1}})


def soundstorm_plan(model: SoundStormShape, prompt: float, seconds: float) -> Plan:
    """16 passes for the first level and one for each other, over prompt and output."""
    frames = max(1, round(model.rate * (prompt + seconds)))
    codes = torch.zeros(1, model.levels, frames, dtype=torch.long)
    return Plan({"pass": lambda: model(codes[:, 0], codes, 0)}, {"soundstorm-shape": {"pass": 16 + model.levels - 1}})


def zipvoice_plan(model: ZipVoiceShape, prompt: float, seconds: float) -> Plan:
    """16 function evaluations of two passes; 8 or 4 of one where guidance is distilled."""
    frames = max(1, round(MEL_RATE * (prompt + seconds)))
    mels, moment = torch.zeros(1, frames, MELS), torch.full((1,), 0.5)
    counts = {"zipvoice-shape-16nfe": 32, "zipvoice-distill-shape-8nfe": 8, "zipvoice-distill-shape-4nfe": 4}
    return Plan({"pass": lambda: model(mels, mels, mels, moment)}, {name: {"pass": n} for name, n in counts.items()})


class Peer(NamedTuple):
    """A network of a published shape, how it decodes, and what of the system is not counted."""

    build: Callable[[], nn.Module]
    plan: Callable[[nn.Module, float, float], Plan]
    left_out: str


PEERS = {
    "vall-e": Peer(ValleShape, valle_plan, "phonemiser, sampling and EnCodec"),
    "soundstorm": Peer(SoundStormShape, soundstorm_plan, "the model of semantic tokens, sampling and SoundStream"),
    "zipvoice": Peer(ZipVoiceShape, zipvoice_plan, "text encoder, mel analysis of the prompt and Vocos"),
}


@dataclass(frozen=True)
class Comparison:
    """One system beside ours: compute seconds of an utterance in every turn, by each."""

    system: str
    theirs: list[float]
    ours: list[float]
    audio_seconds: float
    params: int
    counts: dict[str, float]
    left_out: str


def compare(
    tts,
    prompt: np.ndarray | Path,
    prompt_text: str,
    seconds: float = 10.0,
    threads: int = 1,
    repeats: int = 5,
    seed: int = 0,
    peers: Mapping[str, Peer] = PEERS,
) -> list[Comparison]:
    """Time our synthesiser and every peer in turns: ours, peer, ours, peer, ...; text, prompt and voice as in `bench`.

    Every turn runs ours whole and each unit of the peer once; the peer speaks as many seconds as ours did. One network
    is in memory at a time (up to 1.4 GB). Raises ValueError for a length, thread or repeat count below one.
    """
    if seconds <= 0 or threads < 1 or repeats < 1:
        raise ValueError(f"seconds {seconds}, threads {threads}, repeats {repeats}: all must be positive")
    comparisons = []
    with torch_threads(threads):
        voice = tts.voice(prompt, prompt_text, PROMPT_SECONDS)
        text = text_of_length(tts, voice, seconds, seed)
        audio_seconds = len(tts.synthesize(text, voice, seed=seed)) / tts.sample_rate
    for peer in peers.values():
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(seed)
            model = peer.build().eval()
            units, systems = peer.plan(model, PROMPT_SECONDS, audio_seconds)
            runs = {"ours": lambda: tts.synthesize(text, voice, seed=seed), **units}
            spent = in_turns({k: lambda run=run: seconds_of(run) for k, run in runs.items()}, repeats, threads)
        for system, counts in systems.items():
            theirs = [sum(n * spent[name][turn] for name, n in counts.items()) for turn in range(repeats)]
            facts = audio_seconds, sum(p.numel() for p in model.parameters()), counts, peer.left_out
            comparisons.append(Comparison(system, theirs, spent["ours"], *facts))
        del model, units, runs
    return comparisons


def comparison_records(
    comparisons: Sequence[Comparison], provenance: Provenance, ours: str, seconds: float
) -> list[Record]:
    """Records of `compare`: rtf_total, time_ratio and params of `peer/<system>`.

    provenance: of the run with ours, the system that the ratio divides by; the peers' records name no checkpoint.
    """
    nameless = {"config_hash": None, "checkpoint_sha256": None, "codec_sha256": None}
    provenance, records = provenance.model_copy(update=nameless), []
    for one in comparisons:
        repeats, own = len(one.theirs), {"system": f"peer/{one.system}"}
        how = (
            f"random weights at the published sizes ({one.params / 1e6:.0f} M parameters); "
            f"{one.audio_seconds:.2f} s of speech, prompt of {PROMPT_SECONDS:g} s; timed {repeats} times each: "
            f"{', '.join(f'{name}, counted {n:g}' for name, n in one.counts.items())}; not counted: {one.left_out}"
        )
        ratios = np.divide(one.theirs, one.ours)
        ratio_how = (
            f"compute time over that of {ours} (text to waveform, voice enrolled), in turns in one run; "
            f"interval over {repeats} turns, which lie between {min(ratios):.1f} and {max(ratios):.1f}; {how}"
        )
        timed = {**own, "study": "bench", "n": repeats, "seconds": seconds}
        rtf, ratio = bootstrap(np.divide(one.theirs, one.audio_seconds)), bootstrap(ratios)
        counted = f"counted from the network that was timed; not in it: {one.left_out}"
        records += [
            provenance.record(rtf, **timed, metric="rtf_total", protocol=f"{how}; interval over repeats"),
            provenance.record(ratio, **timed, metric="time_ratio", protocol=ratio_how),
            provenance.record(one.params, **own, study="model", metric="params", n=1, protocol=counted),
        ]
    return records
