"""Multiply-adds of graphs whose counts can be worked out by hand; the sweep's conditions, laws and token shares."""

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import new_model, utterance
from torch import nn

from ms_core.config import DecodingConfig
from ms_core.evaluation import sweep as study
from ms_core.evaluation.bench import multiply_add_records, multiply_adds, training_records
from ms_core.evaluation.records import Provenance
from ms_core.evaluation.sweep import Cell, SweepError
from ms_core.export import graphs as module
from ms_core.export.graphs import Graph
from ms_core.synthesis import MobileSpeech
from ms_core.text import PHONES
from ms_core.tokens import Voice


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
    monkeypatch.setattr(module, "graphs", lambda model, codec, sharpness: known)
    for seconds in (1.0, 4.0):
        frames = 50 * seconds
        found = multiply_adds(tts, seconds)
        assert found["smd"] == 6 * 50 * 6 * 5  # six passes, each a product of every frame
        assert found["codec"] == 2 * 2 * frames * frames * 8 / seconds  # two heads, scores and their use


def test_counts_of_the_model(tts) -> None:
    found = multiply_adds(tts, 2.0)
    assert found.keys() == {"text", "prompt", "duration", "condition", "smd", "codec"} and min(found.values()) > 0
    tts.decoding = DecodingConfig(steps=(10, 1, 1))
    assert multiply_adds(tts, 2.0)["smd"] == 2 * found["smd"]
    assert multiply_adds(tts, 4.0)["codec"] == pytest.approx(found["codec"], rel=0.01)
    records = {r.metric: r.value for r in multiply_add_records(found, Provenance.of("smoke"), "mobilespeech-tiny", 2.0)}
    assert records["multiply_adds_total"] == pytest.approx(sum(found.values()) / 1e6, abs=1e-6)
    assert len(records) == len(found) + 1
    with pytest.raises(ValueError, match="seconds 0"):
        multiply_adds(tts, 0)


@dataclass(frozen=True)
class Enrolled:
    name: str = "v"


class Stub:
    """Takes no time; says a word in half a second, and notes under which conditions it was asked to."""

    sample_rate = 100
    codec = SimpleNamespace(config=SimpleNamespace(n_q=3))
    decoding = DecodingConfig(steps=(2, 1, 1))

    def __init__(self):
        self.calls = []

    def voice(self, prompt, text, seconds=None):
        return Enrolled()

    def synthesize(self, text, voice, seed=0, steps=None, timings=None):
        words = len(text.split())
        self.calls.append((words / 2, torch.get_num_threads(), torch.is_autocast_enabled("cpu"), steps, voice))
        if timings is not None:
            timings |= {"smd": 0.1, "codec": 0.05, "passes": sum(steps)}
        return np.zeros(50 * words, dtype=np.float32)


def test_a_sweep_takes_all_conditions_in_turns() -> None:
    cells = study.plan((1, 2, 3, 4), (1, 2, 8), at=2, own=(2, 1, 1))
    assert len(cells) == 4 * 2 * 2 + 2 and Cell(2.0, passes=2) not in cells  # S=2 is the model's own
    stub, before = Stub(), torch.get_num_threads()
    found = study.sweep(stub, np.zeros(9), "what", cells, repeats=3)
    assert torch.get_num_threads() == before and not torch.is_autocast_enabled("cpu")
    calls = [call for call in stub.calls if call[3]]  # without those that measure how long a word takes
    one = len(calls) // 3
    conditions = [call[:4] for call in calls]
    assert conditions[:one] == conditions[one : 2 * one] == conditions[2 * one :]
    assert conditions[0:one:2] == conditions[1:one:2] and len(set(conditions)) == len(cells)  # untimed, then timed
    assert [seconds for seconds, *_ in conditions[:one]] == sorted(seconds for seconds, *_ in conditions[:one])
    assert {(t, half) for _, t, half, *_ in calls} == {(1, False), (2, False), (1, True), (2, True)}
    assert {steps for *_, steps, _ in calls} == {(2, 1, 1), (1, 1, 1), (8, 1, 1)}
    assert len({id(call[4]) for call in calls}) > 1  # a voice's states are computed anew
    records = study.sweep_records(stub, found, Provenance.of("mini"), "mobilespeech-mini")
    assert len({r.key for r in records}) == len(records)
    by = {(r.name, r.place, r.threads, r.metric): r for r in records}
    assert by["mobilespeech-mini-bf16", "bench-4s", 2, "rtf_smd"].value == pytest.approx(0.1 / 4)
    assert by["mobilespeech-mini-steps8", "bench-2s", 1, "rtf_smd_pass"].value == pytest.approx(0.1 / 20)
    assert by["mobilespeech-mini", "bench-3s", 1, "audio_seconds"].value == 3
    assert by["mobilespeech-mini", "bench-3s", 1, "peak_rss_mb"].n == 3
    hashes = {by[f"mobilespeech-mini{end}", "bench-2s", 1, "rtf_total"].config_hash for end in ("", "-bf16", "-steps8")}
    assert len(hashes) == 2  # precision is no config, passes are


def test_what_makes_no_sweep_is_refused() -> None:
    with pytest.raises(SweepError, match="at least one length"):
        study.plan(())
    with pytest.raises(SweepError, match="above 0"):
        study.plan((1, 2, 3, 4), (0,))
    with pytest.raises(SweepError, match="1 conditions, 0 repeats"):
        study.sweep(Stub(), np.zeros(9), "what", [Cell(1.0)], repeats=0)


def test_tokens_of_bf16_are_compared_with_those_of_fp32(tts, monkeypatch) -> None:
    prompt = utterance(1)
    names = tuple(PHONES[i] for i in prompt.phones)
    voice = Voice(prompt.codes, names, tuple(map(int, prompt.durations)), tts.codec.token_digest)

    def shares() -> dict[str, float]:
        found = study.precision_records(tts, voice, Provenance.of("smoke"), "mobilespeech-tiny", words=(2, 3))
        assert {r.precision for r in found} == {"bf16"} and {r.n for r in found} == {2}
        return {(r.metric, r.layer): r.value for r in found}

    half = shares()
    assert len(half) == 1 + 2 * 3 and min(half.values()) < 1  # bf16 does differ
    monkeypatch.setattr(study, "in_precision", lambda name: nullcontext())
    assert set(shares().values()) == {1.0}

    @contextmanager
    def disturbed(name):
        """Another precision, so to speak, for the first layer alone."""
        bias = tts.model.smd.bias
        before = bias.data.clone()
        bias.data[0] += torch.randn(bias[0].shape, generator=torch.Generator().manual_seed(0)) * 20
        yield
        bias.data.copy_(before)

    monkeypatch.setattr(study, "in_precision", disturbed)
    found = shares()
    assert found["token_agreement_forced", 1] == found["token_agreement_free", 1] < 0.8
    assert found["token_agreement_forced", 2] == 1 > found["token_agreement_free", 2]
    assert found["duration_agreement", None] == 1


def test_hours_of_training_are_told_by_the_checkpoint() -> None:
    made = {"training_hours": 0.5, "hours_before": 3.1}
    (record,) = training_records(made, Provenance.of("mini"), "mobilespeech-mini")
    assert (record.value, record.unit, record.study) == (3.6, "h", "model")
    assert training_records({}, Provenance.of("mini"), "mobilespeech-mini") == []
