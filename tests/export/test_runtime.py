"""The numpy side of the runtime does what PyTorch does, and needs no torch."""

import json
import math
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import CODEC, new_model, speech, utterance
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_core.codec import mini as torch_codec
from ms_core.codec.source_filter import SourceFilterDecoder
from ms_core.codec.spectral import istft, stft
from ms_core.decoding import fill_grid as torch_fill_grid
from ms_core.decoding import gumbel
from ms_core.decoding import still_masked as torch_still_masked
from ms_core.encoder import regulate as torch_regulate
from ms_core.encoder import round_durations as torch_round_durations
from ms_core.export.runtime import MobileError, MobileVoice, write_wav
from ms_core.export.runtime.codec import MobileCodec, Spectrum, render
from ms_core.export.runtime.decoding import Noise, fill_grid, log_softmax, regulate, round_durations, still_masked
from ms_core.export.runtime.manifest import FORMAT, CodecConstants, digest, read_manifest
from ms_core.prompt import Condition
from ms_core.text import PHONES
from ms_core.tokens import Voice


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**32 - 1, 2**32 + 5, 2**40 + 17])
def test_noise_is_torch_rand_bit_for_bit(seed: int) -> None:
    generator, noise = torch.Generator().manual_seed(seed), Noise(seed)
    for shape in ((3,), (17, 1024), (500,), (321, 10), (1,), (7, 5, 3)):  # one after the other: the state goes on
        theirs, ours = torch.rand(shape, generator=generator).numpy(), noise.uniform(shape)
        assert ours.dtype == np.float32 and np.array_equal(theirs, ours)


def test_noise_of_some_rows_is_that_of_all() -> None:
    rows = np.array([0, 3, 4])
    some, all_ = Noise(5), Noise(5)
    assert np.array_equal(some.gumbel((6, 40), rows), all_.gumbel((6, 40))[rows])
    assert np.array_equal(some.uniform((9,)), all_.uniform((9,)))
    theirs = gumbel((1, 6, 40), [6], [torch.Generator().manual_seed(5)], torch.device("cpu"))[0].numpy()
    assert np.allclose(Noise(5).gumbel((6, 40)), theirs, rtol=0, atol=2e-6)


def test_log_softmax() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 300)).astype(np.float32) * 20
    theirs = torch.from_numpy(logits).log_softmax(-1).numpy()
    assert log_softmax(logits).dtype == np.float32 and np.allclose(log_softmax(logits), theirs, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1, 5, width=32), min_size=1, max_size=60), st.sampled_from([0.5, 1.0, 1.3]), st.integers(0, 9)
)
def test_durations_and_length_regulator(logs: list[float], scale: float, seed: int) -> None:
    log_durations = np.array(logs, dtype=np.float32)
    spoken = np.random.default_rng(seed).random(len(logs)) < 0.7
    spoken[0] = True  # so that there is a frame
    ours = round_durations(log_durations, spoken, scale)
    one = torch.ones(1, len(logs), dtype=torch.bool)
    theirs = torch_round_durations(torch.from_numpy(log_durations)[None], one, torch.from_numpy(spoken)[None], scale)
    assert np.array_equal(ours, theirs[0].numpy())
    states = torch.randn(1, len(logs), 3, generator=torch.Generator().manual_seed(seed))
    expanded, place = torch_regulate(states, theirs, int(theirs.sum()))
    index, ours_place = regulate(ours)
    assert np.array_equal(states[0, index].numpy(), expanded[0].numpy())
    assert np.allclose(ours_place, place[0].numpy(), rtol=0, atol=1e-6)


def test_schedule() -> None:
    for frames in (1, 2, 7, 500):
        for steps in (1, 4, 16):
            for step in range(1, steps + 1):
                assert still_masked(frames, step, steps) == torch_still_masked(frames, step, steps)


