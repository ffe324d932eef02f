"""Training batches out of tokens that lie whole on the training device, drawn and varied there.

An example is a window of whole words as target, and as prompt a part of another utterance of the speaker, or of the
same one. A batch is a few dozen tensor operations for all of its examples, which neither wait for the processor nor
read a file; its shapes come from a short list, so that a CUDA graph can hold the step. Batch k is a pure function of
(tokens, config, rank, k). All our choice.

Phrases, runs of a few words between pauses, are how short texts are said: a window of a longer utterance has the words
in the midst of others, shorter, without a beginning and an end. In half of the examples long silences become "," or "."
as a written text would have them (LibriSpeech's have no punctuation), so that the model learns both kinds of text.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ms_core.codec import Codec
from ms_core.codec.mini import MEL_FLOOR, MiniCodec
from ms_core.config import TrainConfig
from ms_core.text import phone_ids
from ms_core.tokens import BOUNDARY_IDS, COMMA_SECONDS, PAD_TO, PHRASE_WORDS, STOP_SECONDS, Batch
from ms_core.training.pack import PackError, Utterances

POOL = 8  # batches that a CPU draws at once, so that each holds targets of about one length
PHONES_A_FRAME = 0.5  # room for phones in a window of so many frames: 25 a second, boundaries included


@dataclass(frozen=True)
class Shape:
    """One shape of batch: examples, longest target and longest prompt in frames, and how often it is drawn."""

    examples: int
    target: int
    prompt: int
    share: float

    @property
    def phones(self) -> tuple[int, int]:
        """Room for phones in target and prompt."""
        return tuple(-(-round(frames * PHONES_A_FRAME) // 8) * 8 for frames in (self.target, self.prompt))


def shapes_of(config: TrainConfig, frame_rate: float) -> list[Shape]:
    """Shapes of about `batch_seconds` of target speech: one for each of `prompt_lengths`.

    Long prompts go with shorter targets, so that every shape costs about the same.
    """
    lengths = config.prompt_lengths or (config.prompt_seconds,)
    out = []
    for seconds in lengths:
        longest = max(config.max_seconds - max(0.0, seconds - 3.0) * 0.5, config.max_seconds / 2)
        target, prompt = (-(-round(s * frame_rate) // PAD_TO) * PAD_TO for s in (longest, seconds))
        out.append(Shape(max(1, round(config.batch_seconds * frame_rate / target)), target, prompt, 1 / len(lengths)))
    return out


class TokenBatches:
    """An endless stream of batches from `Utterances` on a device.

    config: `other_utterance`, `own_prompt` and `phrases` are shares of the examples; `timbre_db`, `virtual_voices` and
    `noisy_prompts` vary the features, for which `codec` is asked.
    """

    def __init__(
        self, speech: Utterances, codec: Codec, config: TrainConfig, device: torch.device | str, rank: int = 0
    ):
        self.config, self.rank, self.device = config, rank, torch.device(device)
        self.rate = codec.config.frame_rate
        self.shapes = shapes_of(config, self.rate)
        boundary = np.isin(speech.phones, list(BOUNDARY_IDS))
        ends = np.cumsum(speech.durations.astype(np.int64))
        at = np.flatnonzero(boundary)  # the boundary phones of all utterances
        owner = np.searchsorted(speech.phone_ends, at, "right")
        first = np.searchsorted(owner, np.arange(len(speech.phone_ends)), "left")
        last = np.searchsorted(owner, np.arange(len(speech.phone_ends)), "right") - 1
        if (last - first < 1).any():
            raise PackError("an utterance has no word between two boundaries; write the pack again")
        starts = ends[at] - speech.durations[at]
        pause = speech.durations[at] >= round(STOP_SECONDS * self.rate)
        runs = [[] for _ in speech.phone_ends]  # (first, last boundary) of a few words between pauses
        pauses = np.flatnonzero(pause)
        for i, a in enumerate(pauses):
            for b in pauses[i + 1 : i + 1 + PHRASE_WORDS]:
                if b - a <= PHRASE_WORDS and owner[a] == owner[b]:
                    runs[owner[a]].append((a, b))
        counts = np.array([len(r) for r in runs])
        flat = np.array([pair for r in runs for pair in r] or [(0, 1)])
        speakers = speech.speakers
        begin = np.searchsorted(speakers, np.arange(speakers[-1] + 1), "left")
        number = np.bincount(speakers, minlength=len(begin))

        def put(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

        self.phones, self.durations = put(speech.phones).long(), put(speech.durations).long()
        self.codes = put(speech.codes)
        self.at, self.starts, self.ends = put(at), put(starts), put(ends[at])
        self.first, self.last = put(first), put(last)
        self.speaker_first, self.speaker_count = put(begin[speakers]), put(number[speakers])
        self.runs, self.run_first, self.run_count = put(flat), put(np.cumsum(counts) - counts), put(counts)
        longest = max(shape.target for shape in self.shapes)
        self.weight = put(np.cumsum(np.minimum(ends[at][last] - starts[first], longest)))
        self.comma, self.stop = phone_ids([",", "."])
        self.seconds = float(ends[-1]) / self.rate
        self.variation = Variation(codec, config, self.device) if config.varied else None
        self.pool = POOL if self.device.type == "cpu" else 1
        self.drawn: tuple[int, list[Batch]] | None = None

    def batches(self, first: int) -> Iterator[tuple[int, Batch]]:
        """(epoch, batch) from batch index `first` on."""
        seconds_drawn, index = first * self.config.batch_seconds, first
        while True:
            yield int(seconds_drawn / self.seconds), self.batch(index)
            seconds_drawn, index = seconds_drawn + self.config.batch_seconds, index + 1

    def batch(self, index: int) -> Batch:
        """Batch `index`."""
        pool, place = divmod(index, self.pool)
        if self.drawn is None or self.drawn[0] != pool:
            generator, host = self._generator(pool, 1), np.random.default_rng(self._seed(pool, 1))
            shape = self.shapes[host.choice(len(self.shapes), p=[s.share for s in self.shapes])]
            drawn = self.draw(replace(shape, examples=shape.examples * self.pool), generator)
            self.drawn = pool, [drawn] if self.pool == 1 else by_length(drawn, self.pool, host)
        batch = self.drawn[1][place]
        return batch if self.variation is None else self.variation(batch, self._generator(index, 0))

    def _seed(self, index: int, kind: int) -> int:
        return ((self.config.seed * 1_000_003 + index) * 64 + self.rank) * 2 + kind

    def _generator(self, index: int, kind: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self._seed(index, kind))

    def draw(self, shape: Shape, generator: torch.Generator, chosen: Tensor | None = None) -> Batch:
        """A batch of a shape, unvaried; `chosen` names the utterances, else they are drawn by their length."""
        size = shape.examples if chosen is None else len(chosen)
        config = self.config

        def uniform(*more: int) -> Tensor:
            return torch.rand((size, *more), generator=generator, device=self.device)

        if chosen is None:
            u = torch.rand(size, generator=generator, device=self.device, dtype=torch.float64)
            chosen = torch.searchsorted(self.weight, (u * self.weight[-1]).long(), right=True)
        low, high = self.first[chosen], self.last[chosen]
        count = self.speaker_count[chosen]
        others = count > 1
        # the prompt's utterance: any other of the speaker
        other = (uniform() * (count - 1)).long().clamp_max(count - 2).clamp_min(0)
        own = chosen - self.speaker_first[chosen]
        other = self.speaker_first[chosen] + (other + (others & (other >= own)).long())
        prompt_frames = torch.full((size,), shape.prompt, device=self.device)
        # targets: windows, or short phrases
        target = self._window(low, high, shape.target, shape.phones[0], uniform())
        runs = self.run_count[chosen]
        short = others & (runs > 0) & (uniform() < config.phrases)
        run = self.runs[(self.run_first[chosen] + (uniform() * runs).long().clamp_max(runs - 1)).clamp_min(0)]
        inside = self._frames(run[:, 0], run[:, 1]) <= shape.target
        short &= inside
        own_prompt = ~short & (uniform() < config.own_prompt)
        split = ~short & ~own_prompt & (~others | (uniform() >= config.other_utterance))
        part, rest = self._split(low, high, prompt_frames, uniform() < 0.5, uniform())
        rest = self._window(*rest, shape.target, shape.phones[0], uniform())
        target = [torch.where(short, r, torch.where(split, b, t)) for r, b, t in zip(run.T, rest, target, strict=True)]
        source = [
            torch.where(own_prompt, t, torch.where(split, a, o))
            for t, a, o in zip(target, part, (self.first[other], self.last[other]), strict=True)
        ]
        longest = prompt_frames
        if config.prompt_lengths:  # half of the shape's length to all of it
            longest = (prompt_frames * (0.5 + 0.5 * uniform())).long()
        half = (self._frames(*target) // 2).clamp_min(1)  # of a target that holds the prompt, at most
        longest = torch.where(own_prompt, torch.minimum(longest, half), longest)
        prompt = self._window(*source, longest, shape.phones[1], uniform())
        phones, durations, codes = self._cut(*target, shape.target, shape.phones[0], uniform() < 0.5)
        prompt_phones, prompt_durations, prompt_codes = self._cut(
            *prompt, shape.prompt, shape.phones[1], uniform() < 0.5
        )
        return Batch(phones, durations, codes, prompt_phones, prompt_durations, prompt_codes)

    def _frames(self, first: Tensor, last: Tensor) -> Tensor:
        return self.ends[last] - self.starts[first]

    def _window(self, low: Tensor, high: Tensor, frames: int | Tensor, phones: int, u: Tensor) -> tuple[Tensor, Tensor]:
        """Boundaries (first, last) of a random run of whole words of at most so many frames and phones."""
        fits = (self._frames(low, high) <= frames) & (self.at[high] - self.at[low] < phones)
        latest = torch.searchsorted(self.starts, self.ends[high] - frames, right=True)
        room = (torch.minimum(latest, high - 1) - low).clamp_min(0)
        first = low + (u * (room + 1)).long().clamp_max(room)
        last = torch.searchsorted(self.ends, self.starts[first] + frames, right=True) - 1
        last = torch.minimum(last, torch.searchsorted(self.at, self.at[first] + phones - 1, right=True) - 1)
        last = torch.maximum(torch.minimum(last, high), first + 1)
        return torch.where(fits, low, first), torch.where(fits, high, last)

    def _split(self, low: Tensor, high: Tensor, frames: Tensor, at_start: Tensor, u: Tensor):
        """((first, last) of a prompt, (first, last) of the rest), cut at a word boundary, which both keep."""
        whole = self._frames(low, high)
        length = torch.minimum(frames, (whole * (0.25 + 0.25 * u)).long())
        left = torch.searchsorted(self.ends, self.starts[low] + length)
        right = torch.searchsorted(self.ends, self.ends[high] - length)
        middle = torch.where(at_start, left, right)
        middle = torch.maximum(torch.minimum(middle, high - 1), torch.minimum(low + 1, high))
        single = high - low < 2  # one word is both
        before, after = (low, torch.where(single, high, middle)), (torch.where(single, low, middle), high)
        part = [torch.where(at_start, b, a) for b, a in zip(before, after, strict=True)]
        rest = [torch.where(at_start, a, b) for b, a in zip(before, after, strict=True)]
        return part, rest

    def _cut(self, first: Tensor, last: Tensor, frames: int, phones: int, label: Tensor):
        """Phones, durations and codes between two boundaries, padded with zeros; pauses are labelled where asked."""
        start, stop = self.at[first, None], self.at[last, None]
        place = start + torch.arange(phones, device=self.device)
        real = place <= stop
        place = place.clamp_max(len(self.phones) - 1)
        durations = self.durations[place] * real
        total = durations.cumsum(1).clamp_max(frames)  # a single word may be too long
        durations = torch.diff(total, dim=1, prepend=torch.zeros_like(total[:, :1]))
        ids = self.phones[place]
        inner = (self.boundary_ids(ids)) & (place > start) & (place < stop) & label[:, None]
        ids = torch.where(inner & (durations >= COMMA_SECONDS * self.rate), self.comma, ids)
        ids = torch.where(inner & (durations >= STOP_SECONDS * self.rate), self.stop, ids)
        time = torch.arange(frames, device=self.device)
        where = (self.starts[first, None] + time).clamp_max(self.codes.shape[1] - 1)
        codes = self.codes[:, where].transpose(0, 1).long()  # (b, n, t)
        return ids * real, durations, codes * (time < total[:, -1:])[:, None]

    @staticmethod
    def boundary_ids(ids: Int[Tensor, "b p"]) -> Tensor:
        """Where a phone is a boundary."""
        return sum((ids == boundary) for boundary in BOUNDARY_IDS) > 0


def by_length(batch: Batch, parts: int, rng: np.random.Generator) -> list[Batch]:
    """A batch in so many of about equal size on the grid, each of targets of like length, in random order.

    Their lengths are multiples of `PAD_TO`: little is padded, and shapes recur, for each new one of which a CPU
    compiles its products anew.
    """
    lengths = batch.durations.sum(1)
    order = lengths.argsort(descending=True, stable=True)
    ends = (-(-lengths[order] // PAD_TO)).cumsum(0)  # what is before the end of each example
    part = ((ends - 1) * parts // ends[-1]).clamp_max(parts - 1)
    if part.unique().numel() < parts:  # a few examples: as many in each
        part = torch.arange(len(order)) * parts // len(order)
    return [_trimmed(batch, order[part == i]) for i in rng.permutation(parts)]


def _trimmed(batch: Batch, chosen: Tensor) -> Batch:
    """Some examples of a batch, without the columns that pad all of them."""
    held = {name: value[chosen] for name, value in vars(batch).items()}
    for kind in ("", "prompt_"):
        phones, durations = held[f"{kind}phones"], held[f"{kind}durations"]
        count, frames = (phones != 0).sum(1), durations.sum(1)
        for name, longest in (("phones", count), ("durations", count), ("codes", frames)):
            held[kind + name] = held[kind + name][..., : -(-int(longest.max()) // PAD_TO) * PAD_TO]
    return Batch(**{name: value.contiguous() for name, value in held.items()})


class Variation:
    """Other voices and other rooms out of the same tokens: their log-mel features are changed and quantised anew.

    A smooth equaliser (`timbre_db`) and, in a share of the examples (`virtual_voices`), a voice that no reader has: the
    envelope of the spectrum and its fine structure, which is the pitch, are stretched along frequency by factors of
    their own. Prompt and target share both. In a share of the examples (`noisy_prompts`) the prompt alone gets noise,
    or the speech of three others, at 0 to 25 dB. Our choice.
    """

    SMOOTH = 14  # cosines over the mel axis that make up the envelope
    PITCH, FORMANTS = (0.75, 1.35), (0.85, 1.18)  # range of the factors
    CURVES = 4  # cosines over the mel axis that make up the equaliser, the k-th by 1/k
    SNR = (0.0, 25.0)  # dB

    def __init__(self, codec: MiniCodec, config: TrainConfig, device: torch.device):
        self.config, sizes = config, codec.config
        self.mels, self.substeps = sizes.n_mels, sizes.substeps
        self.books, self.components, self.mean = (x.to(device) for x in (codec.books, codec.components, codec.mean))
        self.half_norms = self.books.square().sum(-1) / 2  # (n, bins)
        band = torch.arange(self.mels, device=device) + 0.5
        cosines = torch.stack([torch.cos(math.pi * k * band / self.mels) for k in range(self.SMOOTH)])
        cosines = cosines / cosines.norm(dim=1, keepdim=True)
        self.smooth = cosines.T @ cosines  # (m, m), projects on envelopes
        hertz = torch.linspace(0, sizes.sample_rate / 2, sizes.n_fft // 2 + 1)
        self.centres = (codec.mel_basis @ hertz).to(device)  # (m,) Hz
        self.equal = torch.stack([torch.cos(math.pi * k * band / self.mels) / k for k in range(1, self.CURVES + 1)])

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The same with other codes; padding stays zero."""
        codes, durations = batch.codes, batch.durations
        prompt_codes, prompt_durations = batch.prompt_codes, batch.prompt_durations
        frames, size = codes.shape[-1], len(codes)
        device = codes.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=device)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device)

        both = torch.cat([codes, prompt_codes], -1)
        mel = self._features(both)  # (b, l, substeps, m)
        pitch, formants = (
            torch.exp(math.log(lo) + uniform(size) * math.log(hi / lo)) for lo, hi in (self.PITCH, self.FORMANTS)
        )
        virtual = uniform(size) < self.config.virtual_voices
        shift = self._stretch(torch.where(virtual, formants, 1.0)) @ self.smooth
        fine = self._stretch(torch.where(virtual, pitch, 1.0))
        shift = shift + fine - fine @ self.smooth  # (b, m, m)
        mel = torch.einsum("bij,blsj->blsi", shift, mel)
        curve = self.config.timbre_db * (normal(size, 1) + normal(size, self.CURVES) @ self.equal)  # (b, m) dB
        same = uniform(size) < 0.15  # of these neither voice nor timbre is changed
        curve = torch.where((same | (self.config.timbre_db == 0))[:, None], 0.0, curve)
        level = (mel.exp() - MEL_FLOOR).clamp_min(0) * (10 ** (curve / 20))[:, None, None]  # magnitudes
        target, prompt = level[:, :frames], level[:, frames:]
        noisy = uniform(size) < self.config.noisy_prompts
        if self.config.noisy_prompts > 0:
            prompt = torch.where(noisy[:, None, None, None], self._noisy(prompt, prompt_durations, uniform), prompt)
        new = self._tokens(torch.log(torch.cat([target, prompt], 1) + MEL_FLOOR))  # (b, n, l)
        keep = (same & ~virtual)[:, None, None]
        quiet = keep & ~noisy[:, None, None]
        still = torch.cat([keep.expand(-1, 1, frames), quiet.expand(-1, 1, prompt.shape[1])], -1)
        new = torch.where(still, both, new)
        real = torch.arange(frames, device=device) < durations.sum(1, keepdim=True)
        prompt_real = torch.arange(prompt.shape[1], device=device) < prompt_durations.sum(1, keepdim=True)
        new, prompt_new = new[..., :frames] * real[:, None], new[..., frames:] * prompt_real[:, None]
        return replace(batch, codes=new, prompt_codes=prompt_new)

    def _features(self, codes: Int[Tensor, "b n l"]) -> Float[Tensor, "b l s m"]:
        latent = sum(book[code] for book, code in zip(self.books, codes.unbind(1), strict=True))  # (b, l, c)
        return (latent @ self.components + self.mean).unflatten(-1, (self.substeps, self.mels))

    def _tokens(self, mel: Float[Tensor, "b l s m"]) -> Int[Tensor, "b n l"]:
        residual = ((mel.flatten(2) - self.mean) @ self.components.T).flatten(0, 1)
        codes = []
        for book, half in zip(self.books, self.half_norms, strict=True):
            code = F.linear(residual, book, -half).argmax(-1)
            residual = residual - book[code]
            codes.append(code)
        return torch.stack(codes).unflatten(1, mel.shape[:2]).transpose(0, 1)

    def _stretch(self, factor: Float[Tensor, " b"]) -> Float[Tensor, "b m m"]:
        """Matrices that move what lies at a frequency to that frequency times the factor."""
        source = self.centres / factor[:, None]  # (b, m) Hz
        upper = torch.searchsorted(self.centres, source).clamp(1, self.mels - 1)
        low, high = self.centres[upper - 1], self.centres[upper]
        part = ((source - low) / (high - low)).clamp(0, 1)[..., None]
        out = torch.zeros(len(factor), self.mels, self.mels, device=factor.device)
        return out.scatter_add(2, upper[..., None] - 1, 1 - part).scatter_add(2, upper[..., None], part)

    def _noisy(self, prompt: Float[Tensor, "b l s m"], durations: Tensor, uniform) -> Float[Tensor, "b l s m"]:
        size, length = prompt.shape[:2]
        real = torch.arange(length, device=prompt.device) < durations.sum(1, keepdim=True)
        slope = (uniform(size, 1) * 2 - 1.3) * 12  # dB at both ends of the mel axis, more often falling than rising
        tilt = slope * torch.linspace(-1, 1, self.mels, device=prompt.device)
        hiss = (10 ** (tilt / 20))[:, None, None] * (0.75 + 0.5 * uniform(*prompt.shape))
        speech = prompt * real[..., None, None]
        babble = sum(speech.roll((k, 17 * k), (0, 1)).square() for k in (1, 2, 3)).sqrt()
        noise = torch.where((uniform(size) < 0.4)[:, None, None, None], babble, hiss)
        power = (speech.square().sum((1, 2, 3)) / real.sum(1)).clamp_min(1e-8)
        noise_power = noise.square().sum((1, 2, 3)).div(length).clamp_min(1e-8)
        snr = self.SNR[0] + uniform(size) * (self.SNR[1] - self.SNR[0])
        gain = (power / noise_power / 10 ** (snr / 10)).sqrt()
        return (prompt.square() + (noise * gain[:, None, None, None]).square()).sqrt()


def dev_batches(
    speech: Utterances, codec: Codec, config: TrainConfig, device: torch.device | str, examples: int
) -> Sequence[Batch]:
    """The first `examples` dev utterances, unvaried, each with a prompt of 3 s of another: the same for all runs."""
    plain = {"own_prompt": 0.0, "phrases": 0.0, "timbre_db": 0.0, "virtual_voices": 0.0, "noisy_prompts": 0.0}
    fixed = {"other_utterance": 1.0, "prompt_lengths": (), "prompt_seconds": 3.0, "max_seconds": 10.0, "seed": 0}
    stream = TokenBatches(speech, codec, config.model_copy(update={**plain, **fixed}), device)
    generator = torch.Generator(device).manual_seed(0)
    names = torch.arange(min(examples, len(speech.phone_ends)), device=device)
    return [stream.draw(stream.shapes[0], generator, part) for part in names.split(16)]
