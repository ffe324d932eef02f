"""Files that appear whole or not at all, JSON that is equal for equal values, sound as WAV, and sha256."""

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

UNKNOWN = 0xFFFFFFFF  # bytes of a WAV file whose end is not known when it begins


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends well; else it goes, and `path` stays."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except SafetensorError as error:  # its word for a full disk, too
        raise OSError(f"{path}: cannot be written ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary_path)` beside `path`, then rename; a failure leaves nothing behind and `path` as it was."""
    with replacing(path) as temporary:
        write(temporary)


def json_text(value: object) -> str:
    """Indented, with sorted keys: equal values give equal files."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def write_json(path: Path, value: object) -> None:
    """Atomic; see `json_text`."""
    text = json_text(value)
    write_atomic(path, lambda temporary: temporary.write_text(text))


class AudioError(ValueError):
    """A recording that cannot be used, or sound that cannot be written, with the reason."""


def pcm_bytes(wav: np.ndarray) -> bytes:
    """Float samples (L,) as 16-bit little-endian integers; what lies outside [-1, 1] is clipped."""
    return np.rint(np.clip(wav, -1, 1) * 32768.0).clip(max=32767).astype("<i2").tobytes()


def comment_chunk(comment: str) -> bytes:
    """A comment as the chunk of a WAV file that holds it (LIST, INFO, ICMT); nothing for none."""
    text = comment.encode() + b"\0"
    text += b"\0" * (len(text) % 2)
    info = b"INFOICMT" + len(text).to_bytes(4, "little") + text
    return b"LIST" + len(info).to_bytes(4, "little") + info if comment else b""


def wav_head(sample_rate: int, size: int, comment: str = "") -> bytes:
    """What stands before so many bytes of 16-bit mono samples in a WAV file; `UNKNOWN` for a stream."""
    head = struct.pack("<4s4sIHHIIHH", b"WAVE", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    head += comment_chunk(comment) + struct.pack("<4sI", b"data", size)
    return struct.pack("<4sI", b"RIFF", min(len(head) + size, UNKNOWN)) + head


def wav_bytes(wav: np.ndarray, sample_rate: int, comment: str = "") -> bytes:
    """Float samples (L,) as a 16-bit mono WAV file; see `pcm_bytes`."""
    samples = pcm_bytes(wav)
    return wav_head(sample_rate, len(samples), comment) + samples


def write_wav(path: str | Path, wav: np.ndarray, sample_rate: int, comment: str = "") -> Path:
    """Write `wav_bytes`; the file appears whole or not at all.

    Raises AudioError for samples that are no finite floats (L,), another suffix than .wav and a failed write.
    """
    path, wav = Path(path), np.asarray(wav)
    if path.suffix.lower() != ".wav":
        raise AudioError(f"cannot write {path}: only WAV is written, give a name that ends in .wav")
    if wav.ndim != 1 or not len(wav) or not np.issubdtype(wav.dtype, np.floating) or not np.isfinite(wav).all():
        raise AudioError(f"cannot write {path}: not finite float samples (L,) but {wav.dtype} of shape {wav.shape}")
    if not path.parent.is_dir():
        raise AudioError(f"cannot write {path}: No such file or directory")
    try:
        write_atomic(path, lambda temporary: temporary.write_bytes(wav_bytes(wav, sample_rate, comment)))
    except OSError as error:
        raise AudioError(f"cannot write {path}: {error.strerror or error}") from error
    return path
