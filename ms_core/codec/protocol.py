"""What MobileSpeech asks of a codec."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from ms_core.config import CodecConfig


@runtime_checkable
class Codec(Protocol):
    """What MobileSpeech asks of a codec."""

    config: CodecConfig

    @property
    def token_digest(self) -> str:
        """A hash of all that decides which token a sound gets; tokens of another digest are another language."""

    def encode(self, wav: Float[Tensor, "b 1 l"]) -> Int[Tensor, "b n t"]:
        """Waveform in [-1, 1] at config.sample_rate to codes in [0, bins - 1], t = ceil(l / hop)."""

    def decode(self, codes: Int[Tensor, "b n t"]) -> Float[Tensor, "b 1 l"]:
        """Codes to a waveform of l = t * hop samples. Fewer than N layers may be given: the lowest ones."""

    def codebooks(self) -> Float[Tensor, "n bins dim"]:
        """The code vectors, whose sum over layers is the latent that the decoder sees."""


def check_codes(codes: Tensor, config: CodecConfig) -> None:
    """Raises ValueError for a wrong shape or an index outside the codebooks."""
    if codes.ndim != 3 or not 1 <= codes.shape[1] <= config.n_q:
        raise ValueError(f"codes of shape {tuple(codes.shape)}: expected (batch, 1 to {config.n_q} layers, frames)")
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < config.bins:
        raise ValueError(f"codes between {int(codes.min())} and {int(codes.max())}: allowed are 0 to {config.bins - 1}")
