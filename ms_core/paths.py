"""Every folder that this project reads or writes, in one place.

All are absolute. In the repository they follow from this file's own position, so that a notebook, a test and the
command line agree from whatever folder they are started; an installed package works in the working folder. Three
environment variables override: MS_HOME (all of it), MS_DATA (recorded speech) and MS_RUNS (training runs and caches);
they are read at each call, so that a test can point them elsewhere.
"""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
PRESETS = PACKAGE / "presets"
ASSETS = PACKAGE / "assets"
NOTEBOOKS = ROOT / "notebooks"  # the repository's own


def home() -> Path:
    """Where notebooks, results, figures, data and runs lie: $MS_HOME, else the repository, else the working folder."""
    repository = ROOT if (ROOT / "pyproject.toml").is_file() else Path.cwd()
    return Path(os.environ.get("MS_HOME") or repository).expanduser().resolve()


def data() -> Path:
    """The folder of recorded speech: $MS_DATA, else `data/` at home."""
    return Path(os.environ.get("MS_DATA") or home() / "data").expanduser().resolve()


def runs() -> Path:
    """The folder of training runs and caches: $MS_RUNS, else `runs/` at home."""
    return Path(os.environ.get("MS_RUNS") or home() / "runs").expanduser().resolve()


def run(preset: str) -> Path:
    """Where a preset's own training runs and caches lie: `<runs>/<preset>`."""
    return runs() / preset


def results(preset: str) -> Path:
    """Where a preset's JSON records, tables and executed notebooks lie."""
    return home() / "results" / preset


def figures(preset: str) -> Path:
    """Where a preset's figures lie."""
    return home() / "figures" / preset


def shipped(preset: str) -> Path:
    """The checkpoint pair that the package ships: `codec/` and `model/` in this folder."""
    return ASSETS / preset


class OutputError(ValueError):
    """A file that cannot be written; the message says why."""


def check_out(path: Path, *suffixes: str, option: str = "--out") -> None:
    """Raises OutputError, before any work is done, for a file's name that cannot be written."""
    if path.suffix.lower() not in suffixes:
        raise OutputError(f"{option} {path}: give a name that ends in {', '.join(suffixes)}")
    if path.is_dir():
        raise OutputError(f"{option} {path} is a folder: give a file's name")
    if not path.parent.is_dir():
        raise OutputError(f"{option} {path}: there is no folder {path.parent}")
