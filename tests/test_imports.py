"""Imports go one way, and a missing extra is named in one line."""

import builtins
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from importlinter.cli import lint_imports
from typer.testing import CliRunner

from ms_core import cli, paths
from ms_core.cli import common

PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [*PROJECT["dependencies"]] + [
    f'{requirement}; extra == "{extra}"'
    for extra, found in PROJECT["optional-dependencies"].items()
    for requirement in found
]


def test_the_contracts_between_rooms_are_kept() -> None:
    assert lint_imports(config_filename=str(paths.ROOT / "pyproject.toml"), cache_dir=None) == 0


def test_a_contract_that_is_broken_is_seen(tmp_path: Path) -> None:
    """Data above evaluation: the layers the wrong way round."""
    (tmp_path / "wrong.toml").write_text(
        '[tool.importlinter]\nroot_package = "ms_core"\n[[tool.importlinter.contracts]]\nname = "x"\n'
        'type = "layers"\nlayers = ["ms_core.data", "ms_core.evaluation"]\n'
    )
    assert lint_imports(config_filename=str(tmp_path / "wrong.toml"), cache_dir=None) == 1


@pytest.mark.parametrize(
    ("module", "extra"),
    [("lhotse.recipes", "train"), ("pyworld", "train"), ("faster_whisper", "eval"), ("matplotlib", "notebooks"),
     ("onnx", "mobile"), ("executorch.exir", "executorch"), ("vocos", "paper"),
     ("numpy", None), ("ms_core.nothing", None)],
)  # fmt: skip
def test_the_extra_of_a_module(module: str, extra: str | None) -> None:
    assert common.extra_of(module, REQUIREMENTS) == extra


def test_a_missing_extra_is_one_line_and_exit_code_2(tmp_path: Path, monkeypatch) -> None:
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.partition(".")[0] == "lhotse":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest, **more)

    monkeypatch.setattr(common, "requires", lambda name: REQUIREMENTS)
    for module in [m for m in sys.modules if m.startswith("ms_core.data")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)
    done = CliRunner().invoke(cli.app, ["data", "--preset", "smoke"])
    assert done.exit_code == 2
    assert done.output.strip() == "error: lhotse is not installed: run `pip install 'ms-core[train]'`"


SPEAK = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from ms_core import MobileSpeech
from ms_core.cli import app
tts = MobileSpeech.from_pretrained("mini")
voice = tts.voice(sys.argv[2], text=sys.argv[3])
assert len(tts.synthesize("Go on.", voice)) > 0
app(["synth", "--text", "Go on.", "--voice", "289", "--out", sys.argv[4]])
"""


def test_a_plain_install_enrols_and_speaks(tmp_path: Path) -> None:
    """With nothing but the dependencies that pyproject.toml names outside the extras."""
    base = {re.match(r"[\w-]+", d)[0].replace("_", "-").lower() for d in PROJECT["dependencies"]}
    named = {re.match(r"[\w-]+", r)[0].replace("-", "_") for r in REQUIREMENTS if "extra ==" in r}
    optional = {name for name in named if name.replace("_", "-").lower() not in base} - {"ms_core", "setuptools"}
    assert {"lhotse", "accelerate", "torchaudio", "tqdm", "matplotlib", "pandas", "onnxruntime"} < optional
    prompt = paths.ASSETS / "smoke" / "audio" / "test" / "445-06.opus"
    said = "I would rather walk home tonight, since the moon is so bright and the air is finally cool."
    command = [sys.executable, "-c", SPEAK, " ".join(sorted(optional)), str(prompt), said, str(tmp_path / "o.wav")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "o.wav").stat().st_size > 10_000
