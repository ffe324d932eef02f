"""ExecuTorch programs on this machine's XNNPACK do what PyTorch does; skipped where ExecuTorch is not installed."""

import numpy as np
import pytest
import torch
from conftest import CODEC, new_model, stir, utterance

from ms_core.codec import MiniCodec
from ms_core.config import DecodingConfig
from ms_core.executorch_export import LIMITS, ExecutorchRuntime, export_executorch
from ms_core.export_report import agreement
from ms_core.graphs import graphs
from ms_core.mobile import MobileError, MobileRuntime
from ms_core.synthesize import MobileSpeech, Voice
from ms_core.text import PHONES, phonemise

pytest.importorskip("executorch.exir", reason="needs pip install 'ms-core[executorch]', which is large")


def test_programs_give_the_tokens_of_torch(codec, tmp_path) -> None:
    own = MiniCodec(CODEC)
    own.load_state_dict(codec.state_dict())
    stir(own.decoder, 1, 0.02)
    tts = MobileSpeech(own, new_model(own), DecodingConfig(steps=(6, 2, 1)), "0" * 64)
    u = utterance(3)
    voice = Voice(torch.from_numpy(u.codes), tuple(PHONES[i] for i in u.phones), tuple(u.durations), own.token_digest)
    voice.save(tmp_path / "v.safetensors")
    folder = export_executorch(tts, tmp_path / "pte", {"hours": 1})
    with pytest.raises(MobileError, match="is an export to executorch"):
        MobileRuntime(folder)
    runtime = ExecutorchRuntime(folder)
    assert runtime.manifest.provenance["made_with"].keys() == {"torch", "executorch"}
    states = runtime.enrol(tmp_path / "v.safetensors")
    texts = ("Go on.", "The old bridge was built of grey stone, and every spring the water rose.")
    found = agreement(tts, runtime, texts, voice, states)
    assert found == {"forced": [1.0] * CODEC.n_q, "free": [1.0] * CODEC.n_q, "durations": [1.0]}
    codes = tts.generate(phonemise(texts[1]), voice)[0]
    wave = runtime.decode(codes.numpy())
    assert wave.shape == tts.decode(codes).shape and np.abs(wave).max() > 0
    latent = tts.codec.dequantise(codes[None])
    with torch.inference_mode():
        theirs = graphs(tts.model, own)["codec"].module(latent)
    # the waveforms themselves part: a small difference of F0 adds up in the phase
    for one, other in zip(runtime._run("codec", latent=latent.numpy()), theirs, strict=True):
        assert one.shape == other.shape and np.abs(one - other.numpy()).max() < 1e-3 * np.abs(other.numpy()).max()
    phones = phonemise("Go on.")
    with pytest.raises(MobileError, match="allows t up to 1024"):
        runtime.generate(phones, states, durations=[LIMITS["t"]] * len(phones))
