"""Checkpoints: a folder of `weights.safetensors` and `config.json`, each naming the other's content.

Nothing is ever unpickled. Sizes are bounded before a file is read, and both files appear whole or not at all: each is
written under a temporary name, and only then are they renamed, the JSON last, with the sha256 of the weights inside.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

import safetensors
import torch
from safetensors.torch import load_file, save_file

from ms_core import paths
from ms_core.files import json_text, replacing, sha256

MAX_WEIGHTS = 4 << 30  # bytes
MAX_JSON = 16 << 20  # bytes


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which folder and why."""


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
        what = f"{error} is missing" if isinstance(error, KeyError) else shorten(str(error), 400)
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
        stated = meta.get("format") if isinstance(meta, dict) else type(meta).__name__
        raise CheckpointError(f"{config}: format {stated!r}, expected {form!r}")
    if sha256(weights) != meta.get("weights_sha256"):
        raise CheckpointError(f"{weights}: its sha256 is not the one in config.json: truncated, or of another save")
    try:
        return load_file(weights), meta
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{weights}: not safetensors ({error})") from None


def total_training_hours(provenance: Mapping[str, object]) -> float:
    """Hours of training behind a checkpoint, with those of the checkpoints that it started from."""
    return round(sum(float(provenance.get(key, 0)) for key in ("training_hours", "hours_before")), 3)


def checkpoint_folder(name: str | Path) -> Path:
    """The folder with `codec/` and `model/` of a shipped checkpoint's name, or of a path.

    Raises CheckpointError where there is neither.
    """
    shipped = paths.shipped(str(name))
    folder = shipped if Path(str(name)).name == str(name) and shipped.is_dir() else Path(name)
    if not folder.is_dir():
        names = sorted(p.parent.name for p in paths.ASSETS.glob("*/model"))
        raise CheckpointError(f"no model {str(name)!r}: give a folder, or one of the shipped {', '.join(names)}")
    return folder


def read_provenance(folder: str | Path) -> dict:
    """What the model of a checkpoint folder says of its training: `name` and `data` of the preset, configs, hours.

    Raises CheckpointError where that cannot be read.
    """
    file = Path(folder) / "model" / "config.json"
    try:
        return dict(json.loads(file.read_text())["provenance"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: cannot read what the model was trained with ({error})") from None
