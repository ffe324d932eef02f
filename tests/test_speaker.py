"""The frozen speaker encoder on tokens: the same voice whatever pads it, told from others, never trained."""

import pytest
import torch

from ms_core import paths
from ms_core.codec import load_codec
from ms_core.codec.mini import MiniCodec
from ms_core.config import CodecConfig, ConfigError
from ms_core.recordings.recogniser import EvaluatorError
from ms_core.speaker import SpeakerEncoder
from ms_core.speaking.synthesizer import Synthesizer


@pytest.fixture(scope="module")
def shipped() -> tuple[MiniCodec, SpeakerEncoder]:
    codec = load_codec(paths.shipped("mini") / "codec")
    encoder = SpeakerEncoder(codec.config)
    encoder.initialise(codec)
    return codec, encoder


def latents_of(codec: MiniCodec, name: str) -> torch.Tensor:
    codes = torch.from_numpy(Synthesizer.load_voice(None, name).codes)[None].long()
    return codec.dequantise(codes).transpose(1, 2)  # (1, s, c)


def test_two_halves_of_a_prompt_are_nearer_than_two_readers(shipped) -> None:
    codec, encoder = shipped
    halves = []
    for name in ("289", "445", "7505", "8123"):
        whole = latents_of(codec, name)
        middle = whole.shape[1] // 2
        halves.append([encoder(x, torch.ones(x.shape[:2], dtype=torch.bool))[0] for x in whole.split(middle, 1)[:2]])
    first, second = (torch.stack(x) for x in zip(*halves, strict=True))
    likeness = first @ second.T
    assert torch.allclose(first.norm(dim=1), torch.ones(4), atol=1e-5)
    assert likeness.argmax(1).tolist() == [0, 1, 2, 3]


def test_padding_and_level_change_nothing(shipped) -> None:
    codec, encoder = shipped
    voice = latents_of(codec, "8123")
    real = torch.ones(voice.shape[:2], dtype=torch.bool)
    padded = torch.cat([voice, torch.randn(1, 37, voice.shape[2])], 1)
    alone = encoder(voice, real)
    assert torch.allclose(encoder(padded, torch.nn.functional.pad(real, (0, 37))), alone, atol=1e-5)
    louder = codec.project(torch.full((1, len(codec.mean), 1), 0.7) + codec.mean[:, None])[0, :, 0]
    assert torch.allclose(encoder(voice + louder, real), alone, atol=0.05)


def test_it_is_never_trained_and_says_what_it_needs(shipped, monkeypatch) -> None:
    _, encoder = shipped
    assert not any(p.requires_grad for p in encoder.parameters())
    with pytest.raises(ConfigError, match="only the mini codec"):
        SpeakerEncoder(CodecConfig()).initialise(MiniCodec(CodecConfig(substeps=1, decoder_layers=1)))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EvaluatorError, match="make evaluators"):
        encoder.initialise(MiniCodec(CodecConfig()))
