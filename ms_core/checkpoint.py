"""Checkpoints: a folder of `weights.safetensors` and `config.json`, each naming the other's content.

Nothing is ever unpickled. Sizes are bounded before a file is read, and both files appear whole or not at all: each is
written under a temporary name, and only then are they renamed, the JSON last, with the sha256 of the weights inside.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file

MAX_WEIGHTS = 4 << 30  # bytes
MAX_JSON = 16 << 20  # bytes


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which folder and why."""


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
    except safetensors.SafetensorError as error:  # its word for a full disk, too
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


def save_checkpoint(folder: Path, tensors: dict[str, torch.Tensor], meta: dict[str, object]) -> None:
    """Write tensors and meta; raises OSError (a full disk, say) with the earlier checkpoint left whole."""
    folder = Path(folder)
    contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    with replacing(folder / "config.json") as config, replacing(folder / "weights.safetensors") as weights:
        save_file(contiguous, weights)
        config.write_text(json_text({**meta, "weights_sha256": sha256(weights)}))


@contextmanager
def damaged(folder: Path) -> Iterator[None]:
    """Whatever a wrong file brings to fail in the block (a key, a shape, a setting) becomes a CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{folder}: damaged, or of another version ({what})") from error


def load_checkpoint(folder: Path, form: str) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and meta of a checkpoint of format `form`. Raises CheckpointError for anything missing or damaged."""
    folder = Path(folder)
    config, weights = folder / "config.json", folder / "weights.safetensors"
    for path, limit in ((config, MAX_JSON), (weights, MAX_WEIGHTS)):
        if not path.is_file():
            raise CheckpointError(f"{folder}: {path.name} is missing; a checkpoint is {config.name} + {weights.name}")
        if path.stat().st_size > limit:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes, at most {limit} are read")
    try:
        meta = json.loads(config.read_text())
    except ValueError as error:
        raise CheckpointError(f"{config}: not JSON ({error})") from None
    if not isinstance(meta, dict) or meta.get("format") != form:
        found = meta.get("format") if isinstance(meta, dict) else type(meta).__name__
        raise CheckpointError(f"{config}: format {found!r}, expected {form!r}")
    if sha256(weights) != meta.get("weights_sha256"):
        raise CheckpointError(f"{weights}: its sha256 is not the one in config.json: truncated, or of another save")
    try:
        return load_file(weights), meta
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{weights}: not safetensors ({error})") from None


def hours_behind(provenance: Mapping[str, object]) -> float:
    """Hours of training behind a checkpoint, with those of the checkpoints that it started from."""
    return round(sum(float(provenance.get(key, 0)) for key in ("training_hours", "hours_before")), 3)
