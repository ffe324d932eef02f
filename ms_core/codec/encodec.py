"""The paper's codec: EnCodec at 24 kHz and 6 kb/s, decoded by EnCodec itself or by Vocos (paper.md, section 1.5).

8 codebooks of 1024 entries at 75 frames a second (Défossez et al. 2022), by the `encodec` package, whose results are
matched bit for bit. The paper decodes with Vocos (Siuzdak 2023), here the `vocos` package and its published sizes.

Long recordings go through in pieces. EnCodec is causal: a stack of convolutions, which see less than two frames back
(478 samples in the encoder), and an LSTM, which remembers without limit. So the convolutions, which need nearly all of
the memory, run on pieces with that context before them, and the LSTM, whose input is small (150 kB a second), runs once
over all. Codes of pieces are therefore codes of the whole for any weights; only floating-point noise can differ.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from encodec import EncodecModel
from encodec.model import ROOT_URL
from encodec.modules import SLSTM
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from ms_core import paths
from ms_core.checkpoint import CheckpointError, damaged
from ms_core.codec.base import Codec, check_codes, digest_of
from ms_core.config import CodecConfig, ConfigError
from ms_core.files import sha256

OFFICIAL = "encodec_24khz-d7cc33bc.th"  # the authors' file; the name carries the start of its sha256
VOCOS_HUB = ("charactr/vocos-encodec-24khz", "pytorch_model.bin")  # repository of the Hugging Face hub, file
VOCOS = "vocos-encodec-24khz.bin"  # what that file is called in our folder
PIECE = 750  # frames that pass the convolutions at once: 10 s
CONTEXT = 3  # frames before a piece; 478 samples would do
VOCOS_CONTEXT = 32  # frames on both sides: 9 convolutions of kernel 7 see 27, the inverse STFT 2
LAYERS = 32  # of the official weights; the lowest n_q are used
FIXED = {"sample_rate": 24_000, "hop": 320, "bins": 1024}
UNUSED = ("inited", "cluster_size", "embed_avg")  # of the package's codebooks; they serve its training alone


class EncodecCodec(Codec):
    """EnCodec of kind `encodec`, untrained; `from_official` and `load` give it weights.

    Raises ConfigError for a config that the official model does not fit.
    """

    FORMAT = "ms-codec-encodec-1"

    def __init__(self, config: CodecConfig):
        super().__init__()
        if config.kind != "encodec":
            raise ConfigError(f"EncodecCodec needs a config of kind 'encodec', not {config.kind!r}")
        for key, value in FIXED.items():
            if getattr(config, key) != value:
                raise ConfigError(f"codec.{key} is {getattr(config, key)}: EnCodec's 24 kHz model has {value}")
        self.config = config
        model = EncodecModel.encodec_model_24khz(pretrained=False)
        self.encoder, self.quantizer, self.decoder = model.encoder, model.quantizer, model.decoder
        self.quantizer.vq.layers = self.quantizer.vq.layers[: config.n_q]
        self.quantizer.n_q = config.n_q
        for layer in self.quantizer.vq.layers:
            for name in UNUSED:
                delattr(layer._codebook, name)
        self.vocos = VocosDecoder(config) if config.vocoder == "vocos" else None
        self.eval().requires_grad_(False)

    @classmethod
    def from_official(
        cls, config: CodecConfig, weights: Path | None = None, vocos_weights: Path | None = None
    ) -> "EncodecCodec":
        """The codec with published weights.

        Args:
            weights: EnCodec's official file, or a `.safetensors` file of the same tensors; where None,
                `<runs>/pretrained/encodec_24khz-d7cc33bc.th`, which is downloaded when it is not there.
            vocos_weights: likewise for Vocos, if the config asks for it.

        Raises CheckpointError for weights that are missing, damaged or of another model.
        """
        codec = cls(config)
        tensors = official_weights() if weights is None else read_tensors(weights)
        left_out = tuple(f"quantizer.vq.layers.{i}." for i in range(config.n_q, LAYERS))
        tensors = {k: v.float() for k, v in tensors.items() if not (k.endswith(UNUSED) or k.startswith(left_out))}
        if codec.vocos is not None:
            published = read_tensors(official_vocos() if vocos_weights is None else vocos_weights)
            with damaged(VOCOS):
                tensors |= {f"vocos.{k}": v for k, v in codec.vocos.own(published).items()}
        with damaged(OFFICIAL if weights is None else weights):
            codec.load_state_dict(tensors)
        return codec

    @property
    def token_digest(self) -> str:
        """The decoder does not decide tokens: the digest is the same for both vocoders."""
        facts = {key: getattr(self.config, key) for key in ("kind", "sample_rate", "hop", "n_q", "bins")}
        encoder = [tensor for _, tensor in sorted(self.encoder.state_dict().items())]
        return digest_of(repr(sorted(facts.items())), [*encoder, self.codebooks()])

    def codebooks(self) -> Float[Tensor, "n bins c"]:
        """The code vectors, whose sum over layers is the latent that the decoder sees; c = 128."""
        return torch.stack([layer.codebook for layer in self.quantizer.vq.layers])

    def latents(self, wav: Float[Tensor, "b 1 l"]) -> Float[Tensor, "b c t"]:
        """The encoder's output, before quantisation."""
        model, lstm = self.encoder.model, _lstm(self.encoder.model)
        states = in_pieces(model[:lstm], wav, self.config.hop, 1, CONTEXT, 0)  # (b, 512, t)
        return model[lstm:](states)

    @torch.inference_mode()
    def encode(self, wav: Float[Tensor, "b 1 l"]) -> Int[Tensor, "b n t"]:
        """Codes; t = ceil(l / 320). Raises ValueError for another shape or no samples."""
        if wav.ndim != 3 or wav.shape[1] != 1 or not wav.shape[2]:
            raise ValueError(f"a waveform of shape {tuple(wav.shape)}: expected (batch, 1, samples), samples > 0")
        return self.quantizer.encode(self.latents(wav), self.config.sample_rate).transpose(0, 1)

    @torch.inference_mode()
    def decode(self, codes: Int[Tensor, "b n t"]) -> Float[Tensor, "b 1 l"]:
        """The waveform in [-1, 1], l = 320 t; Vocos, where configured, else EnCodec's own decoder."""
        check_codes(codes, self.config)
        if self.vocos is not None:
            wav = in_pieces(self.vocos, codes, 1, self.config.hop, VOCOS_CONTEXT, VOCOS_CONTEXT)
            return wav.clamp(-1, 1)
        model, lstm = self.decoder.model, _lstm(self.decoder.model)
        states = model[: lstm + 1](self.quantizer.decode(codes.transpose(0, 1)))  # (b, 512, t)
        return in_pieces(model[lstm + 1 :], states, 1, self.config.hop, CONTEXT, 0).clamp(-1, 1)


