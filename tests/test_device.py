"""Synthesis puts every tensor on its device, and is timed there; shown on a machine without one.

Under torch's fake tensors a "cuda" tensor has a shape and a device, and no values; an operation on tensors of two
devices raises, as it would on a GPU. What comes back to numpy must have come to the CPU first, and is zeros here.
"""

import functools
import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CODEC, new_model
from test_cli import good, refused
from test_synthesis import new_voice
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from ms_core.codec import mini
from ms_core.codec.mini import MiniCodec
from ms_core.config import DecodingConfig
from ms_core.synthesis import MobileSpeech
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
    return tts, [new_voice(tts, seed) for seed in (0, 1)]


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
    tts.model.smd.prior._buffers["codebooks"] = tts.model.smd.prior.codebooks.cpu()


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


# -- clocks ----------------------------------------------------------------------------------------------------------


def test_time_of_a_device_that_runs_beside_counts_where_it_was_begun(codec, monkeypatch) -> None:
    voice = new_voice(codec)
    tts = MobileSpeech(codec, new_model(codec), DecodingConfig(steps=(1, 1, 1)))
    encode, queue, begun = tts.encode_voice, [], []

    def begin(voice):
        if not begun:  # later calls find it kept
            queue.append(1.0)
        begun.append(voice)
        return encode(voice)

    monkeypatch.setattr(tts, "encode_voice", begin)
    monkeypatch.setattr(tts, "_wait", lambda: time.sleep(sum(queue)) or queue.clear())
    tts.synthesize("Go.", voice)  # the dictionary is read
    queue.clear(), begun.clear()
    tts.synthesize("Go.", voice, timings=(timings := {}))
    assert timings.pop("prompt") >= 1.0 and timings.pop("passes") == 3
    assert timings.keys() == {"text", "duration", "smd", "codec"} and sum(timings.values()) < 1.0
    begun.clear()
    tts.synthesize("Go.", voice)
    assert queue  # without a clock nothing waits


def test_a_bench_on_a_device(codec, tmp_path, monkeypatch) -> None:
    """The parts are timed where they are computed; "cuda" is a stand-in that computes on the CPU."""
    pair, made = tmp_path / "pair", {"name": "tiny", "data": {}}
    codec.save(pair / "codec", made)
    new_model(codec).save(pair / "model", codec, made)
    for more in (["--sweep"], ["--peers"]):
        assert "compare speeds on cpu" in refused("bench", "--model", pair, "--device", "cuda", *more)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refused("bench", "--model", pair, "--device", "cuda") == "error: --device cuda: this machine has cpu"
    load, waits = MobileSpeech.from_pretrained, []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)

    def loaded(name, device):
        tts = load(name)
        tts._wait = functools.partial(MobileSpeech._wait, SimpleNamespace(device=torch.device(device)))
        return tts

    monkeypatch.setattr(MobileSpeech, "from_pretrained", loaded)
    words = ["bench", "--model", pair, "--seconds", 0.5, "--repeats", 1, "--device", "cuda", "--json"]
    assert {record["device"] for record in json.loads(good(*words))} == {"a cuda"}
    assert len(waits) >= 5 and set(waits) == {torch.device("cuda")}
