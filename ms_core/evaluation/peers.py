"""Speed beside peers: networks of their published shapes with random weights, timed in turns with ours.

The paper (section 4) sets its RTF beside those of an autoregressive codec language model and others. Weights of these
are large or not to be had, but how long a pass takes depends on shapes alone: the sizes of products, attention and
convolutions. Each class says what is published, from where we know it, and what is left out; what is left out is never
counted, which favours the peer: positions, and conditions that are added to a state, are left out of all. A peer is
timed by a few units (one step, one pass), each of which its published decoding runs so and so many times.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor, nn

from ms_core.evaluation.bench import PHONES_PER_SECOND, in_turns, seconds_of, text_of_length, torch_threads
from ms_core.evaluation.eval_set import PROMPT_SECONDS
from ms_core.evaluation.records import Provenance, Record, bootstrap
from ms_core.layers import ConformerBlock, ConvModule

MEL_RATE = 24_000 / 256  # frames a second of ZipVoice
MELS = 100


class Layer(nn.Module):
    """Pre-norm Transformer layer; causal with a cache of keys and values, or bidirectional."""

    def __init__(self, dim: int, heads: int, ffn: int):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed = nn.Sequential(nn.Linear(dim, ffn), nn.ReLU(), nn.Linear(ffn, dim))

    def forward(self, x: Tensor, causal: bool, cache: Tensor | None = None, first: int = 0) -> Float[Tensor, "b t d"]:
        """first: position of x (b, t, d) in the cache (2, b, h, longest, c), written there and read up to it."""
        states = self.query_key_value(self.norms[0](x))
        query, key, value = rearrange(states, "b t (n h c) -> n b h t c", n=3, h=self.heads)
        if cache is not None:
            last = first + x.shape[1]
            cache[0, :, :, first:last], cache[1, :, :, first:last] = key, value
            key, value = cache[0, :, :, :last], cache[1, :, :, :last]
        y = F.scaled_dot_product_attention(query, key, value, is_causal=causal and x.shape[1] > 1)
        x = x + self.out(rearrange(y, "b h t c -> b t (h c)"))
        return x + self.feed(self.norms[1](x))


class ValleShape(nn.Module):
    """VALL-E (Wang et al. 2023): a causal Transformer for the first EnCodec layer, another for the other seven.

    Published: twice 12 layers, d = 1024, 16 heads, FFN 4096, EnCodec at 75 Hz with 8 codebooks of 1024. 150 M each by
    the card of the open VALL-E X. The activation (ReLU) is recalled. The factors of the second's adaptive norms are
    constants of a stage, here those of its norms. Left out: phonemiser, sampling of tokens, EnCodec.
    """

    rate = 75.0

    def __init__(self, dim=1024, layers=12, heads=16, ffn=4096, n_q=8, bins=1024, phones=128):
        super().__init__()
        self.n_q, self.cache_shape = n_q, (layers, 2, 1, heads, dim // heads)
        self.phones = nn.ModuleList(nn.Embedding(phones, dim) for _ in range(2))
        self.first_codes = nn.Embedding(bins + 1, dim)  # one more: the end
        self.codes = nn.ModuleList(nn.Embedding(bins, dim) for _ in range(n_q))
        self.ar, self.nar = (nn.ModuleList(Layer(dim, heads, ffn) for _ in range(layers)) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.first_head = nn.Linear(dim, bins + 1, bias=False)
        self.heads_out = nn.ModuleList(nn.Linear(dim, bins, bias=False) for _ in range(n_q - 1))

    def new_cache(self, longest: int) -> Float[Tensor, "layers 2 1 h longest c"]:
        """Room for the keys and values of `longest` positions of one utterance."""
        return torch.zeros(*self.cache_shape[:4], longest, self.cache_shape[4])

    def _causal(self, x: Tensor, cache: Tensor | None, first: int) -> Tensor:
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
        grids = (zip(self.codes, grid.unbind(1), strict=False) for grid in (prompt, codes))
        x = torch.cat([self.phones[1](phones), *(sum(table(row) for table, row in grid) for grid in grids)], 1)
        for layer in self.nar:
            x = layer(x, False)
        return self.heads_out[codes.shape[1] - 1](self.norms[1](x[:, -codes.shape[2] :]))


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
        self.levels = levels
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


class Swoosh(nn.Module):
    """Zipformer's activation (Yao et al. 2023): SwooshL for offset 4, SwooshR for 1, up to a constant."""

    def __init__(self, offset: float):
        super().__init__()
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x - self.offset) - 0.08 * x


