"""Phone encoder, durations, length regulator."""

import math

import pytest
import torch
from conftest import MODEL, stir
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_core.encoder import DurationExtractor, DurationPredictor, Frames, PhoneEncoder, length_regulate

PHONES = 73


def build(cls, *args, seed: int = 0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = cls(*args).eval()
    stir(module, seed)
    return module


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


rows = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=8), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(rows, st.integers(0, 4))
def test_regulate_and_frame_phones_do_what_a_loop_does(durations: list[list[int]], beyond: int) -> None:
    longest = max(len(row) for row in durations)
    frames = max(sum(row) for row in durations) + beyond
    table = torch.tensor([row + [0] * (longest - len(row)) for row in durations])
    states = noise(len(durations), longest, 3)
    expanded, place = length_regulate(states, table, frames)
    spoken = Frames.of(table, frames).phones(torch.arange(1, longest + 1).expand(len(durations), -1))
    assert expanded.shape == (len(durations), frames, 3)
    assert place.shape == (len(durations), frames, 2)
    for b, row in enumerate(durations):
        t = 0
        for phone, length in enumerate(row):
            for k in range(length):
                assert torch.equal(expanded[b, t], states[b, phone])
                assert place[b, t].tolist() == pytest.approx([(k + 0.5) / length, math.log1p(length)])
                assert spoken[b, t] == phone + 1
                t += 1
        assert not expanded[b, t:].any()
        assert not place[b, t:].any()
        assert not spoken[b, t:].any()


def test_phones_are_encoded_alike_in_any_batch() -> None:
    encoder = build(PhoneEncoder, MODEL, PHONES)
    a, b = torch.tensor([[1, 9, 30, 1]]), torch.tensor([[1, 5, 6, 7, 8, 1]])
    both = torch.cat([torch.nn.functional.pad(a, (0, 2)), b])
    states = encoder(both)
    assert torch.allclose(states[:1, :4], encoder(a), atol=1e-5)
    assert torch.allclose(states[1:], encoder(b, padded=False), atol=1e-5)
    assert not torch.allclose(encoder(a)[:, 0], encoder(a)[:, 3])  # position and context matter


def test_durations_are_predicted_alike_in_any_batch() -> None:
    extractor, predictor = build(DurationExtractor, MODEL, PHONES), build(DurationPredictor, MODEL)
    states, prompt = noise(1, 4, MODEL.dim), torch.tensor([[1, 9, 30, 1]])
    frames = torch.tensor([[2, 5, 3, 0]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    alone = predictor(states, mask, extractor(prompt, frames), prompt != 0)
    assert alone.shape == (1, 4)
    padded_states = torch.nn.functional.pad(states, (0, 0, 0, 3), value=50.0)
    padded_prompt, padded_frames = (torch.nn.functional.pad(x, (0, 2)) for x in (prompt, frames))
    padded_mask = torch.nn.functional.pad(mask, (0, 3))
    padded = predictor(padded_states, padded_mask, extractor(padded_prompt, padded_frames), padded_prompt != 0)
    assert torch.allclose(padded[:, :4], alone, atol=1e-5)
    assert torch.allclose(predictor(states, None, extractor(prompt, frames), None), alone, atol=1e-6)


def test_the_prompt_s_durations_reach_the_predictor_where_configured() -> None:
    extractor, predictor = build(DurationExtractor, MODEL, PHONES), build(DurationPredictor, MODEL)
    states, prompt = noise(1, 4, MODEL.dim), torch.tensor([[1, 9, 30, 1]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    slow, fast = (extractor(prompt, torch.tensor([[f, f, f, f]])) for f in (9, 2))
    assert (predictor(states, mask, slow, mask) - predictor(states, mask, fast, mask)).abs().max() > 1e-3
    without = build(DurationPredictor, MODEL.model_copy(update={"prompt_durations": False}))
    assert without.attention is None
    assert torch.equal(without(states, mask, None, mask), without(states, mask, slow, mask))


def test_a_tenth_of_the_gradient_reaches_the_text_states() -> None:
    predictor = build(DurationPredictor, MODEL.model_copy(update={"prompt_durations": False}))
    mask = torch.ones(1, 4, dtype=torch.bool)
    gradients = []
    for share in (DurationPredictor.GRADIENT, 1.0):
        predictor.GRADIENT = share
        states = noise(1, 4, MODEL.dim).requires_grad_()
        predictor(states, mask, None, None).sum().backward()
        gradients.append(states.grad)
    assert torch.allclose(gradients[0], gradients[1] * 0.1, rtol=1e-3, atol=1e-7)
