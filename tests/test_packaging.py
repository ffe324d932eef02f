"""What the package carries and says of itself: presets, data files, dependencies, the smoke corpus, our selection."""

import ast
import csv
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

import ms_core
from ms_core import paths
from ms_core.codec import load_codec
from ms_core.config import PRESET_NAMES, DataConfig, ModelConfig, load_preset, parse
from ms_core.data import corpora
from ms_core.data.corpora import DataError, read_cuts
from ms_core.model import MobileSpeechModel
from ms_core.recordings.align import align
from ms_core.recordings.audio import load_speech
from ms_core.report import tables

PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())
OPTIONAL = {"executorch", "torchao", "vocos", "huggingface_hub"}  # asked for by name where they are missing
SMOKE = paths.ASSETS / "smoke"


def manifest() -> list[dict[str, str]]:
    with open(SMOKE / "manifest.tsv", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_presets_load_and_carry_their_own_name(name):
    preset = load_preset(name)
    assert preset.name == name
    assert {p.stem for p in paths.PRESETS.glob("*.yaml")} == {*PRESET_NAMES, "ablations"}  # and the study's variants


def test_presets_differ_where_the_design_says():
    smoke, mini, paper = map(load_preset, PRESET_NAMES)
    assert [p.data.corpus for p in (smoke, mini, paper)] == ["shipped", "librispeech", "libritts"]
    assert (mini.codec.sample_rate, mini.codec.frame_rate, mini.codec.n_q, mini.codec.bins) == (16_000, 50, 8, 1024)
    assert (paper.codec.kind, paper.codec.vocoder, paper.codec.frame_rate) == ("encodec", "vocos", 75)
    assert (paper.model.smd_layers, paper.model.codebook_prior, paper.train_model.latent_weight) == (12, False, 0.0)
    assert smoke.model.dim < mini.model.dim < paper.model.dim


@pytest.mark.parametrize("name", [p.parent.name for p in sorted(paths.ASSETS.glob("*/model"))])
def test_a_shipped_model_is_what_its_preset_says(name):
    preset = load_preset(name)
    folder = paths.shipped(name)
    meta = json.loads((folder / "model" / "config.json").read_text())
    assert parse(ModelConfig, meta["config"], name) == preset.model
    assert meta["decoding"] == preset.decoding.model_dump(mode="json")
    assert meta["provenance"]["name"] == name
    assert MobileSpeechModel.load(folder / "model", load_codec(folder / "codec")).config == preset.model


def test_the_version_has_one_home():
    version = PROJECT["project"]["version"]
    assert importlib.metadata.version("ms-core") == ms_core.__version__ == version
    command = [sys.executable, "-m", "ms_core.cli", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"ms-core {version}\n"
    assert re.search(rf"^## {re.escape(version)} ", (paths.ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (version, PROJECT["project"]["license"])


def test_conda_installs_what_make_installs():
    """environment.yml: pyproject's Python, all extras, and the judges of the Makefile, each with its version."""
    made = yaml.safe_load((paths.ROOT / "environment.yml").read_text())
    conda = [d for d in made["dependencies"] if isinstance(d, str)]
    (pip,) = [d["pip"] for d in made["dependencies"] if isinstance(d, dict)]
    (python,) = [d.removeprefix("python=") for d in conda if d.startswith("python=")]
    assert PROJECT["project"]["requires-python"].startswith(f">={python},")
    assert {"pip", "make", "c-compiler", "cxx-compiler", "ffmpeg"} <= set(conda)
    judges = re.search(r"^EVALUATORS := (.*)$", (paths.ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert pip == ["-e .[all]", *judges]


def test_every_file_of_the_package_is_packed():
    settings = PROJECT["tool"]["setuptools"]
    modules = {p.parent for p in paths.PACKAGE.rglob("__init__.py")}
    assert {str(m.relative_to(paths.ROOT)).replace("/", ".") for m in modules} == set(settings["packages"])
    packed = {p for pattern in settings["package-data"]["ms_core"] for p in paths.PACKAGE.glob(pattern)}
    for path in [*paths.PRESETS.rglob("*"), *paths.ASSETS.rglob("*")]:
        assert path.is_dir() or path in packed, path


def test_every_import_is_a_declared_dependency():
    declared = list(PROJECT["project"]["dependencies"])
    for extra in PROJECT["project"]["optional-dependencies"].values():
        declared += extra
    declared += re.search(r"^EVALUATORS := (.*)$", (paths.ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    names = {re.match(r"[\w.-]+", d)[0].lower().replace("_", "-") for d in declared}
    homes = importlib.metadata.packages_distributions()
    missing = set()
    for path in paths.PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                found = [node.module]
            for top in {name.partition(".")[0] for name in found} - sys.stdlib_module_names - OPTIONAL - {"ms_core"}:
                owners = {d.lower().replace("_", "-") for d in [*homes.get(top, [top]), f"{top}-prebuilt"]}
                if not owners & names:
                    missing.add(f"{path.name}: {top}")
    assert not missing, f"not in pyproject.toml: {sorted(missing)}"


def test_the_licence_is_whole():
    text = (paths.ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "APPENDIX: How to apply the Apache License" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"


def test_the_smoke_corpus_is_small_whole_and_its_speakers_stand_in_one_set():
    rows = manifest()
    assert sum(p.stat().st_size for p in SMOKE.rglob("*") if p.suffix in (".opus", ".tsv", ".md")) < 1_000_000
    assert {p.relative_to(SMOKE).as_posix() for p in SMOKE.rglob("*.opus")} == {row["path"] for row in rows}
    sets: dict[str, set[str]] = {}
    for row in rows:
        sets.setdefault(row["speaker"], set()).add(row["set"])
        info = soundfile.info(SMOKE / row["path"])
        assert (info.samplerate, info.channels, info.format) == (16_000, 1, "OGG")
        assert info.duration == pytest.approx(float(row["seconds"]), abs=2e-3)
    assert all(len(found) == 1 for found in sets.values()) and len(sets) == 7
    smoke = load_preset("smoke")
    frames = sum(float(r["seconds"]) for r in rows if r["set"] == "train") * smoke.codec.frame_rate
    assert frames > 5 * smoke.codec.bins
    card = (SMOKE / "CARD.md").read_text()
    assert "No person speaks here" in card and "Apache-2.0" in card and "CC BY 4.0" in card


def test_the_smoke_corpus_serves_every_part_of_the_preset():
    config = load_preset("smoke").data
    for split, speakers in ((config.train, 4), (config.dev, 1), (config.test, 2)):
        cuts = list(read_cuts(config, split))
        assert len({c.supervisions[0].speaker for c in cuts}) == speakers
        assert all(config.min_seconds <= c.duration <= config.max_seconds for c in cuts)
    assert all(4 <= c.duration <= 10 for c in cuts)  # the protocol's lengths


@pytest.mark.parametrize("row", manifest()[::6], ids=lambda row: row["utt"])
def test_the_aligner_accepts_the_smoke_corpus(row):
    wav = load_speech(SMOKE / row["path"], 16_000)
    assert 0.02 < np.sqrt(np.mean(wav**2)) < 0.2
    assert align(wav, row["text"]).seconds == pytest.approx(float(row["seconds"]), abs=2e-3)


def test_the_selection_of_librispeech_has_the_documented_sizes():
    rows = corpora.selection()
    by_set = {name: [row for row in rows if row["set"] == name] for name in corpora.PARTS}
    counts = {name: (len({r["speaker"] for r in found}), len(found)) for name, found in by_set.items()}
    assert counts == {"train": (250, 2582), "dev-other": (10, 100), "test-clean-24spk": (24, 432)}
    assert len({row["utt"] for row in rows}) == len(rows)
    speakers = [{r["speaker"] for r in found} for found in by_set.values()]
    assert not (speakers[0] & speakers[1] or speakers[0] & speakers[2] or speakers[1] & speakers[2])


def test_a_manifest_is_written_from_librispeechs_own_layout(tmp_path, monkeypatch):
    rows = [
        {"set": "train", "utt": "12-34-0001", "speaker": "12", "sex": "F"},
        {"set": "dev-other", "utt": "56-78-0000", "speaker": "56", "sex": "M"},
    ]
    for row in rows:
        speaker, chapter, _ = row["utt"].split("-")
        folder = tmp_path / "LibriSpeech" / corpora.PARTS[row["set"]] / speaker / chapter
        folder.mkdir(parents=True)
        (folder / f"{speaker}-{chapter}.trans.txt").write_text(f"{row['utt']} A TEXT\nother ANOTHER\n")
        soundfile.write(folder / f"{row['utt']}.flac", np.zeros(16_000), 16_000)
    corpora.write_manifest(tmp_path, rows)
    monkeypatch.setenv("MS_DATA", str(tmp_path))
    (cut,) = read_cuts(DataConfig(), "train")
    supervision = cut.supervisions[0]
    assert (cut.id, cut.duration, supervision.text, supervision.speaker) == ("12-34-0001", 1.0, "A TEXT", "12")
    with pytest.raises(DataError, match="1 recordings or their texts are missing, the first is .*12-34-0002.flac"):
        corpora.write_manifest(tmp_path, [*rows, {**rows[0], "utt": "12-34-0002"}])


def test_accented_speech_is_added_to_a_manifest(tmp_path, monkeypatch):
    sound = np.zeros(16_000)
    soundfile.write(tmp_path / "x.flac", sound, 16_000)
    (tmp_path / "manifest.tsv").write_text("\t".join(corpora.COLUMNS) + "\ntrain\tx\t1\tF\t1.0\tx.flac\tA TEXT\n")
    utterances = {"train": ("000240010", "0024"), "test": ("000010011", "0001")}  # the second is a child
    for part, (utt, speaker) in utterances.items():
        folder = tmp_path / "speechocean762" / part
        folder.mkdir(parents=True)
        (folder / "text").write_text(f"{utt}\tHELLO THERE\n")
        (folder / "utt2spk").write_text(f"{utt}\t{speaker}\n")
        (folder / "wav.scp").write_text(f"{utt}\tWAVE/SPEAKER{speaker}/{utt}.WAV\n")
        audio = tmp_path / "speechocean762" / "WAVE" / f"SPEAKER{speaker}" / f"{utt}.WAV"
        audio.parent.mkdir(parents=True)
        soundfile.write(audio, sound, 16_000)
    for _ in range(2):  # a second time changes nothing
        corpora.add_accented(tmp_path)
    monkeypatch.setenv("MS_DATA", str(tmp_path))
    one, other = read_cuts(DataConfig(), "train+train-accented")
    assert (one.id, other.id) == ("x", "000240010")
    assert (other.supervisions[0].speaker, other.supervisions[0].text) == ("so0024", "HELLO THERE")
    with pytest.raises(DataError, match="unpack speechocean762"):
        corpora.add_accented(tmp_path / "empty")
    assert len(corpora.ADULTS.read_text().splitlines()) == 1 + 128


def test_what_to_fetch_follows_from_corpus_and_split():
    mini, paper = load_preset("mini").data, load_preset("paper").data
    assert corpora.archives(mini) == ["train-clean-100", "test-other", "test-clean"]
    assert corpora.archives(mini, "dev-clean") == ["dev-clean"]
    with pytest.raises(DataError, match="set train-open of librispeech's manifest is from elsewhere: .*cannot be"):
        corpora.archives(mini, "train-open")
    assert corpora.archives(paper)[:3] == ["train-clean-100", "train-clean-360", "train-other-500"]
    with pytest.raises(DataError, match="librispeech has no part train-clean: choose among"):
        corpora.archives(mini, "train-clean")
    with pytest.raises(DataError, match="comes with the package"):
        corpora.archives(load_preset("smoke").data)


def test_make_and_ci_agree():
    """`make test` and `make reproduce` start from a fresh virtual environment; CI calls `make test`."""
    ci = paths.ROOT / ".ci" / "run"
    assert "make test" in ci.read_text() and ci.stat().st_mode & 0o111
    fresh = {"VENV": "/nowhere/venv", "PATH": "/usr/bin:/bin"}
    for target, command in (("test", "pytest -q tests"), ("reproduce", "ms-core reproduce --preset smoke")):
        plan = subprocess.run(
            ["make", "-n", target, "VENV=/nowhere/venv"], cwd=paths.ROOT, env=fresh, capture_output=True, text=True
        )
        assert plan.returncode == 0, plan.stderr
        lines = plan.stdout.splitlines()
        assert lines[0].endswith("-m venv /nowhere/venv") and '-e ".[all]"' in lines[1]
        assert any(command in line for line in lines)


def test_the_tables_of_mini_say_what_its_records_say_of_the_shipped_model():
    tables.check("mini", paths.ROOT / "results" / "mini")


def test_no_file_is_made_by_importing(tmp_path):
    code = "import ms_core.cli, ms_core.paths, ms_core.config"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert list(Path(tmp_path).iterdir()) == []
