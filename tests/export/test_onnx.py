"""The exported graphs, run by the runtime, do what PyTorch does."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from conftest import CODEC, new_model, stir, utterance

from ms_core.codec.mini import MiniCodec
from ms_core.config import DecodingConfig
from ms_core.decoding import length_regulate
from ms_core.evaluation.parity import PYTORCH, compare, compare_records
from ms_core.evaluation.records import Provenance
from ms_core.export import onnx as module
from ms_core.export.graphs import graphs
from ms_core.export.onnx import ExportError, convert, export
from ms_core.export.runtime import MobileError, MobileRuntime
from ms_core.export.runtime.__main__ import main
from ms_core.speaking.synthesizer import SynthesisError
from ms_core.synthesis import MobileSpeech
from ms_core.text import PHONES, TextError, phonemise
from ms_core.tokens import Voice, VoiceError

TEXTS = ("Go on.", "The old bridge was built of grey stone, and every spring the water rose.", "Why, oh why?")
NEAR = 1e-2  # of the peak: F0 is rounded differently, and its errors add up in the phase


@pytest.fixture(scope="module")
def tts(codec) -> MobileSpeech:
    own = MiniCodec(CODEC)
    own.load_state_dict(codec.state_dict())
    stir(own.decoder, 1, 0.02)
    return MobileSpeech(own, new_model(own), DecodingConfig(steps=(6, 2, 1)), "0" * 64)


@pytest.fixture(scope="module")
def voice(tts) -> Voice:
    u = utterance(3)
    names = tuple(PHONES[i] for i in u.phones)
    return Voice(u.codes, names, tuple(u.durations.tolist()), tts.codec.token_digest)


@pytest.fixture(scope="module")
def folders(tts, tmp_path_factory) -> dict[str, Path]:
    """One conversion, written in both precisions; products of this tiny model are quantised as those of a large one."""
    root, converted = tmp_path_factory.mktemp("export"), convert(tts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SMALLEST_QUANTISED", 512)
        return {
            name: export(tts, root / name, name == "int8", {"hours": 1}, converted=converted)
            for name in ("fp32", "int8")
        }


@pytest.fixture(scope="module")
def runtime(folders) -> MobileRuntime:
    return MobileRuntime(folders["fp32"])


@pytest.fixture(scope="module")
def voice_file(voice, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("voice") / "v.safetensors"
    voice.save(path)
    return path


def test_tokens_and_waveforms_are_those_of_torch(tts, voice, runtime, voice_file) -> None:
    states = runtime.load_voice(voice_file)
    for text in TEXTS:
        phones = phonemise(text)
        for seed, steps in ((0, (1, 1, 1)), (0, None), (1, None), (2, (9, 4, 2))):
            codes, frames = tts.generate(phones, voice, seed, steps)
            ours, our_frames = runtime.generate(phones, states, seed, steps)
            assert our_frames == frames and np.array_equal(ours, codes)
        wav, ours = tts.decode(codes), runtime.decode(codes)
        assert ours.shape == wav.shape and np.abs(ours - wav).max() < NEAR * np.abs(wav).max()
        fewer = tts.decode(codes[:1])
        assert np.abs(runtime.decode(codes[:1]) - fewer).max() < NEAR * np.abs(fewer).max()


def test_synthesis_follows_seed_parts_and_durations(tts, voice, runtime, monkeypatch) -> None:
    states = voice
    for system in (tts, runtime):
        monkeypatch.setattr(system, "chunk_phones", 20)
    timings: dict[str, float] = {}
    once = runtime.synthesize(TEXTS[1], states, seed=4, timings=timings)
    theirs = tts.synthesize(TEXTS[1], voice, seed=4)
    assert once.dtype == np.float32 and once.shape == theirs.shape
    assert np.abs(once - theirs).max() < NEAR * np.abs(theirs).max()
    assert timings.pop("passes") == 9 * len(list(runtime.stream(TEXTS[1], states, first=None)))
    assert timings.keys() == {"text", "prompt", "duration", "smd", "codec"} and min(timings.values()) >= 0
    assert np.array_equal(once, runtime.synthesize(TEXTS[1], states, seed=4))
    assert len(list(runtime.stream(TEXTS[1], states))) > 1
    phones = phonemise("Go on.")
    codes, frames = runtime.generate(phones, states, durations=[2] * len(phones))
    assert frames == [2] * len(phones) and codes.shape == (CODEC.n_q, 2 * len(phones))
    below = codes[:1]
    assert np.array_equal(runtime.generate(phones, states, 1, durations=frames, known=below)[0][:1], below)


def test_a_head_of_one_layer_is_gathered(tts, folders) -> None:
    """Neither are all heads multiplied, nor is the pick a slice by a constant."""
    graph = onnx.load(folders["fp32"] / "smd.onnx", load_external_data=False).graph
    head = (CODEC.n_q, tts.model.config.dim, CODEC.bins)
    names = {t.name for t in graph.initializer if tuple(t.dims) == head}
    users = [n for n in graph.node if names & set(n.input)]
    assert len(names) == 1 and [n.op_type for n in users] == ["Gather"]
    made = {output: node for node in graph.node for output in node.output}
    index = users[0].input[1]
    while index in made:  # reshapes
        index = made[index].input[0]
    assert index == "layer"
    logits = graph.output[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in logits] == [1, "r", CODEC.bins]


def test_files_and_manifest(tts, folders, runtime) -> None:
    manifest, small = runtime.manifest, MobileRuntime(folders["int8"]).manifest
    assert (manifest.precision, small.precision) == ("fp32", "int8")
    assert manifest.token_digest == tts.codec.token_digest and manifest.checkpoint_sha256 == "0" * 64
    assert manifest.provenance["hours"] == 1 and "torch" in manifest.provenance["made_with"]
    on_disk = {p.name for p in folders["fp32"].iterdir()} - {"manifest.json"}
    assert set(manifest.files) == on_disk and "embedding.bin" in on_disk
    assert manifest.megabytes == sum((folders["fp32"] / n).stat().st_size for n in on_disk) / 1e6
    for name in ("prompt.onnx", "smd.onnx", "embedding.bin"):
        assert small.files[name]["bytes"] < manifest.files[name]["bytes"], name
    text = b"".join(p.read_bytes() for p in folders["fp32"].glob("*.onnx"))
    assert b"site-packages" not in text and b"graphs.py" not in text  # no paths of the machine that exported


def test_int8_runs_and_is_near(tts, voice, folders, voice_file) -> None:
    runtime = MobileRuntime(folders["int8"])
    states, theirs = runtime.encode_voice(voice_file), MobileRuntime(folders["fp32"]).encode_voice(voice_file)
    for name, values in theirs.items():
        error = np.abs(states[name] - values).max() / np.abs(values).max()
        assert error < 0.1, (name, error)
        assert error > 0, name
    wav = runtime.synthesize(TEXTS[1], runtime.load_voice(voice_file))
    assert np.isfinite(wav).all() and np.abs(wav).max() > 0
    operators = {n.op_type for n in onnx.load(folders["int8"] / "smd.onnx", load_external_data=False).graph.node}
    assert "MatMulInteger" in operators


def test_damage_and_misuse_are_named(tts, folders, runtime, voice, voice_file, tmp_path) -> None:
    bad = shutil.copytree(folders["fp32"], tmp_path / "bad")
    data = bytearray((bad / "text.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bad / "text.onnx").write_bytes(data)
    with pytest.raises(MobileError, match="text.onnx is damaged"):
        MobileRuntime(bad)
    with pytest.raises(MobileError, match="threads 0"):
        MobileRuntime(folders["fp32"], threads=0)
    with pytest.raises(VoiceError, match="tokens of codec another"):
        runtime.encode_voice(replace(voice, token_digest="another"))
    states = runtime.load_voice(voice_file)
    for call, message in (
        (lambda: runtime.synthesize("Hi.", states, steps=(1, 1)), "give 3 positive"),
        (lambda: runtime.synthesize("Hi.", states, seed=-1), "seed -1"),
        (lambda: runtime.generate(["_", "AY1", "_"], states, durations=[1, 2]), "2 durations for 3 phones"),
        (lambda: runtime.decode(np.full((1, 4), CODEC.bins)), "allowed are 0 to 31"),
        (lambda: runtime.decode(np.zeros((9, 4), dtype=np.int64)), "expected"),
    ):
        with pytest.raises(SynthesisError, match=message):
            call()
    with pytest.raises(TextError):
        runtime.synthesize("...", states)


def test_export_keeps_off_other_folders(tts, folders, tmp_path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(ExportError, match="holds diary.txt, which no export wrote"):
        export(tts, tmp_path, converted={})
    assert [p.name for p in tmp_path.iterdir()] == ["diary.txt"]
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "manifest.json").write_text('{"format": "another"}')  # a manifest, but none of ours
    with pytest.raises(ExportError, match="holds manifest.json, which no export wrote"):
        export(tts, tmp_path / "web", converted={})
    shutil.rmtree(tmp_path / "web")
    encodec = SimpleNamespace(codec=SimpleNamespace(config=SimpleNamespace(kind="encodec")))
    with pytest.raises(ExportError, match="'encodec' cannot be exported"):
        convert(encodec)
    protos = {p.stem: onnx.load(p) for p in folders["fp32"].glob("*.onnx")}
    again = export(tts, tmp_path / "new", converted=protos)
    again = export(tts, again, converted=protos)  # an earlier export is replaced
    assert MobileRuntime(again).manifest.codec == MobileRuntime(folders["fp32"]).manifest.codec
    assert {p.name for p in tmp_path.iterdir()} == {"diary.txt", "new"}
    (again / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="holds notes.txt, which no export wrote"):
        export(tts, again, converted=protos)
    assert (again / "notes.txt").read_text() == "mine" and MobileRuntime(again)


@pytest.mark.parametrize(
    "switch",
    [
        *({name: False} for name in ("prompt_durations", "cross_attention", "prefix", "codebook_prior", "prompt_copy")),
        {"speaker": "pooled"},
    ],
)
def test_graphs_of_every_ablation_agree_with_the_model(codec, switch: dict[str, object]) -> None:
    """In PyTorch, without the exporter: the modules take what the config has, and give the model's own numbers."""
    model = new_model(codec, **switch)
    parts, u, v = graphs(model, codec), utterance(3), utterance(4)
    prompt = [torch.from_numpy(x)[None] for x in (u.codes, u.phones, u.durations)]
    with torch.inference_mode():
        kept = model.voice(*prompt)

        def run(name: str, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            part = parts[name]
            found = part.module(**{k: inputs[k] for k in part.inputs})
            return dict(zip(part.outputs, found if isinstance(found, tuple) else (found,), strict=True))

        def frames_of(durations: np.ndarray) -> dict[str, torch.Tensor]:
            index, position = (torch.from_numpy(x)[None] for x in length_regulate(durations))
            return {"index": index, "position": position}

        words = run("text", phones=prompt[1])["states"]
        given = {"codes": prompt[0], "phones": prompt[1], "durations": prompt[2], "states": words}
        voice = run("prompt", **given, **frames_of(u.durations))
        phones, frames = torch.from_numpy(v.phones)[None], torch.from_numpy(v.durations)[None]
        states = run("text", phones=phones)["states"]
        log_durations = run("duration", states=states, prompt=voice.get("duration_states"))["log_durations"]
        assert torch.allclose(states, model.text(phones), atol=1e-5)
        assert torch.allclose(log_durations, model.predict_durations(states, phones, kept), atol=1e-5)
        given = run("condition", states=states, **frames_of(v.durations), **voice)
        count = v.codes.shape[1]
        condition = model.expand(states, frames, count, kept)
        assert torch.allclose(condition.text, given["text"], atol=1e-5)
        assert (condition.content_scores is None) == ("content_scores" not in given) == (model.smd.copy is None)
        if condition.content_scores is not None:
            assert torch.allclose(condition.content_scores, given["content_scores"], atol=1e-4)
        mask, rows = torch.ones(1, count, dtype=torch.bool), torch.tensor([0, count - 1])
        for layer in range(CODEC.n_q):
            grid = torch.from_numpy(v.codes)[None].clone()
            grid[:, layer:] = CODEC.bins
            theirs, _ = model.smd(condition, grid, torch.tensor([layer]), mask)
            ours = run("smd", codes=grid, layer=torch.tensor([layer]), frames=rows, **given, **voice)["logits"]
            assert torch.allclose(ours, theirs[:, rows], atol=1e-4)


def test_command_line(folders, voice_file, tmp_path, capsys) -> None:
    """In an interpreter of its own, which loads no torch while it speaks."""
    script = (
        "import runpy, sys\n"
        "try: runpy.run_module('ms_core.export.runtime', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    options = [str(folders["int8"]), "--text", TEXTS[0], "--voice", str(voice_file)]
    out = tmp_path / "o.wav"
    command = [sys.executable, "-c", script, *options, "--out", str(out), "--steps", "2,1,1", "--json"]
    command += ["--codes", str(tmp_path / "o.npy")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    found = json.loads(done.stdout)
    assert found["audio_seconds"] > 0 and found["peak_rss_mb"] > 10 and len(found["runs"]) == 1 and out.is_file()
    assert np.load(tmp_path / "o.npy").shape[0] == CODEC.n_q
    assert main([*options, "--out", str(tmp_path / "o.mp3")]) == 2
    assert "give a name that ends in .wav" in capsys.readouterr().err
    assert main([options[0], "--text", "Go 2.", "--show-phones"]) == 0
    assert capsys.readouterr().out == "Go\tG OW1\n2.\tT UW1\n"
    lines = [{"text": TEXTS[0], "voice": str(voice_file)}, {"text": "Go.", "voice": "nobody"},
             {"text": TEXTS[0], "speed": 2, "out": "fast.wav"}]  # fmt: skip
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = [
        options[0],
        "--voice",
        str(voice_file),
        "--jsonl",
        str(tmp_path / "l.jsonl"),
        "--out",
        str(tmp_path / "said"),
    ]
    assert main([*words, "--timestamps", ".vtt", "--steps", "1,1,1"]) == 1
    assert "line 2: no voice file nobody" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "said").iterdir()) == ["1.vtt", "1.wav", "fast.vtt", "fast.wav"]


def test_controls_do_what_they_do_in_pytorch(tts, voice, runtime) -> None:
    text = f"{TEXTS[0]} [pause:1] {TEXTS[1]}"
    other = replace(voice, durations=tuple(2 * d for d in voice.durations), codes=np.repeat(voice.codes, 2, 1))
    for controls in ({"speed": 1.5}, {"rhythm": other}, {"variety": 0.7}, {"lexicon": {"the": "K AA1 R"}}):
        ours, theirs = (system.speak(text, voice, 3, **controls) for system in (runtime, tts))
        assert ours.frames == theirs.frames and ours.words == theirs.words
        assert len(ours.wav) == len(theirs.wav) and ours.frames != tts.speak(text, voice, 3).frames


def test_compare_and_records(tts, folders, voice) -> None:
    found = compare(tts, folders, TEXTS[:2], voice, repeats=2)
    assert set(found) == {PYTORCH, "fp32", "int8"}
    assert found["fp32"]["forced"] == found["fp32"]["free"] == [1.0] * CODEC.n_q
    assert found["fp32"]["durations"] == [1.0]
    assert 0.3 < min(found["int8"]["forced"]) <= 1
    assert found["int8"]["size_mb"] < found["fp32"]["size_mb"] and found["int8"]["peak_rss_mb"] > 10
    assert all(len(v) == 2 and min(v) >= 0 for s in found.values() for v in s["rtf"].values())
    provenance = Provenance.of("smoke", seed=0, threads=1)
    records = compare_records(found, provenance, "mobilespeech-tiny", 2.5)
    assert {(r.runtime, r.precision) for r in records} == {(PYTORCH, None), ("onnx", "fp32"), ("onnx", "int8")}
    assert {r.place for r in records} == {"bench-2.5s", "model"}
    assert len({r.key for r in records}) == len(records)
    with pytest.raises(ValueError, match="0 texts"):
        compare(tts, folders, (), voice)