class VocosDecoder(nn.Module):
    """Codes to a waveform by Vocos, at the sizes of its published EnCodec checkpoint.

    The layers are the `vocos` package's; its own loader is not used, since it unpickles. Raises ImportError where the
    package is missing.
    """

    BANDWIDTHS = {2: 0, 4: 1, 8: 2, 16: 3}  # codebooks (1.5, 3, 6, 12 kb/s): bandwidth_id

    def __init__(self, config: CodecConfig):
        super().__init__()
        try:
            from vocos.heads import ISTFTHead
            from vocos.models import VocosBackbone
        except ImportError as error:
            raise ImportError(
                f"codec.vocoder is 'vocos', but the package `vocos` cannot be imported ({error}): run "
                "`pip install 'ms-core[paper]'`, or set codec.vocoder to 'encodec'",
                name="vocos",
            ) from error
        if config.n_q > max(self.BANDWIDTHS):
            raise ConfigError(f"codec.n_q is {config.n_q}: Vocos decodes at most {max(self.BANDWIDTHS)} codebooks")
        self.backbone = VocosBackbone(128, 384, 1152, 8, adanorm_num_embeddings=len(self.BANDWIDTHS))
        self.head = ISTFTHead(384, 1280, config.hop, "same")
        self.register_buffer("books", torch.zeros(config.n_q, config.bins, 128))  # its own copy of EnCodec's

    def forward(self, codes: Int[Tensor, "b n t"]) -> Float[Tensor, "b 1 l"]:
        """l = 320 t samples."""
        features = sum(book[layer] for book, layer in zip(self.books, codes.unbind(1), strict=False))  # (b, t, 128)
        bandwidth = min(index for layers, index in self.BANDWIDTHS.items() if codes.shape[1] <= layers)
        identity = torch.tensor([bandwidth], device=codes.device)
        return self.head(self.backbone(features.transpose(1, 2), bandwidth_id=identity))[:, None]

    def own(self, published: dict[str, Tensor]) -> dict[str, Tensor]:
        """The published weights by the names that they have here; KeyError for those of another model."""
        tensors = {k: v.float() for k, v in published.items() if not k.startswith("feature_extractor.encodec.")}
        books = tensors.pop("feature_extractor.codebook_weights").unflatten(0, (-1, self.books.shape[1]))
        return {**tensors, "books": books[: len(self.books)]}


