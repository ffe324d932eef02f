"""Every folder that this project reads or writes, in one place.

All are absolute and follow from this file's own position, so that a notebook, a test and the command line agree from
whatever folder they are started. Two environment variables override: MS_DATA (recorded speech) and MS_RUNS (training
runs and caches); they are read at each call, so that a test can point them elsewhere.
"""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
PRESETS = PACKAGE / "presets"
ASSETS = PACKAGE / "assets"
NOTEBOOKS = ROOT / "notebooks"
RESULTS = ROOT / "results"
FIGURES = ROOT / "figures"


def data() -> Path:
    """The folder of recorded speech: $MS_DATA, else `data/` in the repository."""
    return Path(os.environ.get("MS_DATA") or ROOT / "data").expanduser().resolve()


def runs() -> Path:
    """The folder of training runs, caches and executed notebooks: $MS_RUNS, else `runs/` in the repository."""
    return Path(os.environ.get("MS_RUNS") or ROOT / "runs").expanduser().resolve()


def run(preset: str) -> Path:
    """Where a preset's own training runs and caches lie: `<runs>/<preset>`."""
    return runs() / preset


def results(preset: str) -> Path:
    """Where a preset's JSON records lie."""
    return RESULTS / preset


def figures(preset: str) -> Path:
    """Where a preset's figures lie."""
    return FIGURES / preset


def shipped(preset: str) -> Path:
    """The checkpoint pair that the package ships: `codec/` and `model/` in this folder."""
    return ASSETS / preset
