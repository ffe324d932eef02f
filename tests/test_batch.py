"""Texts spoken together are what each is alone."""

import numpy as np
import pytest
from conftest import new_model
from test_synthesis import TEXT, new_voice

from ms_core import synthesis
from ms_core.config import DecodingConfig
from ms_core.speaking.synthesizer import SynthesisError
from ms_core.synthesis import MobileSpeech
from ms_core.text import TextError, chunks, phonemise
from ms_core.tokens import Voice, VoiceError


@pytest.fixture(scope="module")
def tts(codec) -> MobileSpeech:
    return MobileSpeech(codec, new_model(codec), DecodingConfig(steps=(4, 2, 1)))


@pytest.fixture
def voice(codec) -> Voice:
    return new_voice(codec)


LONG = "This one is long, and so it is cut at its pauses. " * 3 + "It ends here."
BATCH = ("Go.", TEXT, LONG, "Who goes there?", "One, two, three.")


@pytest.mark.parametrize("changes", [{}, {"prefix": False, "cross_attention": False, "prompt_copy": False}])
@pytest.mark.parametrize("most", [synthesis.BATCH_FRAMES, 300])
def test_texts_spoken_together_are_what_each_is_alone(codec, changes, most, monkeypatch) -> None:
    """Prompts, texts and grids of different lengths; one text is of several parts."""
    monkeypatch.setattr(synthesis, "BATCH_FRAMES", most)
    tts = MobileSpeech(codec, new_model(codec, **changes), DecodingConfig(steps=(4, 2, 1)))
    tts.chunk_phones = 60
    assert len(chunks(phonemise(LONG), 60)) > 1
    voices = [new_voice(codec, seed % 3) for seed in range(len(BATCH))]
    assert len({v.codes.shape for v in voices}) > 1
    sizes, smd = [], tts.model.smd.forward
    monkeypatch.setattr(tts.model.smd, "forward", lambda c, grid, *rest: sizes.append(len(grid)) or smd(c, grid, *rest))
    together = tts.synthesize_batch(BATCH, voices, seed=5)
    assert len(together) == len(BATCH) and (max(sizes) > len(BATCH) if most > 300 else 1 < max(sizes) < len(BATCH))
    for text, voice, wave in zip(BATCH, voices, together, strict=True):
        assert np.array_equal(wave, tts.synthesize(text, voice, seed=5)), text
    one = tts.synthesize_batch(BATCH[:2], voices[0], steps=(1, 1, 1))
    assert np.array_equal(one[1], tts.synthesize(TEXT, voices[0], steps=(1, 1, 1)))
    assert tts.synthesize_batch([], voices[0]) == []


def test_a_batch_that_cannot_be_spoken_is_refused(tts, voice, tmp_path) -> None:
    voice.save(tmp_path / "v.safetensors")
    assert np.array_equal(tts.synthesize_batch([TEXT], tmp_path / "v.safetensors")[0], tts.synthesize(TEXT, voice))
    with pytest.raises(SynthesisError, match="2 voices for 1 texts: give one, or one for each text"):
        tts.synthesize_batch([TEXT], [voice, voice])
    with pytest.raises(SynthesisError, match="give 3 positive pass counts"):
        tts.synthesize_batch([TEXT], voice, steps=(1,))
    with pytest.raises(SynthesisError, match="seed -1"):
        tts.synthesize_batch([TEXT], voice, seed=-1)
    with pytest.raises(TextError):
        tts.synthesize_batch([TEXT, "..."], voice)
    with pytest.raises(VoiceError):
        tts.synthesize_batch([TEXT], [tmp_path / "none"])