class ZipformerLayer(nn.Module):
    """Zipformer layer: attention weights, computed once, serve two attentions and a gated one; three feed-forwards.

    Left out: relative positions, BiasNorm and the bypasses, which are no products.
    """

    query_dim, value_dim = 32, 12  # of each head

    def __init__(self, dim: int, heads: int, ffn: int, kernel: int):
        super().__init__()
        self.heads, hidden, value = heads, dim * 3 // 4, heads * self.value_dim
        self.weights = nn.Linear(dim, 2 * self.query_dim * heads)
        widths = ffn * 3 // 4, ffn, ffn * 5 // 4
        self.feeds = nn.ModuleList(nn.Sequential(nn.Linear(dim, w), Swoosh(4.0), nn.Linear(w, dim)) for w in widths)
        self.gate_in, self.gate_out = nn.Linear(dim, 3 * hidden), nn.Linear(hidden, dim)
        self.values = nn.ModuleList(nn.Linear(dim, value) for _ in range(2))
        self.outs = nn.ModuleList(nn.Linear(value, dim) for _ in range(2))
        self.glus = nn.ModuleList(nn.Sequential(nn.Linear(dim, 2 * dim), nn.GLU()) for _ in range(2))
        self.depthwise = nn.ModuleList(nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim) for _ in range(2))
        self.mixes = nn.ModuleList(nn.Sequential(Swoosh(1.0), nn.Linear(dim, dim)) for _ in range(2))

    def forward(self, x: Float[Tensor, "1 t d"]) -> Float[Tensor, "1 t d"]:
        query, key = rearrange(self.weights(x), "b t (n h c) -> n b h t c", n=2, h=self.heads)
        weights = (query @ key.mT).softmax(-1)  # (1, h, t, t)
        x = x + self.feeds[0](x)
        gate, value, factor = self.gate_in(x).chunk(3, -1)
        x = x + self.gate_out(weights[:, 0] @ (value * gate.tanh()) * factor)
        for i in range(2):
            values = rearrange(self.values[i](x), "b t (h c) -> b h t c", h=self.heads)
            x = x + self.outs[i](rearrange(weights @ values, "b h t c -> b t (h c)"))
            x = x + self.mixes[i](self.depthwise[i](self.glus[i](x).mT).mT)
            x = x + self.feeds[1 + i](x)
        return x


class ZipVoiceShape(nn.Module):
    """ZipVoice (Zhu et al. 2025): flow matching of mel frames by Zipformer stacks at several frame rates.

    Published: 123 M parameters; stacks of 2, 2, 4, 4, 4 layers at 1, 1/2, 1/4, 1/2, 1 of the frame rate, kernels 31,
    15, 7, 15, 31, d = 512, 4 heads, FFN 1536 (source: its repository's defaults), 100 mel bands at 24 kHz, hop 256.
    16 function evaluations, each of two passes (guidance); distilled 8 or 4 of one pass. Left out: the text encoder
    (4 layers of 192, once a text), the embeddings of time and guidance, Vocos.
    """

    def __init__(
        self, dim=512, heads=4, ffn=1536, layers=(2, 2, 4, 4, 4), factors=(1, 2, 4, 2, 1), kernels=(31, 15, 7, 15, 31)
    ):
        super().__init__()
        self.in_proj, self.factors = nn.Linear(3 * MELS, dim), factors
        stacks = zip(kernels, layers, strict=True)
        self.stacks = nn.ModuleList(
            nn.Sequential(*(ZipformerLayer(dim, heads, ffn, kernel) for _ in range(count))) for kernel, count in stacks
        )
        self.out_proj = nn.Linear(dim, MELS)

    def forward(self, noisy: Tensor, prompt: Tensor, text: Tensor) -> Float[Tensor, "1 t m"]:
        """One pass: the velocity of every mel frame of prompt and output, all (1, t, m)."""
        x = self.in_proj(torch.cat([noisy, text, prompt], -1))
        for factor, stack in zip(self.factors, self.stacks, strict=True):  # averaged frames, repeated at the end
            fewer = reduce(F.pad(x, (0, 0, 0, -x.shape[1] % factor)), "b (t f) d -> b t d", "mean", f=factor)
            x = x + stack(fewer).repeat_interleave(factor, 1)[:, : x.shape[1]]
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
    mels = torch.zeros(1, max(1, round(MEL_RATE * (prompt + seconds))), MELS)
    counts = {"zipvoice-shape-16nfe": 32, "zipvoice-distill-shape-8nfe": 8, "zipvoice-distill-shape-4nfe": 4}
    return Plan({"pass": lambda: model(mels, mels, mels)}, {name: {"pass": n} for name, n in counts.items()})


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
    peers: Mapping[str, Peer] | None = None,
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
    for peer in (PEERS if peers is None else peers).values():
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
