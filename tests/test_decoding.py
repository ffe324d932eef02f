"""The schedule, noise, durations and iterative decoding in numpy, against PyTorch where it has the same."""

import math

import numpy as np
import pytest
import torch
from conftest import global_rng_untouched
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_core.decoding import Noise, cosine_schedule, iterative_decode, length_regulate, log_softmax, round_durations
from ms_core.encoder import length_regulate as torch_length_regulate

N, BINS, FRAMES = 3, 12, 23


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**32 - 1, 2**32 + 5, 2**40 + 17])
def test_noise_is_torch_rand_bit_for_bit(seed: int) -> None:
    generator, noise = torch.Generator().manual_seed(seed), Noise(seed)
    for shape in ((3,), (17, 1024), (500,), (321, 10), (1,), (7, 5, 3)):  # one after the other: the state goes on
        theirs, ours = torch.rand(shape, generator=generator).numpy(), noise.uniform(shape)
        assert ours.dtype == np.float32 and np.array_equal(theirs, ours)


def test_noise_of_some_rows_is_that_of_all() -> None:
    rows = np.array([0, 3, 4])
    some, all_ = Noise(5), Noise(5)
    assert np.array_equal(some.gumbel((6, 40), rows), all_.gumbel((6, 40))[rows])
    assert np.array_equal(some.uniform((9,)), all_.uniform((9,)))
    uniform = torch.rand((6, 40), generator=torch.Generator().manual_seed(5)).clamp(1e-10, 1 - 1e-7)
    theirs = (-torch.log(-torch.log(uniform))).numpy()
    assert np.allclose(Noise(5).gumbel((6, 40)), theirs, rtol=0, atol=2e-6)


def test_log_softmax() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 300)).astype(np.float32) * 20
    theirs = torch.from_numpy(logits).log_softmax(-1).numpy()
    assert log_softmax(logits).dtype == np.float32 and np.allclose(log_softmax(logits), theirs, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1, 5, width=32), min_size=1, max_size=60), st.sampled_from([0.5, 1.0, 1.3]), st.integers(0, 9)
)
def test_durations_and_length_regulator(logs: list[float], scale: float, seed: int) -> None:
    log_durations = np.array(logs, dtype=np.float32)
    spoken = np.random.default_rng(seed).random(len(logs)) < 0.7
    spoken[0] = True  # so that there is a frame
    frames = round_durations(log_durations, spoken, scale)
    wanted = np.maximum(np.expm1(log_durations.astype(np.float64)), 0) * scale
    assert (frames >= spoken).all() and frames.dtype == np.int64
    raised = int((np.diff(np.rint(wanted.cumsum()), prepend=0) < 1).sum())
    assert wanted.sum() - 0.51 <= frames.sum() <= wanted.sum() + 0.51 + raised  # only spoken phones of no frame add
    states = torch.randn(1, len(logs), 3, generator=torch.Generator().manual_seed(seed))
    expanded, place = torch_length_regulate(states, torch.from_numpy(frames)[None], int(frames.sum()))
    index, ours_place = length_regulate(frames)
    assert np.array_equal(states[0, index].numpy(), expanded[0].numpy())
    assert np.allclose(ours_place, place[0].numpy(), rtol=0, atol=1e-6)


def test_round_durations_carries_the_remainder() -> None:
    log, everything = np.log1p(np.full(10, 2.4, dtype=np.float32)), np.ones(10, dtype=bool)
    frames = round_durations(log, everything)
    assert frames.sum() == 24 and set(frames.tolist()) == {2, 3}
    assert round_durations(log, everything, 2.0).sum() == 48
    negative = np.full(10, -3.0, dtype=np.float32)  # less than no time
    assert round_durations(negative, everything).tolist() == [1] * 10
    assert round_durations(negative, ~everything).tolist() == [0] * 10


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2000), st.integers(1, 64))
def test_the_schedule_is_the_cosine_and_always_moves(frames: int, steps: int) -> None:
    left = [cosine_schedule(frames, step, steps) for step in range(1, steps + 1)]
    assert left[-1] == 0
    assert left == sorted(left, reverse=True)
    for step, count in enumerate(left[:-1], 1):
        assert count <= max(frames - step, 0)  # at least one more token is known after each pass
        assert count in (math.floor(frames * math.cos(math.pi / 2 * step / steps)), max(frames - step, 0))


def network(codes: np.ndarray, layer: int, frames: np.ndarray) -> np.ndarray:
    """Logits that depend on the layer, the frame and every code that is known, as a decoder's do."""
    rng = np.random.default_rng(layer)
    table = rng.normal(size=(N, BINS + 1, BINS)).astype(np.float32)
    place = np.cos(np.arange(codes.shape[1])[:, None] * np.arange(1, BINS + 1) / 7)
    context = np.stack([table[j, codes[j]] for j in range(N)]).sum(0)  # (t, bins)
    return (context + context.mean(0) + 2 * place)[frames].astype(np.float32)


def fill(seed: int = 0, steps: tuple[int, ...] = (5, 3, 1), **options) -> np.ndarray:
    return iterative_decode(network, N, BINS, FRAMES, steps, seed, **options)


def test_known_tokens_stay_and_the_count_follows_the_schedule() -> None:
    steps, seen = (6, 3, 1), []
    codes = fill(0, steps, on_pass=lambda layer, step, codes: seen.append((layer, step, codes.copy())))
    assert [(layer, step) for layer, step, _ in seen] == [(j, s) for j in range(N) for s in range(1, steps[j] + 1)]
    before = np.full_like(codes, BINS)
    for layer, step, now in seen:
        known = before != BINS
        assert np.array_equal(now[known], before[known])  # a token once fixed never changes
        assert int((now[layer] == BINS).sum()) == cosine_schedule(FRAMES, step, steps[layer])
        assert (now[layer + 1 :] == BINS).all()  # layer by layer
        before = now
    assert np.array_equal(before, codes) and 0 <= codes.min() <= codes.max() < BINS


def test_a_single_pass_is_greedy_and_feeds_the_layers_above() -> None:
    grid, frames = np.full((N, FRAMES), BINS), np.arange(FRAMES)
    for layer in range(N):
        grid[layer] = network(grid, layer, frames).argmax(-1)
    assert np.array_equal(fill(0, (1, 1, 1)), grid)
    assert np.array_equal(fill(1, (1, 1, 1)), grid)  # no noise, so no seed


def test_the_seed_fixes_the_result() -> None:
    with global_rng_untouched():
        codes = fill(0)
    assert np.array_equal(codes, fill(0)) and not np.array_equal(codes, fill(1))
    greedy = [fill(seed, temperature=0.0, choice_temperature=0.0) for seed in (0, 1)]
    assert np.array_equal(*greedy)


def test_given_layers_are_kept_and_used() -> None:
    own, passes = fill(0), []
    other = (own[:2] + 1) % BINS
    codes = fill(0, known=other, on_pass=lambda *args: passes.append(args[:2]))
    assert np.array_equal(codes[:2], other) and passes == [(2, 1)]
    assert not np.array_equal(codes[2], own[2])
    assert np.array_equal(fill(0, known=own), own)


def test_gumbel_noise_has_its_moments() -> None:
    many = Noise(2).gumbel((20_000,))
    assert float(many.mean()) == pytest.approx(0.5772, abs=0.04)  # Euler's constant
    assert float(many.var()) == pytest.approx(math.pi**2 / 6, abs=0.1)
