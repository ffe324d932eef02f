"""README.md: its blocks run, its commands exist, its files are there, and its numbers are those of the records.

Blocks marked `bash` and `python` are run as they stand; those marked `sh` need a network, recorded speech or hours, so
only their commands and options are looked up.
"""

import os
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from ms_core import cli, paths
from ms_core.config import load_preset
from ms_core.evaluation.records import Record, read_records
from ms_core.report.pipeline import notebook_parameters

README = (paths.ROOT / "README.md").read_text()
MOST_LINES = 160
SYSTEMS = {
    "recording": "ground-truth",
    "recording through our codec": "ground-truth-codec",
    "ours, mini": "mobilespeech-mini",
    "MobileSpeech, the authors' clips": "authors/mobilespeech",
    "VALL-E, the authors' clips": "authors/vall-e",
    "Mega-TTS, the authors' clips": "authors/mega-tts",
    "YourTTS, the authors' clips": "authors/yourtts",
}
NO_RECORD = {  # decimal numbers of README that are of no record -> where they are from
    "7.3": "folder .venv", "4.3": "torch's share of it", ".4": "of a bare installation", "2402.09378": "arXiv",
    "3.11": "Python", "3.2": "hours of speechocean762", "8.9": "hours of LibriSpeech", ".09": "the paper's abstract",
    "4.0": "CC BY", "12.4": "hours of all sets", ".5": "alpha of the preset",
}  # fmt: skip
METRICS = {"wer": 3, "sim_campp": 3, "distillmos": 2}  # columns of the table, with decimals


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def records(*files: str) -> list[Record]:
    return [record for file in files for record in read_records(paths.results("mini") / file)]


def short(value: float, decimals: int) -> str:
    """.076, 1 and 3.83: without a zero in front, or noughts after a whole number."""
    text = f"{value:.{decimals}f}"
    return "1" if float(text) == 1 else text.removeprefix("0")


def test_it_is_short_and_every_block_has_a_language() -> None:
    assert len(README.splitlines()) <= MOST_LINES
    assert README.count("```") == 2 * sum(len(blocks(language)) for language in ("bash", "sh", "python"))
    assert len(re.findall(r"^!\[", README, re.MULTILINE)) == 1


def test_the_python_block_speaks() -> None:
    (block,) = blocks("python")
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    wav = names["wav"]
    assert wav.dtype == np.float32 and 1 < len(wav) / names["tts"].sample_rate < 10 and np.abs(wav).max() > 0.05


