"""ExecuTorch programs on this machine's XNNPACK do what PyTorch does; skipped where ExecuTorch is not installed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CODEC, new_model, stir, utterance

from ms_core.codec.mini import MiniCodec
from ms_core.config import DecodingConfig
from ms_core.evaluation.parity import compare, compare_records
from ms_core.evaluation.records import Provenance, Record
from ms_core.export import executorch as module
from ms_core.export.executorch import LIMITS, ExecutorchRuntime, export_executorch, to_int8
from ms_core.export.graphs import graphs
from ms_core.export.runtime import MobileError, MobileRuntime
from ms_core.synthesis import MobileSpeech
from ms_core.text import PHONES, phonemise
from ms_core.tokens import Voice

pytest.importorskip("executorch.exir", reason="needs pip install 'ms-core[executorch]', which is large")
TEXTS = ("Go on.", "The old bridge was built of grey stone, and every spring the water rose.")


@pytest.fixture(scope="module")
def tts(codec) -> MobileSpeech:
    own = MiniCodec(CODEC)
    own.load_state_dict(codec.state_dict())
    stir(own.decoder, 1)  # as much as the model: with a fifth of it 8 bits change F0 by less than the bound below
    return MobileSpeech(own, new_model(own), DecodingConfig(steps=(6, 2, 1)), "0" * 64)


@pytest.fixture(scope="module")
def voice(tts) -> Voice:
    u = utterance(3)
    names = tuple(PHONES[i] for i in u.phones)
    return Voice(u.codes, names, tuple(u.durations.tolist()), tts.codec.token_digest)


@pytest.fixture(scope="module")
def measured(tts, voice, tmp_path_factory) -> tuple[Path, list[Record]]:
    """Both exports, and what `compare` says; layers of this tiny model are quantised as those of a large one."""
    root = tmp_path_factory.mktemp("pte")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SMALLEST_QUANTISED", 512)
        folders = {name: export_executorch(tts, root / name, int8=name == "int8") for name in ("fp32", "int8")}
    found = compare(tts, folders, TEXTS, voice, repeats=1)
    return root, compare_records(found, Provenance.of("smoke"), "mobilespeech-tiny", 2.0)


def test_programs_give_the_tokens_of_torch(tts, voice, measured, tmp_path) -> None:
    folder = measured[0] / "fp32"
    with pytest.raises(MobileError, match="is an export to executorch"):
        MobileRuntime(folder)
    runtime = ExecutorchRuntime(folder)
    assert runtime.manifest.precision == "fp32"
    assert runtime.manifest.provenance["made_with"].keys() == {"torch", "executorch", "torchao"}
    voice.save(tmp_path / "v.safetensors")
    states = runtime.load_voice(tmp_path / "v.safetensors")
    codes = tts.generate(phonemise(TEXTS[1]), voice)[0]
    wave = runtime.decode(codes)
    assert wave.shape == tts.decode(codes).shape and np.abs(wave).max() > 0
    latent = tts.codec.dequantise(codes[None])
    with torch.inference_mode():
        theirs = graphs(tts.model, tts.codec)["codec"].module(latent)
    # the waveforms themselves part: a small difference of F0 adds up in the phase
    for one, other in zip(runtime._run("codec", latent=latent.numpy()), theirs, strict=True):
        assert one.shape == other.shape and np.abs(one - other.numpy()).max() < 1e-3 * np.abs(other.numpy()).max()
    phones = phonemise("Go on.")
    with pytest.raises(MobileError, match="allows t up to 1024"):
        runtime.generate(phones, states, durations=[LIMITS["t"]] * len(phones))


def test_int8_programs_compute_what_torchao_quantised(tts, voice, measured, monkeypatch) -> None:
    monkeypatch.setattr(module, "SMALLEST_QUANTISED", 512)
    small, full = (ExecutorchRuntime(measured[0] / name) for name in ("int8", "fp32"))
    assert small.manifest.precision == "int8" and small.manifest.megabytes < full.manifest.megabytes
    phones = torch.tensor([[1, 7, 20, 9, 30, 1]])
    text = graphs(tts.model, tts.codec)["text"].module
    with torch.inference_mode():
        exact, quantised = text(phones).numpy(), to_int8(text)(phones).numpy()
    ours = small._run("text", phones=phones.numpy())[0]
    away = np.abs(quantised - exact).max()
    assert 1e-4 < away < 0.1 * np.abs(exact).max()  # it is quantised, and near
    assert np.abs(ours - quantised).max() < 0.1 * away  # and the program does just that
    assert all(type(p) is torch.nn.Parameter for p in tts.model.parameters())  # the model is left alone
    wave = small.synthesize(TEXTS[1], voice)
    assert np.isfinite(wave).all() and np.abs(wave).max() > 0


def test_records_of_programs(measured) -> None:
    records = [r for r in measured[1] if r.runtime == "executorch"]
    assert {r.precision for r in records} == {"fp32", "int8"}
    values = {(r.precision, r.metric): r for r in records if r.layer is None}
    tokens = [r for r in records if r.layer]
    assert len(values) + len(tokens) == len(records) and len(tokens) == 2 * 2 * CODEC.n_q
    assert all(r.value == 1 for r in (*tokens, values["fp32", "duration_agreement"]) if r.precision == "fp32")
    assert all(0 <= r.value <= 1 and r.n == 2 for r in tokens)
    assert values["int8", "size_mb"].value < values["fp32", "size_mb"].value
    assert values["int8", "rtf_total"].value > 0 and ("int8", "peak_rss_mb") not in values
