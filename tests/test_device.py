"""Synthesis puts every tensor on its device, shown on a machine without one.

Under torch's fake tensors a "cuda" tensor has a shape and a device, and no values; an operation on tensors of two
devices raises, as it would on a GPU. What comes back to numpy must have come to the CPU first, and is zeros here.
"""

import numpy as np
import pytest
import torch
from conftest import CODEC, new_model, utterance
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from ms_core.codec import mini
from ms_core.codec.mini import MiniCodec
from ms_core.config import DecodingConfig
from ms_core.synthesis import MobileSpeech
from ms_core.text import PHONES
from ms_core.tokens import Voice

NUMPY = {torch.float32: np.float32, torch.int64: np.int64}
WHOLE = {}  # all parts, as the shipped model has them


@pytest.fixture
def fake(monkeypatch) -> FakeTensorMode:
    """Within it tensors are fake."""

    def numpy(tensor: FakeTensor) -> np.ndarray:
        assert tensor.device.type == "cpu", "a tensor on the GPU goes to numpy"
        return np.zeros(tuple(tensor.shape), NUMPY[tensor.dtype])

    monkeypatch.setattr(FakeTensor, "numpy", numpy, raising=False)
    monkeypatch.setattr(mini, "check_codes", lambda codes, config: None)  # it asks for values
    return FakeTensorMode(allow_non_fake_inputs=True)


def moved(module: torch.nn.Module) -> torch.nn.Module:
    """The module with its parameters and buffers on the fake GPU."""
    for part in module.modules():
        for name, value in list(part.named_parameters(recurse=False)):
            part._parameters[name] = torch.nn.Parameter(value.detach().to("cuda"), requires_grad=False)
        for name, value in list(part.named_buffers(recurse=False)):
            part._buffers[name] = value.to("cuda")
    return module


def speaker(fake: FakeTensorMode, changes: dict[str, object]) -> tuple[MobileSpeech, list[Voice]]:
    codec = MiniCodec(CODEC)
    model = new_model(codec, **changes)
    with fake:
        tts = MobileSpeech(moved(codec), moved(model), DecodingConfig(steps=(4, 2, 1)))
    voices = []
    for seed in (0, 1):
        part = utterance(seed, 3)
        names = tuple(PHONES[i] for i in part.phones)
        voices.append(Voice(part.codes, names, tuple(part.durations.tolist()), tts.token_digest))
    return tts, voices


@pytest.mark.parametrize("changes", [WHOLE, {"codebook_prior": False, "prefix": False, "prompt_durations": False}])
def test_nothing_of_synthesis_stays_on_the_cpu(changes, fake) -> None:
    tts, voices = speaker(fake, changes)
    with fake:
        codes = tts.codec.encode(torch.zeros(1, 1, 8000, device="cuda"))
        assert codes.device == tts.device == torch.device("cuda", 0)
        assert len(tts.synthesize("Who goes there?", voices[0])) > 0
        waves = tts.synthesize_batch(["Go.", "Who goes there?"], voices)
    assert [len(wave) % CODEC.hop for wave in waves] == [0, 0] and 0 < len(waves[0]) < len(waves[1])


def _leave_table(tts: MobileSpeech) -> None:
    tts.model.smd.prior._buffers["books"] = tts.model.smd.prior.books.cpu()


def _leave_codec(tts: MobileSpeech) -> None:
    tts.codec._buffers["books"] = tts.codec.books.cpu()


def _leave_weight(tts: MobileSpeech) -> None:
    weight = tts.model.duration.out.weight
    tts.model.duration.out.weight = torch.nn.Parameter(weight.detach().cpu(), requires_grad=False)


@pytest.mark.parametrize("leave", [_leave_table, _leave_codec, _leave_weight])
def test_a_tensor_left_behind_is_noticed(leave, fake) -> None:
    tts, voices = speaker(fake, WHOLE)
    with fake:
        leave(tts)
    with fake, pytest.raises(RuntimeError, match="device"):
        tts.synthesize("Who goes there?", voices[0])
