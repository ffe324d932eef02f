"""The neural codec: waveform <-> a grid of tokens C of N codebooks by T frames.

The paper uses EnCodec at 24 kHz, decoded by Vocos (paper.md, section 1.5): `EncodecCodec`. Our small replication runs
on `MiniCodec`, which is our choice throughout: 16 kHz, 50 frames a second, 8 codebooks of 1024 entries (4 kb/s).

MiniCodec codes no phase. A frame's log-mel spectrum (two analysis windows of 80 bands) is projected on its principal
components and quantised by a residual vector quantiser; `source_filter.py` makes a waveform of them, from pulses
at the fundamental frequency and from noise. Codes of a waveform codec change when the signal is merely shifted
by a millisecond or turned over in sign; these hardly do, so that a small model can learn them from few hours.
"""

import json
import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ms_core.codec.base import Codec, check_codes, digest_of
from ms_core.codec.source_filter import SourceFilterDecoder
from ms_core.codec.spectral import stft
from ms_core.config import CodecConfig

MEL_FLOOR = 5e-3  # added to a mel magnitude before the logarithm: about the room noise of LibriSpeech. Our choice
# what decides the tokens; the decoder may change without them
TOKEN_FIELDS = {"kind", "sample_rate", "hop", "n_q", "bins", "n_mels", "n_fft", "substeps", "latent_dim"}


