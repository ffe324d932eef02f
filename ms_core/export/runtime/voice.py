"""Voice files without torch: the same safetensors file that `ms_core.tokens.Voice` writes."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from ms_core.export.runtime.manifest import MobileError
from ms_core.text import PHONES

FORMAT = "ms-voice-1"
MAX_BYTES = 16 << 20  # a larger file is no voice


@dataclass(frozen=True, eq=False)
class MobileVoice:
    """An enrolled speaker: the prompt's codes (n, t), phones (symbols) and their durations in codec frames."""

    codes: np.ndarray
    phones: tuple[str, ...]
    durations: tuple[int, ...]
    token_digest: str
    meta: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> "MobileVoice":
        """Raises MobileError for a file that is missing, too large, or no voice."""
        path = Path(path)
        if not path.is_file():
            raise MobileError(f"no voice file {path}: enrol one with `ms-core voice`, or copy a shipped one")
        if path.stat().st_size > MAX_BYTES:
            raise MobileError(f"{path}: {path.stat().st_size} bytes are too many for a voice (at most {MAX_BYTES})")
        try:
            with safe_open(path, "np") as file:
                meta = dict(file.metadata() or {})
                codes, phones, frames = (file.get_tensor(k).astype(np.int64) for k in ("codes", "phones", "durations"))
        except (SafetensorError, OSError) as error:
            raise MobileError(f"{path}: not a voice file ({error})") from None
        good = meta.pop("format", "") == FORMAT and codes.ndim == 2 and phones.ndim == 1
        good = good and phones.shape == frames.shape and all(x.size and x.min() >= 0 for x in (codes, phones, frames))
        if not good or phones.max() >= len(PHONES) or frames.sum() != codes.shape[1]:
            raise MobileError(f"{path}: not a voice file of this version (format, shapes or durations are wrong)")
        names = tuple(PHONES[i] for i in phones)
        return cls(codes, names, tuple(frames.tolist()), meta.pop("token_digest", ""), meta)
