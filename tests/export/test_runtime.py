"""The numpy side of the runtime does what PyTorch does, and needs no torch."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CODEC, speech

from ms_core.codec import mini as torch_codec
from ms_core.codec.source_filter import SourceFilterDecoder
from ms_core.codec.spectral import istft, stft
from ms_core.export.runtime import MobileError, memory
from ms_core.export.runtime.codec import MobileCodec, Spectrum, render
from ms_core.export.runtime.manifest import FORMAT, CodecConstants, digest, read_manifest


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


def test_peak_memory_on_any_system(tmp_path, monkeypatch) -> None:
    """/proc here; elsewhere getrusage, whose unit differs; on Windows there is neither."""
    assert memory.peak_rss_mb() > 10
    monkeypatch.setattr(memory, "Path", lambda name: tmp_path / "none")
    here = memory.peak_rss_mb()
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert here > 10 and memory.peak_rss_mb() == pytest.approx(here / 1024, rel=0.05)
    monkeypatch.setitem(sys.modules, "resource", None)
    assert math.isnan(memory.peak_rss_mb())
