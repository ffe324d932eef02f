"""The manifest of an exported folder: what is in it, what made it, and whether it is whole."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

FORMAT = "ms-mobile-1"
NAME = "manifest.json"
MAX_BYTES = 1 << 20  # of a manifest


class MobileError(ValueError):
    """An exported folder, a voice or an argument that cannot be used; the message says which and why."""


@dataclass(frozen=True)
class CodecConstants:
    """What the codec's numpy part needs beside its tensors; names as in `ms_core.config.CodecConfig`."""

    sample_rate: int
    hop: int
    n_q: int
    bins: int
    n_fft: int
    substeps: int
    mel_floor: float


@dataclass(frozen=True)
class Decoding:
    """Iterative parallel decoding; names as in `ms_core.config.DecodingConfig`."""

    steps: tuple[int, ...]
    temperature: float
    choice_temperature: float
    duration_scale: float


@dataclass(frozen=True)
class Manifest:
    """One exported folder.

    Attributes:
        precision: "fp32", or "int8" for weights in 8 bits.
        files: name -> {"bytes", "sha256"} of every file beside the manifest.
        phones: the phone table; a symbol's index is its id.
        chunk_phones: a longer text is spoken in parts of at most so many phones.
        runtime: "onnx", or "executorch", whose opset is 0.
        graphs: of ExecuTorch programs, which have no names for them: {"inputs", "outputs"} in their order; an input's
            shape has the name of an axis in place of a length that may vary.
        limits: the greatest length of each such axis.
        language: that the model speaks, a name of `ms_core.text.LANGUAGES`.
    """

    precision: str
    opset: int
    files: dict[str, dict[str, object]]
    phones: tuple[str, ...]
    codec: CodecConstants
    decoding: Decoding
    chunk_phones: int
    token_digest: str
    checkpoint_sha256: str
    licence: str
    provenance: dict[str, object]
    runtime: str = "onnx"
    graphs: dict[str, dict[str, object]] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    language: str = "en"

    @property
    def megabytes(self) -> float:
        """Size of all files but the manifest, in 10^6 bytes."""
        return sum(int(entry["bytes"]) for entry in self.files.values()) / 1e6


def digest(path: Path) -> str:
    """sha256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: str | Path, check: bool = True) -> Manifest:
    """The manifest of an exported folder, whose files are compared with it: sizes and, with `check`, sha256.

    Raises MobileError for a folder without a manifest, one of another format, and a file that is missing or damaged.
    """
    folder = Path(folder)
    path = folder / NAME
    if not path.is_file():
        raise MobileError(f"{folder} holds no {NAME}: give a folder that `ms-core export` wrote")
    if path.stat().st_size > MAX_BYTES:
        raise MobileError(f"{path}: {path.stat().st_size} bytes are too many for a manifest (at most {MAX_BYTES})")
    try:
        values = json.loads(path.read_text())
        found = values.pop("format", None)
        if found != FORMAT:
            raise MobileError(f"{path}: format {found!r}, this runtime reads {FORMAT!r}: export the model again")
        codec, decoding = CodecConstants(**values.pop("codec")), values.pop("decoding")
        decoding = Decoding(**{**decoding, "steps": tuple(decoding["steps"])})
        manifest = Manifest(**{**values, "phones": tuple(values["phones"])}, codec=codec, decoding=decoding)
        for name, entry in manifest.files.items():
            _check_file(folder, name, entry, check)
    except MobileError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MobileError(f"{path}: damaged, or of another version ({type(error).__name__}: {error})") from None
    return manifest


def _check_file(folder: Path, name: str, entry: dict[str, object], check: bool) -> None:
    path = folder / name
    if Path(name).name != name:
        raise MobileError(f"{folder / NAME} names the file {name!r}: only names without a folder are allowed")
    if not path.is_file():
        raise MobileError(f"{path} is missing: copy the whole exported folder")
    if path.stat().st_size != entry["bytes"]:
        raise MobileError(f"{path} has {path.stat().st_size} bytes, the manifest says {entry['bytes']}: copy it again")
    if check and digest(path) != entry["sha256"]:
        raise MobileError(f"{path} is damaged (its sha256 is not the manifest's): copy it again")