class MiniCodec(Codec):
    """Our 16 kHz codec: log-mel, principal components, residual vector quantiser, source-filter decoder."""

    FORMAT = "ms-codec-1"

    def __init__(self, config: CodecConfig):
        super().__init__()
        if config.kind != "mini":
            raise ValueError(f"MiniCodec needs a config of kind 'mini', not {config.kind!r}")
        self.config = config
        features = config.n_mels * config.substeps
        self.register_buffer("mel_basis", torch.zeros(config.n_mels, config.n_fft // 2 + 1))  # (n_mels, f), see `fit`
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("components", torch.eye(config.latent_dim, features))  # orthonormal rows
        self.register_buffer("books", torch.zeros(config.n_q, config.bins, config.latent_dim))
        self.decoder = SourceFilterDecoder(config)

    @property
    def token_digest(self) -> str:
        fields = self.config.model_dump(mode="json", include=TOKEN_FIELDS)
        tensors = self.mel_basis, self.mean, self.components, self.books
        return digest_of(json.dumps(fields, sort_keys=True), tensors)

    def codebooks(self) -> Float[Tensor, "n bins dim"]:
        return self.books

    def magnitudes(self, wav: Float[Tensor, "b 1 l"]) -> Float[Tensor, "b f k"]:
        """Linear magnitudes, the signal padded with zeros to whole frames: k = substeps * ceil(l / hop)."""
        wav = F.pad(wav[:, 0], (0, -wav.shape[-1] % self.config.hop))
        return stft(wav, self.config.n_fft, self.config.hop // self.config.substeps).abs()

    def features(self, magnitudes: Float[Tensor, "b f k"]) -> Float[Tensor, "b m t"]:
        """Log-mel of each codec frame: m = n_mels * substeps values."""
        mel = torch.log(self.mel_basis @ magnitudes + MEL_FLOOR)
        return rearrange(mel, "b m (t s) -> b (s m) t", s=self.config.substeps)

    def latents(self, wav: Float[Tensor, "b 1 l"]) -> Float[Tensor, "b c t"]:
        """Principal components of each frame, before quantisation."""
        return self.project(self.features(self.magnitudes(wav)))

    def project(self, features: Float[Tensor, "b m t"]) -> Float[Tensor, "b c t"]:
        """Principal components of log-mel features."""
        return self.components @ (features - self.mean[:, None])

    def tokenise(self, features: Float[Tensor, "b m t"]) -> Int[Tensor, "b n t"]:
        """Codes of log-mel features."""
        return self.quantise(self.project(features))

    def quantise(self, latent: Float[Tensor, "b c t"]) -> Int[Tensor, "b n t"]:
        """Residual vector quantisation: each layer takes the entry nearest to what the layers below left over."""
        residual = rearrange(latent, "b c t -> (b t) c")
        codes = []
        for book in self.books:
            code = nearest(residual, book)
            residual = residual - book[code]
            codes.append(code)
        return rearrange(torch.stack(codes), "n (b t) -> b n t", b=latent.shape[0])

    def dequantise(self, codes: Int[Tensor, "b n t"]) -> Float[Tensor, "b c t"]:
        """The sum of the given layers' code vectors."""
        vectors = torch.stack([book[code] for book, code in zip(self.books, codes.unbind(1), strict=False)])
        return rearrange(vectors.sum(0), "b t c -> b c t")

    @torch.inference_mode()
    def encode(self, wav: Float[Tensor, "b 1 l"]) -> Int[Tensor, "b n t"]:
        return self.quantise(self.latents(wav))

    @torch.inference_mode()
    def decode(self, codes: Int[Tensor, "b n t"]) -> Float[Tensor, "b 1 l"]:
        check_codes(codes, self.config)
        return self.decoder(self.dequantise(codes))[0].clamp(-1, 1)[:, None]

    @torch.no_grad()
    def fit(self, waves: Iterable[Float[Tensor, " _"]], seed: int = 0, iterations: int = 25) -> list[float]:
        """Set mel filters, principal components and codebooks from speech; the decoder is trained afterwards.

        Returns the share of the log-mel variance that is left after layers 1..N.
        """
        self.mel_basis.copy_(mel_basis(self.config))
        frames = torch.cat([self.features(self.magnitudes(wave[None, None]))[0].T for wave in waves])  # (t, m)
        if len(frames) < self.config.bins:
            raise ValueError(f"{len(frames)} frames of speech are too few for codebooks of {self.config.bins} entries")
        self.mean.copy_(frames.mean(0))
        _, vectors = torch.linalg.eigh(torch.cov((frames - self.mean).T))
        self.components.copy_(vectors.flip(1)[:, : self.config.latent_dim].T)
        residual = (frames - self.mean) @ self.components.T
        total = (frames - self.mean).square().sum()
        lost = total - residual.square().sum()  # what the discarded components held
        generator = torch.Generator().manual_seed(seed)
        left = []
        for book in self.books:
            book.copy_(kmeans(residual, self.config.bins, iterations, generator))
            residual = residual - book[nearest(residual, book)]
            left.append(((residual.square().sum() + lost) / total).item())
        return left

    def lowest(self, layers: int) -> "MiniCodec":
        """The same codec with its lowest so many codebooks alone, which is another codec by its tokens."""
        codec = MiniCodec(self.config.model_copy(update={"n_q": layers}))
        codec.load_state_dict({**self.state_dict(), "books": self.books[:layers]})
        return codec.eval()

    def weights(self) -> dict[str, Tensor]:
        """The decoder in fp16, all that decides the tokens in fp32."""
        return {k: v.half() if k.startswith("decoder.") else v for k, v in self.state_dict().items()}


def mel_basis(config: CodecConfig) -> Float[Tensor, "m f"]:
    """Triangular mel filters over the linear bins, each of sum 1, on Slaney's scale: linear up to 1 kHz, then
    logarithmic. Equal bit for bit to torchaudio's `melscale_fbanks`, since stored codecs hold its result.
    """
    slope, knee, log_step = 200 / 3, 1000.0, math.log(6.4) / 27  # Hz a mel below the knee (Hz); log Hz a mel above
    knee_mel = knee / slope
    top = knee_mel + math.log(config.sample_rate / 2 / knee) / log_step
    mel = torch.linspace(0.0, top, config.n_mels + 2)
    hertz = torch.where(mel >= knee_mel, knee * torch.exp(log_step * (mel - knee_mel)), slope * mel)
    away = hertz - torch.linspace(0, config.sample_rate // 2, config.n_fft // 2 + 1)[:, None]  # (f, n_mels + 2)
    rise, fall = -away[:, :-2] / hertz.diff()[:-1], away[:, 2:] / hertz.diff()[1:]
    basis = torch.minimum(rise, fall).clamp_min(0).T
    return basis / basis.sum(1, keepdim=True).clamp_min(1e-8)


def nearest(x: Float[Tensor, "k c"], book: Float[Tensor, "bins c"]) -> Int[Tensor, " k"]:
    """Index of the closest entry by squared distance; a pure function of each row."""
    half_norm = book.square().sum(1) / 2
    return torch.cat([(part @ book.T - half_norm).argmax(1) for part in x.split(65_536)])


def kmeans(x: Float[Tensor, "k c"], bins: int, iterations: int, generator: torch.Generator) -> Float[Tensor, "bins c"]:
    """Lloyd's algorithm from random rows; an entry that falls below a tenth of the mean use is set anew."""
    book = x[torch.randperm(len(x), generator=generator)[:bins]].clone()
    for iteration in range(iterations):
        code = nearest(x, book)
        count = torch.bincount(code, minlength=bins)
        book = torch.zeros_like(book).index_add_(0, code, x) / count.clamp_min(1)[:, None]
        rare = count < 0.1 * len(x) / bins
        if iteration < iterations - 3 and rare.any():
            book[rare] = x[torch.randint(len(x), (int(rare.sum()),), generator=generator)]
        elif (count == 0).any():
            book[count == 0] = x[torch.randint(len(x), (int((count == 0).sum()),), generator=generator)]
    return book
