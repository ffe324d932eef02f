"""Writing of WAV files with the standard library."""

import os
import wave
from pathlib import Path

import numpy as np

from ms_core.export.runtime.manifest import MobileError


def write_wav(path: str | Path, wav: np.ndarray, sample_rate: int) -> Path:
    """Write float samples (L,) as 16-bit mono; what lies outside [-1, 1] is clipped.

    The file appears whole or not at all. Raises MobileError for another suffix than .wav and samples that are no finite
    floats (L,), OSError where it cannot be written.
    """
    path, wav = Path(path), np.asarray(wav)
    if path.suffix.lower() != ".wav":
        raise MobileError(f"cannot write {path}: only WAV is written, give a name that ends in .wav")
    if wav.ndim != 1 or not wav.size or not np.issubdtype(wav.dtype, np.floating) or not np.isfinite(wav).all():
        raise MobileError(f"cannot write {path}: not finite float samples (L,) but {wav.dtype} of shape {wav.shape}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file, wave.open(file, "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(sample_rate)
            out.writeframes(np.rint(np.clip(wav, -1, 1) * 32767).astype("<i2").tobytes())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
