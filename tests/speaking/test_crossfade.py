"""Parts of streamed speech become one: lengths, pauses and power, on signals whose answers are known."""

import numpy as np

from ms_core.speaking.crossfade import SHORTEST, blend, joined, planned, with_silences


def test_joining_keeps_speech_and_length_and_blends_pauses() -> None:
    """Phones are loud, boundaries are noise; the pause at the cut is to have 3 frames."""
    hop, rng = 40, np.random.default_rng(0)
    phones = ["_", "B", "AA1", ",", "B", "T", "_"]
    parts, spoken = [phones[:3] + ["_"], ["_", *phones[4:]]], []

    def speak(index, frames):
        levels = np.repeat([0.1 if p == "_" else 1.0 for p in parts[index]], np.array(frames) * hop)
        spoken.append(((0.5 * levels * rng.uniform(-1, 1, len(levels))).astype(np.float32), frames))
        return spoken[-1][0]

    def durations(index, some, at):
        return [{"_": 9, ",": 3}.get(p, 4) for p in some]

    def plan(durations, parts=parts):
        return [(*planned_part, {}) for planned_part in planned(phones, parts, durations)]

    pieces = list(joined(plan(durations), speak))
    assert [frames for _, frames in spoken] == [[9, 4, 4, 3], [3, 4, 4, 9]]
    assert [len(piece) for piece in pieces] == [17 * hop, 20 * hop]  # a pause comes with the part after it
    assert pieces[0].dtype == pieces[1].dtype == np.float32
    assert np.array_equal(pieces[0], spoken[0][0][: 17 * hop]) and np.array_equal(
        pieces[1][3 * hop :], spoken[1][0][3 * hop :]
    )
    pause = pieces[1][: 3 * hop]
    assert np.abs(pause[:2] - spoken[0][0][-3 * hop :][:2]).max() < 2e-3  # it goes over from one part to the other
    assert np.abs(pause[-2:] - spoken[1][0][: 3 * hop][-2:]).max() < 2e-3
    short = list(joined(plan(lambda index, some, at: [{",": 0}.get(p, 4) for p in some]), speak))
    assert spoken[-1][1][0] == SHORTEST and len(np.concatenate(short)) == (4 + 8 + SHORTEST + 8 + 4) * hop
    assert list(planned(phones, [phones], durations)) == [([9, 4, 4, 3, 4, 4, 9], 0)]


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
