"""Parts of streamed speech become one: lengths, pauses and power, on signals whose answers are known."""

import numpy as np

from ms_core.speaking.crossfade import Part, blend, joined, with_silences


def test_joining_keeps_speech_and_length_and_blends_pauses() -> None:
    """Phones are loud, boundaries are noise; the pause at the cut has 3 frames."""
    hop, rng = 40, np.random.default_rng(0)
    parts = [Part(["_", "B", "AA1", "_"], [9, 4, 4, 3], pause=3), Part(["_", "B", "T", "_"], [3, 4, 4, 9])]
    assert [part.lasting() for part in parts] == [[9, 4, 4], [3, 4, 4, 9]]
    levels = [np.repeat([0.1, 1.0, 1.0, 0.1], np.array(part.frames) * hop) for part in parts]
    waves = [(0.5 * level * rng.uniform(-1, 1, len(level))).astype(np.float32) for level in levels]
    pieces = list(joined(zip(parts, waves, strict=True)))
    assert [len(piece) for piece in pieces] == [17 * hop, 20 * hop]  # a pause comes with the part after it
    assert pieces[0].dtype == pieces[1].dtype == np.float32
    assert np.array_equal(pieces[0], waves[0][: 17 * hop]) and np.array_equal(pieces[1][3 * hop :], waves[1][3 * hop :])
    pause = pieces[1][: 3 * hop]
    assert np.abs(pause[:2] - waves[0][-3 * hop :][:2]).max() < 2e-3  # it goes over from one part to the other
    assert np.abs(pause[-2:] - waves[1][: 3 * hop][-2:]).max() < 2e-3
    silent = list(joined([(Part(["_", "B"], [2, 4], silences={0: 5}), waves[0][: 6 * hop])]))
    assert len(silent[0]) == 11 * hop and np.array_equal(silent[0][-4 * hop :], waves[0][2 * hop : 6 * hop])


def test_silence_goes_into_the_middle_of_pauses() -> None:
    hop, frames = 10, [2, 3, 4, 3]
    wave = np.ones(sum(frames) * hop, dtype=np.float32)
    longer = with_silences(wave, frames, {0: 5, 2: 7}, hop)
    assert len(longer) == (sum(frames) + 12) * hop
    silent = np.flatnonzero(longer == 0)
    middles = [*range(1 * hop, 6 * hop), *range((2 + 3 + 2 + 5) * hop, (2 + 3 + 2 + 5 + 7) * hop)]
    assert set(middles) <= set(silent) and len(silent) <= len(middles) + 4
    assert np.abs(np.diff(longer)).max() < 0.5  # no click


def test_a_blend_keeps_the_power_of_noise_and_the_range() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 64_000)).astype(np.float32) / 20
    power = (blend(one, other) ** 2).reshape(8, -1).mean(1) / (one**2).mean()
    assert np.abs(power - 1).max() < 0.1
    assert np.abs(blend(np.ones(9), np.ones(9))).max() == 1 and blend(one[:0], other[:0]).shape == (0,)
