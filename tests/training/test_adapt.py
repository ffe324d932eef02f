"""Adaptation at enrolment: it learns the prompt, touches no other voice, travels with its voice file, and says no."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import global_rng_untouched

from ms_core import MobileSpeech
from ms_core.export.runtime import MobileRuntime
from ms_core.tokens import Voice, VoiceError
from ms_core.training.adapt import adapt

TEXT = "A small lamp lit the room."


@pytest.fixture(scope="module")
def tts() -> MobileSpeech:
    return MobileSpeech.from_pretrained("mini")


@pytest.fixture(scope="module")
def voice(tts) -> Voice:
    """Some 6 s: two shipped prompts end to end, as if one reader had said both."""
    one, two = (tts.load_voice(name) for name in ("8123", "289"))
    codes = np.concatenate([one.codes, two.codes], 1)
    return Voice(codes, one.phones + two.phones, one.durations + two.durations, tts.token_digest)


@pytest.fixture(scope="module")
def adapted(tts, voice) -> Voice:
    with global_rng_untouched():
        return adapt(tts, voice, steps=8)


def likelihood(tts, adapter: dict[str, np.ndarray], checkpoint: str) -> float:
    """Mean log-probability of layer 2 of the prompt's second half, given its layer 1; the first half is the prompt."""
    prompt, target = tts.load_voice("8123"), tts.load_voice("289")
    states = tts.encode_voice(replace(prompt, adapter=adapter, meta={"adapted_to": checkpoint}))
    condition, _ = tts._conditioned(target.phones, states, target.durations)
    codes = np.full_like(target.codes, tts.bins)
    codes[0] = target.codes[0]
    frames = np.arange(codes.shape[1])
    logits = torch.from_numpy(tts.run_pass(condition, states)(codes, 1, frames))
    return logits.log_softmax(-1)[torch.from_numpy(frames), torch.from_numpy(target.codes[1].astype(np.int64))].mean()


def test_it_learns_the_prompt_and_no_other_voice_changes(tts, voice, adapted, tmp_path) -> None:
    before = tts.synthesize(TEXT, "445")
    assert likelihood(tts, adapted.adapter, tts.checkpoint) > likelihood(tts, {}, "") + 0.05
    spoken = tts.synthesize(TEXT, adapted)
    assert not np.array_equal(spoken, tts.synthesize(TEXT, voice))
    assert np.array_equal(tts.synthesize(TEXT, "445"), before)
    adapted.save(tmp_path / "me.safetensors")
    assert (tmp_path / "me.safetensors").stat().st_size < 1 << 20
    loaded = Voice.load(tmp_path / "me.safetensors")
    assert np.array_equal(tts.synthesize(TEXT, loaded), spoken)
    assert np.array_equal(tts.synthesize_batch([TEXT], loaded)[0], spoken)


def test_changes_of_another_model_are_refused(tts, adapted) -> None:
    other = replace(adapted, meta={**adapted.meta, "adapted_to": "0" * 64})
    with pytest.raises(VoiceError, match="adapted to model 000000000000"):
        tts.synthesize(TEXT, other)
    name = next(iter(adapted.adapter))
    for wrong in ({name: adapted.adapter[name]}, {**adapted.adapter, name: np.zeros((2, 3), np.float16)}):
        with pytest.raises(VoiceError, match="do not fit the model"):
            tts.synthesize(TEXT, replace(adapted, adapter=wrong))


def test_too_short_a_prompt_is_refused(tts) -> None:
    with pytest.raises(VoiceError, match="too short to adapt to: enrol one of at least 4 s"):
        adapt(tts, tts.load_voice("8123"))


def test_a_runtime_whose_weights_are_fixed_says_so(adapted) -> None:
    with pytest.raises(VoiceError, match="speaks through PyTorch alone"):
        MobileRuntime._encode_voice(None, adapted)
