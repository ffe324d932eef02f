"""What MobileSpeech asks of a codec, and how one is kept in a folder."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from ms_core.checkpoint import CheckpointError, damaged, load_checkpoint, save_checkpoint
from ms_core.config import CodecConfig, parse


class Codec(nn.Module):
    """What MobileSpeech asks of a codec; one is kept as weights and JSON, which names its tokens."""

    FORMAT: ClassVar[str]  # of its checkpoints
    config: CodecConfig

    @property
    def token_digest(self) -> str:
        """A hash of all that decides which token a sound gets; tokens of another digest are another language."""
        raise NotImplementedError

    def encode(self, wav: Float[Tensor, "b 1 l"]) -> Int[Tensor, "b n t"]:
        """Waveform in [-1, 1] at config.sample_rate to codes in [0, bins - 1], t = ceil(l / hop)."""
        raise NotImplementedError

    def decode(self, codes: Int[Tensor, "b n t"]) -> Float[Tensor, "b 1 l"]:
        """Codes to a waveform of l = t * hop samples. Fewer than N layers may be given: the lowest ones."""
        raise NotImplementedError

    def codebooks(self) -> Float[Tensor, "n bins dim"]:
        """The code vectors, whose sum over layers is the latent that the decoder sees."""
        raise NotImplementedError

    def weights(self) -> dict[str, Tensor]:
        """What is written; by default all, in fp32."""
        return self.state_dict()

    def save(self, folder: Path, provenance: dict[str, object]) -> None:
        """Write weights and JSON; provenance: what it was trained with."""
        meta = {"format": self.FORMAT, "config": self.config.model_dump(mode="json"), "token_digest": self.token_digest}
        save_checkpoint(folder, self.weights(), {**meta, "provenance": provenance})

    @classmethod
    def load(cls, folder: Path) -> "Codec":
        """Raises CheckpointError when files are missing, damaged or of another format, ImportError for a library."""
        tensors, meta = load_checkpoint(folder, cls.FORMAT)
        with damaged(folder):
            codec = cls(parse(CodecConfig, meta["config"], str(folder)))
            codec.load_state_dict({k: v.float() for k, v in tensors.items()})
            if codec.token_digest != meta["token_digest"]:
                raise CheckpointError(f"{folder}: token digest {codec.token_digest}, not {meta['token_digest']}")
        return codec.eval()


def check_codes(codes: Tensor, config: CodecConfig) -> None:
    """Raises ValueError for a wrong shape or an index outside the codebooks."""
    if codes.ndim != 3 or not 1 <= codes.shape[1] <= config.n_q:
        raise ValueError(f"codes of shape {tuple(codes.shape)}: expected (batch, 1 to {config.n_q} layers, frames)")
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < config.bins:
        raise ValueError(f"codes between {int(codes.min())} and {int(codes.max())}: allowed are 0 to {config.bins - 1}")


def digest_of(facts: str, tensors: Iterable[Tensor]) -> str:
    """16 hex digits of the sha256 of a text and of tensors, as float32."""
    digest = hashlib.sha256(facts.encode())
    for tensor in tensors:
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
