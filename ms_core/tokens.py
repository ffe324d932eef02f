"""What flows through the package: one utterance's tokens, a padded batch of them, an enrolled voice.

Nothing here imports torch, so that a phone's runtime reads the same voices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ms_core import paths
from ms_core.files import write_atomic
from ms_core.text import PHONES, phone_ids

if TYPE_CHECKING:
    import torch
    from jaxtyping import Int

BOUNDARY_IDS = frozenset(phone_ids(["_", ",", "."]))
# how training examples are cut out of utterances: `training.resident`
COMMA_SECONDS, STOP_SECONDS = 0.08, 0.25  # a silence this long between words may be written "," or "." in training
PHRASE_WORDS = 3  # of a short target between pauses, at most
PAD_TO = 32  # frames or phones, to multiples of which a batch is filled up
ADAPTER = "adapter."  # before the names of a voice file's low-rank changes
VOICE_BYTES = 1 << 20  # a larger voice file is refused
VOICE_FRAMES = 75 * 60  # a longer prompt too, since attention's cost is quadratic: a minute at the paper's frame rate


@dataclass(frozen=True)
class Tokens:
    """One utterance (or part of one) as the model sees it: phone ids (p,), durations (p,), codes (n, t)."""

    phones: np.ndarray
    durations: np.ndarray
    codes: np.ndarray

    def words(self) -> np.ndarray:
        """Indices of the boundary phones; word i lies between the i-th and the next."""
        return np.flatnonzero(np.isin(self.phones, list(BOUNDARY_IDS)))

    def slice(self, first: int | np.integer, last: int | np.integer) -> Tokens:
        """The part from boundary phone index `first` to boundary phone index `last`, both included."""
        ends = np.cumsum(self.durations)
        start, stop = ends[first] - self.durations[first], ends[last]
        return Tokens(self.phones[first : last + 1], self.durations[first : last + 1], self.codes[:, start:stop])


@dataclass(frozen=True)
class Batch:
    """Tokenised speech: b utterances with a prompt each. Padding is phone id 0, duration 0, code 0."""

    phones: Int[torch.Tensor, "b p"]
    durations: Int[torch.Tensor, "b p"]
    codes: Int[torch.Tensor, "b n t"]
    prompt_phones: Int[torch.Tensor, "b q"]
    prompt_durations: Int[torch.Tensor, "b q"]
    prompt_codes: Int[torch.Tensor, "b n s"]

    def to(self, device: torch.device) -> Batch:
        return Batch(**{k: v.to(device) for k, v in vars(self).items()})


class VoiceError(ValueError):
    """A voice that cannot be used; the message says why."""


@dataclass(frozen=True, eq=False)
class Voice:
    """An enrolled speaker: the prompt's codes (n, t), phones with their durations in frames, and where it came from.

    adapter: low-rank changes of the decoder's matrices that were learnt from the prompt (`training.adapt`), by name:
    `<layer>.a` (r, in) and `<layer>.b` (out, r); empty for a voice that was only enrolled.
    """

    codes: np.ndarray
    phones: tuple[str, ...]
    durations: tuple[int, ...]
    token_digest: str
    meta: dict[str, str] = field(default_factory=dict)
    adapter: dict[str, np.ndarray] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; a failure leaves nothing behind."""
        columns = {"codes": self.codes, "phones": phone_ids(self.phones), "durations": self.durations}
        arrays = {name: np.ascontiguousarray(column, dtype=np.int16) for name, column in columns.items()}
        arrays |= {f"{ADAPTER}{name}": np.ascontiguousarray(x, np.float16) for name, x in self.adapter.items()}
        meta = {**self.meta, "format": "ms-voice-1", "token_digest": self.token_digest}
        write_atomic(Path(path), lambda temporary: save_file(arrays, temporary, metadata=meta))

    @classmethod
    def load(cls, name: str | int | Path) -> Voice:
        """A shipped voice by name or number, or a voice file. Raises VoiceError for one that is missing or no voice."""
        path = shipped_voice(name) or Path(str(name))
        if not path.is_file():
            raise VoiceError(f"no voice file {path}; shipped voices: {', '.join(shipped_voices()) or 'none'}")
        if path.stat().st_size > VOICE_BYTES:
            raise VoiceError(f"{path}: {path.stat().st_size} bytes are too many for a voice (at most {VOICE_BYTES})")
        try:
            with safe_open(path, "np") as file:
                meta = dict(file.metadata() or {})
                codes, phones, frames = (file.get_tensor(k).astype(np.int64) for k in ("codes", "phones", "durations"))
                changes = [name for name in file.keys() if name.startswith(ADAPTER)]  # noqa: SIM118
                adapter = {name.removeprefix(ADAPTER): file.get_tensor(name).astype(np.float32) for name in changes}
        except (SafetensorError, OSError) as error:
            raise VoiceError(f"{path}: not a voice file ({error})") from None
        good = meta.pop("format", "") == "ms-voice-1" and codes.ndim == 2 and phones.shape == frames.shape
        good = good and all(x.size and int(x.min()) >= 0 for x in (codes, phones, frames))
        good = good and phones.ndim == 1 and int(phones.max()) < len(PHONES)
        good = good and all(x.ndim == 2 and np.isfinite(x).all() for x in adapter.values())
        if not good or int(frames.sum()) != codes.shape[1]:
            raise VoiceError(f"{path}: not a voice file of this version (format, shapes or durations are wrong)")
        if codes.shape[1] > VOICE_FRAMES:
            raise VoiceError(f"{path}: {codes.shape[1]} frames are too many for a voice (at most {VOICE_FRAMES})")
        names = tuple(PHONES[i] for i in phones)
        return cls(codes, names, tuple(frames.tolist()), meta.pop("token_digest", ""), meta, adapter)


def shipped_voice(name: str | int | Path) -> Path | None:
    """The file of a voice that the package carries, "ls-8123" or, since it is LibriSpeech's reader 8123, the number."""
    for stem in (str(name), f"ls-{name}"):
        if stem in shipped_voices():
            return paths.ASSETS / "voices" / f"{stem}.safetensors"
    return None


def shipped_voices() -> list[str]:
    """Names of the voices that the package carries."""
    return sorted(p.stem for p in (paths.ASSETS / "voices").glob("*.safetensors"))
