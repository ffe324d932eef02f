"""Durations, length regulator and iterative parallel decoding in numpy, with the noise that PyTorch would draw.

Each function does what its namesake in `ms_core.encoder` or `ms_core.smd` does, for one utterance without padding, so
that a seed gives the same tokens here as there. What differs is speed alone: logits and noise of a frame whose token is
known already are never looked at, so only those of masked frames are made.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

Pass = Callable[[np.ndarray, int, np.ndarray], np.ndarray]
"""(codes (n, t), layer, frames (r,)) -> logits (r, bins) of that layer at those frames."""


class Noise:
    """Uniform and Gumbel noise, equal bit for bit to `torch.rand` with a CPU generator of this seed.

    That generator is the Mersenne Twister, seeded by 32 bits; a float32 takes the low 24 bits of one word.
    """

    def __init__(self, seed: int):
        self._words = np.random.RandomState(seed & 0xFFFFFFFF)

    def uniform(self, shape: Sequence[int], rows: np.ndarray | None = None) -> np.ndarray:
        """float32 in [0, 1); `rows` picks rows of what is drawn for the whole shape."""
        words = self._words.randint(0, 1 << 32, math.prod(shape), dtype=np.uint32).reshape(shape)
        words = words if rows is None else words[rows]
        return (words & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)

    def gumbel(self, shape: Sequence[int], rows: np.ndarray | None = None) -> np.ndarray:
        """Standard Gumbel noise, float32."""
        x = np.clip(self.uniform(shape, rows), np.float32(1e-10), np.float32(1 - 1e-7))
        np.negative(np.log(x, out=x), out=x)
        return np.negative(np.log(x, out=x), out=x)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis; float32."""
    shifted = logits - logits.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


def round_durations(log_durations: np.ndarray, spoken: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Predicted log(d + 1) (p,) to whole frames: the running total is rounded, a spoken phone has at least one."""
    wanted = np.maximum(np.expm1(log_durations.astype(np.float32)), 0) * np.float32(scale)
    total = wanted.cumsum(dtype=np.float64).astype(np.float32)  # torch sums in double, too
    frames = np.diff(np.rint(total).astype(np.int64), prepend=0)
    return np.where(spoken, np.maximum(frames, 1), frames)


def regulate(durations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The length regulator: index (t,) of each frame's phone, and its place (t, 2) in that phone.

    A place is (position from 0 to 1, log(d + 1)).
    """
    durations = np.asarray(durations, dtype=np.int64)
    phone = np.repeat(np.arange(len(durations)), durations)
    start = (durations.cumsum() - durations)[phone]
    length = durations[phone].astype(np.float32)
    position = ((np.arange(len(phone)) - start).astype(np.float32) + np.float32(0.5)) / np.maximum(length, 1)
    return phone, np.stack([position, np.log1p(length)], -1)


def still_masked(frames: int, step: int, steps: int) -> int:
    """How many of `frames` stay masked after pass `step` (1-based) of `steps`: the cosine schedule."""
    if step >= steps:
        return 0
    return min(math.floor(frames * math.cos(math.pi / 2 * step / steps)), max(frames - step, 0))


def fill_grid(
    run_pass: Pass,
    n_q: int,
    bins: int,
    frames: int,
    steps: Sequence[int],
    seed: int,
    temperature: float = 1.0,
    choice_temperature: float = 1.0,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """Codes (n_q, frames), layer by layer from the lowest; `known` (m, frames) are the lowest m layers, kept.

    In a layer of S > 1 passes each pass draws a token for every masked frame and keeps the surest; the last pass of a
    layer is greedy. See `ms_core.decoding.fill_grid`, of which this is the counterpart.
    """
    codes = np.full((n_q, frames), bins, dtype=np.int64)
    first = 0 if known is None else len(known)
    if known is not None:
        codes[:first] = known
    noise = Noise(seed)
    for layer in range(first, n_q):
        masked = np.arange(frames)  # frames of this layer that have no token yet
        for step in range(1, steps[layer] + 1):
            logits = run_pass(codes, layer, masked)
            if step == steps[layer]:
                codes[layer, masked] = logits.argmax(-1)
                break
            logp = log_softmax(logits)
            noisy = logp
            if temperature > 0:
                noisy = logp + np.float32(temperature) * noise.gumbel((frames, bins), masked)
            token = noisy.argmax(-1)  # (r,): Gumbel-max draws from softmax(logp / temperature)
            confidence = np.take_along_axis(logp, token[:, None], 1)[:, 0]
            loudness = choice_temperature * (1 - step / steps[layer])
            if loudness > 0:
                confidence = confidence + np.float32(loudness) * noise.gumbel((frames,), masked)
            surest_last = confidence.argsort(kind="stable")
            stay = still_masked(frames, step, steps[layer])
            keep = surest_last[stay:]
            codes[layer, masked[keep]] = token[keep]
            masked = masked[np.sort(surest_last[:stay])]
    return codes
