"""Multiply-adds of graphs whose counts can be worked out by hand."""

import pytest
import torch
from conftest import new_model
from torch import nn

from ms_core import graphs as module
from ms_core.bench import multiply_add_records, multiply_adds
from ms_core.config import DecodingConfig
from ms_core.graphs import Graph
from ms_core.records import Provenance
from ms_core.synthesize import MobileSpeech


class Attention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


@pytest.fixture
def tts(codec) -> MobileSpeech:
    return MobileSpeech(codec, new_model(codec), DecodingConfig(steps=(4, 1, 1)))


def test_counts_of_known_graphs(tts, monkeypatch) -> None:
    known = {
        "smd": Graph(nn.Linear(6, 5), {"x": torch.zeros(1, 3, 6)}, {"x": {1: "t"}}, ("y",)),
        "codec": Graph(Attention(), {"x": torch.zeros(1, 2, 3, 8)}, {"x": {2: "t"}}, ("y",)),
    }
    known["smd"].module.forward = lambda x: nn.functional.linear(x, known["smd"].module.weight)
    monkeypatch.setattr(module, "graphs", lambda model, codec: known)
    for seconds in (1.0, 4.0):
        frames = 50 * seconds
        found = multiply_adds(tts, seconds)
        assert found["smd"] == 6 * 50 * 6 * 5  # six passes, each a product of every frame
        assert found["codec"] == 2 * 2 * frames * frames * 8 / seconds  # two heads, scores and their use


def test_counts_of_the_model(tts) -> None:
    found = multiply_adds(tts, 2.0)
    assert found.keys() == {"text", "prompt", "condition", "smd", "codec"} and min(found.values()) > 0
    tts.decoding = DecodingConfig(steps=(10, 1, 1))
    assert multiply_adds(tts, 2.0)["smd"] == 2 * found["smd"]
    assert multiply_adds(tts, 4.0)["codec"] == pytest.approx(found["codec"], rel=0.01)
    records = {r.metric: r.value for r in multiply_add_records(found, Provenance.of("smoke"), "tiny", 2.0)}
    assert records["multiply_adds_total"] == pytest.approx(sum(found.values()) / 1e6, abs=1e-6)
    assert len(records) == len(found) + 1
    with pytest.raises(ValueError, match="seconds 0"):
        multiply_adds(tts, 0)