def in_pieces(
    function: Callable[[Tensor], Tensor], x: Tensor, step: int, out_step: int, before: int, after: int
) -> Tensor:
    """`function` along the last axis, `PIECE` frames at a time, each piece with context that is cut off again.

    step, out_step: steps of the last axis that a frame has in `x` and in the result; before, after: context in frames.
    """
    frames = -(-x.shape[-1] // step)
    parts = []
    for start in range(0, frames, PIECE):
        first, stop = max(0, start - before), min(frames, start + PIECE)
        part = function(x[..., first * step : (stop + after) * step])
        parts.append(part[..., (start - first) * out_step : (stop - first) * out_step])
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def folder() -> Path:
    """Where published weights lie: `<runs>/pretrained`."""
    return paths.runs() / "pretrained"


def official_weights() -> dict[str, Tensor]:
    """EnCodec's official tensors, downloaded where missing from the address that the `encodec` package gives."""
    if (path := folder() / OFFICIAL).is_file():
        return read_tensors(path)
    place = {"model_dir": str(folder()), "map_location": "cpu", "weights_only": True}
    try:
        return torch.hub.load_state_dict_from_url(ROOT_URL + OFFICIAL, **place, progress=False, check_hash=True)
    except Exception as error:  # of the network, of a full disk, of a damaged file
        raise CheckpointError(
            f"EnCodec's weights are damaged, or missing and could not be downloaded from {ROOT_URL}{OFFICIAL} "
            f"({error}): put the file at {path}, or give its path"
        ) from error


def official_vocos() -> Path:
    """Vocos's published file, downloaded where missing by the hub client on which the `vocos` package depends."""
    path = folder() / VOCOS
    if path.is_file():
        return path
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(*VOCOS_HUB))
    except Exception as error:  # the client's errors have no common base
        raise CheckpointError(
            f"Vocos's weights are missing and could not be downloaded ({type(error).__name__}: {error}): "
            f"put {VOCOS_HUB[1]} of {VOCOS_HUB[0]} at {path}, or give its path"
        ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a `.safetensors` file or of a PyTorch file, which is read without unpickling code.

    A name that carries a hash, as the official one does, is held to it. Raises CheckpointError.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}; the official file {OFFICIAL} goes to {folder()}")
    prefix = OFFICIAL.split("-")[1].removesuffix(".th")
    if path.name == OFFICIAL and not sha256(path).startswith(prefix):
        raise CheckpointError(f"{path}: its sha256 does not start with {prefix}: damaged, download it again")
    try:
        safe = path.suffix == ".safetensors"
        tensors = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and end-of-file errors of many kinds
        raise CheckpointError(f"{path}: not a PyTorch file of plain tensors, or safetensors ({error})") from None
    if not isinstance(tensors, dict) or not all(isinstance(v, Tensor) for v in tensors.values()):
        raise CheckpointError(f"{path}: not a table of named tensors")
    return tensors


def _lstm(model: nn.Sequential) -> int:
    """Index of the LSTM in an encoder or decoder."""
    return next(index for index, module in enumerate(model) if isinstance(module, SLSTM))