@pytest.mark.parametrize("temperatures", [(1.0, 1.0), (0.0, 1.0), (0.7, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize("known", [0, 1])
def test_decoding_loop_gives_the_tokens_of_torch(codec, temperatures: tuple[float, float], known: int) -> None:
    """The same logits go to both loops, so the tokens must be the same, all of them."""
    model, frames, steps = new_model(codec, seed=3), 41, (7, 3, 1)
    prompt = utterance(1)
    with torch.inference_mode():
        voice = model.voice(
            *(torch.from_numpy(x)[None] for x in (prompt.codes, prompt.phones, prompt.durations))
        ).prompt
        condition = Condition(torch.randn(1, frames, 32, generator=torch.Generator().manual_seed(1)), voice)
        mask = torch.ones(1, frames, dtype=torch.bool)
        below = torch.from_numpy(utterance(2, 30).codes[:known, :frames])

        def run_pass(codes: np.ndarray, layer: int, rows: np.ndarray) -> np.ndarray:
            assert (codes[layer, rows] == CODEC.bins).all() and (codes[layer] == CODEC.bins).sum() == len(rows)
            logits, _ = model.smd(condition, torch.from_numpy(codes)[None], torch.tensor([layer]), mask)
            return logits[0, rows].numpy()

        for seed in range(3):
            generators = [torch.Generator().manual_seed(seed)]
            theirs = torch_fill_grid(
                model.smd, condition, mask, steps, generators, *temperatures, below[None] if known else None
            )[0]
            ours = fill_grid(
                run_pass, 3, CODEC.bins, frames, steps, seed, *temperatures, below.numpy() if known else None
            )
            assert np.array_equal(ours, theirs.numpy())


@pytest.mark.parametrize(("n_fft", "hop", "frames"), [(640, 160, 50), (512, 128, 3), (400, 160, 20), (640, 160, 1)])
def test_spectra_agree_with_torch(n_fft: int, hop: int, frames: int) -> None:
    wav = np.random.default_rng(0).normal(size=frames * hop).astype(np.float32)
    theirs = stft(torch.from_numpy(wav)[None], n_fft, hop)
    spectrum = Spectrum(n_fft, hop, frames)
    assert np.allclose(spectrum.analyse(wav), theirs[0].T.numpy(), atol=1e-4)
    back = spectrum.synthesise(theirs[0].T.numpy())
    assert np.allclose(back, istft(theirs, n_fft, hop)[0].numpy(), atol=1e-5)


def test_rendering_agrees_with_torch() -> None:
    decoder = SourceFilterDecoder(CODEC).eval()
    frames, bins = 800, CODEC.n_fft // 2 + 1
    generator = torch.Generator().manual_seed(0)
    log_f0 = torch.linspace(math.log(40), math.log(700), frames)[None]  # beyond both ends of what is allowed
    filters = [torch.randn(1, bins, frames, generator=generator) for _ in range(3)]
    with torch.inference_mode():
        theirs = decoder.render(log_f0, *filters)[0].numpy()
    ours = render(
        log_f0[0].numpy(), *(f[0].T.contiguous().numpy() for f in filters), CODEC.n_fft, decoder.step, CODEC.sample_rate
    )
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 2e-3 * np.abs(theirs).max()


def test_tokens_of_a_waveform_agree_with_torch(codec) -> None:
    fields = CodecConstants.__dataclass_fields__
    constants = CodecConstants(**CODEC.model_dump(include=set(fields)), mel_floor=torch_codec.MEL_FLOOR)
    names = ("mel_basis", "mean", "components", "books")
    ours = MobileCodec(constants, {k: getattr(codec, k).numpy() for k in names})
    for seed, length in ((7, 16_000), (8, 12_345)):
        wav = speech(2.0, seed)[:length]
        theirs = codec.encode(torch.from_numpy(wav)[None, None])[0].numpy()
        codes = ours.encode(wav)
        assert codes.shape == theirs.shape == (CODEC.n_q, -(-length // CODEC.hop))
        assert (codes == theirs).mean() > 0.99  # an entry may be as near as another, up to rounding
        latent = codec.dequantise(torch.from_numpy(codes)[None])[0].numpy()
        assert np.allclose(ours.dequantise(codes), latent, atol=1e-5)


def test_write_wav(tmp_path) -> None:
    wav = np.linspace(-1.2, 1.2, 999, dtype=np.float32)
    path = write_wav(tmp_path / "a.wav", wav, 16_000)
    back, rate = soundfile.read(path)
    assert rate == 16_000 and np.abs(back - wav.clip(-1, 1)).max() < 1e-4
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getnframes()) == (1, 2, 999)
    for name, bad in (("a.mp3", wav), ("b.wav", wav[:0]), ("c.wav", np.array([np.nan])), ("d.wav", np.zeros((2, 3)))):
        with pytest.raises(MobileError, match="cannot write"):
            write_wav(tmp_path / name, bad, 16_000)
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_voice_files_are_those_of_the_package(tmp_path) -> None:
    u = utterance(5)
    names = tuple(PHONES[i] for i in u.phones)
    voice = Voice(torch.from_numpy(u.codes), names, tuple(u.durations.tolist()), "abc", {"text": "hallo"})
    voice.save(tmp_path / "v.safetensors")
    found = MobileVoice.load(tmp_path / "v.safetensors")
    assert np.array_equal(found.codes, u.codes) and found.phones == names and found.durations == voice.durations
    assert found.token_digest == "abc" and found.meta == {"text": "hallo"}
    with pytest.raises(MobileError, match="no voice file"):
        MobileVoice.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no voice at all")
    with pytest.raises(MobileError, match="not a voice file"):
        MobileVoice.load(tmp_path / "bad.safetensors")
    Voice(voice.codes[:, 1:], names, voice.durations, "abc").save(tmp_path / "short.safetensors")
    with pytest.raises(MobileError, match="durations"):
        MobileVoice.load(tmp_path / "short.safetensors")


def folder_of(path: Path, **changes: object) -> Path:
    """A folder with one file and a manifest."""
    path.mkdir()
    (path / "a.bin").write_bytes(b"12345")
    codec = {**CODEC.model_dump(include=set(CodecConstants.__dataclass_fields__)), "mel_floor": 0.1}
    values = {
        "format": FORMAT, "precision": "fp32", "opset": 20, "phones": ["_"], "codec": codec, "chunk_phones": 9,
        "files": {"a.bin": {"bytes": 5, "sha256": digest(path / "a.bin")}}, "token_digest": "t", "licence": "x",
        "decoding": {"steps": [1], "temperature": 1.0, "choice_temperature": 1.0, "duration_scale": 1.0},
        "checkpoint_sha256": "c", "provenance": {},
    }  # fmt: skip
    (path / "manifest.json").write_text(json.dumps({**values, **changes}))
    return path


def test_manifest_errors(tmp_path) -> None:
    good = folder_of(tmp_path / "good")
    assert read_manifest(good).megabytes == 5e-6 and read_manifest(good).decoding.steps == (1,)
    (good / "a.bin").write_bytes(b"12346")
    assert read_manifest(good, check=False).precision == "fp32"
    with pytest.raises(MobileError, match="a.bin is damaged"):
        read_manifest(good)
    (good / "a.bin").write_bytes(b"1234")
    with pytest.raises(MobileError, match="has 4 bytes, the manifest says 5"):
        read_manifest(good, check=False)
    (good / "a.bin").unlink()
    with pytest.raises(MobileError, match="a.bin is missing"):
        read_manifest(good)
    with pytest.raises(MobileError, match="holds no manifest.json"):
        read_manifest(tmp_path)
    with pytest.raises(MobileError, match="format 'ms-mobile-0'"):
        read_manifest(folder_of(tmp_path / "old", format="ms-mobile-0"))
    with pytest.raises(MobileError, match="damaged, or of another version"):
        read_manifest(folder_of(tmp_path / "wrong", codec={"hop": 1}))
    with pytest.raises(MobileError, match="without a folder"):
        read_manifest(folder_of(tmp_path / "far", files={"../a.bin": {"bytes": 5, "sha256": "0"}}))


def test_importing_the_runtime_imports_no_torch() -> None:
    script = "import sys, ms_core.export.runtime.__main__; print([m for m in sys.modules if m in sys.argv[1:]])"
    heavy = ["torch", "torchaudio", "lhotse", "jaxtyping", "pydantic", "scipy", "ms_core.model", "ms_core.codec.mini"]
    done = subprocess.run([sys.executable, "-c", script, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