def test_the_bash_blocks_run(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name, module in (("ms-core", "-m ms_core.cli"), ("python", "")):
        script = tmp_path / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    for block in blocks("bash"):
        done = subprocess.run(["sh", "-e"], input=block, text=True, capture_output=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("out.wav", "again.wav"))


def test_every_command_and_option_is_there() -> None:
    commands = get_command(cli.app).commands
    lines = [line for language in ("bash", "sh") for block in blocks(language) for line in block.splitlines()]
    words = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    called = [w[1:] for w in words if w and w[0] == "ms-core" and not w[1].startswith("-")]
    assert {name for name, *_ in called} >= {"synth", "voice", "data", "train", "evaluate", "export", "reproduce"}
    for name, *rest in called:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        for option in [word for word in rest if word.startswith("-")]:
            assert option in known, f"ms-core {name} {option}"
    targets = re.findall(r"^([a-z]+):", (paths.ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {w[1] for w in words if w and w[0] == "make"} <= set(targets)
    for _, notebook, *rest in [w for w in words if w and w[0] == "papermill"]:
        assert rest[2] in notebook_parameters(paths.ROOT / notebook)


def test_every_file_is_there() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (paths.ROOT / target).is_file(), target
    for name in re.findall(r"`([\w/]+\.(?:py|yaml))`", README):
        assert (paths.PACKAGE / name).is_file() or (paths.ROOT / name).is_file(), name


def test_every_number_is_of_a_record_or_says_where_it_is_from() -> None:
    prose = re.sub(r"```.*?```|`[^`]*`", "", README, flags=re.DOTALL)
    known = set(NO_RECORD)
    for record in records(*(path.name for path in paths.results("mini").glob("*.json") if path.name != "runs.json")):
        values = [x for x in (record.value, record.ci_low, record.ci_high) if x is not None]
        values += [record.value * 1e-6] * (record.metric == "params")
        known |= {short(value, decimals) for value in values for decimals in (1, 2, 3)}
    numbers = set(re.findall(r"(?<![\w./-])\d*\.\d+(?![\w.]*\w)", prose))
    assert len(numbers) > 10 and not numbers - known, numbers - known
    assert NO_RECORD[".5"] and load_preset("mini").mask.alpha == 0.5


def test_the_index_of_results_names_every_file() -> None:
    text = (paths.ROOT / "results" / "README.md").read_text()
    patterns = [
        name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)
    ]
    folder = paths.ROOT / "results" / "mini"
    files = [path for path in folder.rglob("*") if path.is_file()]
    lacking = [p.name for p in files if not any(fnmatch(str(p.relative_to(folder)), pattern) for pattern in patterns)]
    assert files and not lacking
    for name, rest in re.findall(r"`ms-core (\w+)([^`]*)`", text):
        known = {option for parameter in get_command(cli.app).commands[name].params for option in parameter.opts}
        assert {word for word in rest.split() if word.startswith("--")} <= known, name


def test_the_table_is_that_of_the_records() -> None:
    found = {
        (r.system, r.metric): r
        for r in records("paper-demo.json", "paper-demo.mobilespeech-mini.json")
        if r.pair_with is None and r.n == 35
    }
    rows = [re.sub(r"\*\*", "", line).split("|")[1:-1] for line in README.splitlines() if line.startswith("|")]
    rows = [row for row in rows if len(row) == 1 + len(METRICS) and row[1].strip()[:1] in (".", "1")]
    assert len(rows) == len(SYSTEMS)
    for name, *cells in rows:
        (system,) = {s for n, s in SYSTEMS.items() if re.split(r"[:(]", name)[0].strip() == n}
        for (metric, decimals), cell in zip(METRICS.items(), cells, strict=True):
            record = found[system, metric]
            said = short(record.value, decimals)
            if record.ci_low is not None and said != "1":
                said += f" ({short(record.ci_low, decimals)}-{short(record.ci_high, decimals)})"
            assert cell.strip() == said, f"{name}: {metric}"


@pytest.mark.parametrize(
    ("sentence", "file", "metrics"),
    [
        (r"WER (\.\d+), SIM (\.\d+), DistillMOS (\d\.\d+)\.", "test-clean-24spk.mobilespeech-mini.json", [*METRICS]),
        (r"that to a stranger is (\.\d+)\.", "test-clean-24spk.mobilespeech-mini.json", ["sim_campp_margin"]),
        (r"RTF is (\.\d+) in PyTorch, (\.\d+) in ONNX fp32 and (\.\d+) in int8", "mobile.json", ["rtf_total"] * 3),
        (r"in int8, in (\d+), (\d+) and (\d+) MB", "mobile.json", ["size_mb"] * 3),
        (r"mini: (\d+\.\d) M parameters", "bench-sweep.json", ["params"]),
        (r"in (\.\d+) on the telephone;", "detection.json", ["flagged"]),
    ],
)
def test_sentences_say_what_the_records_say(sentence: str, file: str, metrics: list[str]) -> None:
    said = re.search(sentence, " ".join(README.split())).groups()
    for number, metric in zip(said, metrics, strict=True):
        decimals = len(number.partition(".")[2])
        scale = 1e-6 if metric == "params" else 1
        values = [r.value for r in records(file) if r.metric == metric and r.pair_with is None]
        possible = {short(scale * value, decimals) for value in values}
        assert number in possible, f"{metric}: {number}"
