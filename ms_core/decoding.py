"""Durations, length regulator and iterative parallel decoding in numpy: one code for PyTorch, ONNX and ExecuTorch.

The schedule is MaskGIT's and SoundStorm's (paper.md, section 3). Noise is what PyTorch's CPU generator would draw, so
that a seed gives the same tokens whatever computes the logits. Only what frames without a token need is computed.
"""

import math
from collections.abc import Callable, Generator, Sequence
from typing import Any

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

    def drift(self, length: int, width: int = 9) -> np.ndarray:
        """Standard normal noise (length,), float32, that changes slowly: neighbours within `width` are alike."""
        weights = np.hanning(width + 2)[1:-1]
        white = self._words.standard_normal(length + width - 1)
        return np.convolve(white, weights / np.sqrt(np.square(weights).sum()), "valid").astype(np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis; float32."""
    shifted = logits - logits.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


def round_durations(log_durations: np.ndarray, spoken: np.ndarray, scale: float | np.ndarray = 1.0) -> np.ndarray:
    """Predicted log(d + 1) (p,) to whole frames: the running total is rounded, a spoken phone has at least one.

    scale: one factor, or one for each phone (p,).
    """
    frames_of_phone = np.maximum(np.expm1(log_durations.astype(np.float32)), 0) * np.asarray(scale, dtype=np.float32)
    total = frames_of_phone.cumsum(dtype=np.float64).astype(np.float32)  # torch sums in double, too
    frames = np.diff(np.rint(total).astype(np.int64), prepend=0)
    return np.where(spoken, np.maximum(frames, 1), frames)


def length_regulate(durations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The length regulator: index (t,) of each frame's phone, and its position (t, 2) in that phone.

    A position is (share of the phone from 0 to 1, log(d + 1)); as `encoder.length_regulate`.
    """
    durations = np.asarray(durations, dtype=np.int64)
    phone = np.repeat(np.arange(len(durations)), durations)
    start = (durations.cumsum() - durations)[phone]
    length = durations[phone].astype(np.float32)
    position = ((np.arange(len(phone)) - start).astype(np.float32) + np.float32(0.5)) / np.maximum(length, 1)
    return phone, np.stack([position, np.log1p(length)], -1)


def cosine_schedule(frames: int, step: int, steps: int) -> int:
    """How many of `frames` stay masked after pass `step` (1-based) of `steps`: the cosine schedule."""
    if step >= steps:
        return 0
    return min(math.floor(frames * math.cos(math.pi / 2 * step / steps)), max(frames - step, 0))


def iterative_decode(run_pass: Pass, *args: Any, **options: Any) -> np.ndarray:
    """Codes (n_q, frames) by the passes of `decoding_passes`, whose arguments follow."""
    passes = decoding_passes(*args, **options)
    logits = None
    while True:
        try:
            request = passes.send(logits)
        except StopIteration as done:
            return done.value
        logits = run_pass(*request)


def decoding_passes(
    n_q: int,
    bins: int,
    frames: int,
    steps: Sequence[int],
    seed: int,
    temperature: float = 1.0,
    choice_temperature: float = 1.0,
    known: np.ndarray | None = None,
    on_pass: Callable[[int, int, np.ndarray], object] | None = None,
) -> Generator[tuple[np.ndarray, int, np.ndarray], np.ndarray, np.ndarray]:
    """Yields what each `Pass` is given, is sent its logits, and returns codes (n_q, frames): layer by layer from the
    lowest.

    In a layer of S > 1 passes each pass draws a token for every masked frame and keeps the surest: the log probability
    of the drawn token plus Gumbel noise, annealed to zero, is ranked; the cosine schedule says how many stay masked.
    A token once kept stays and is fed back. The last pass of a layer, so the only pass of most layers, is greedy.

    Args:
        steps: passes of each layer.
        known: true codes (m, frames) of the lowest m layers, not to be predicted.
        on_pass: called as on_pass(layer, step, codes) after every pass, for a picture or a progress bar.
    """
    codes = np.full((n_q, frames), bins, dtype=np.int64)
    first = 0 if known is None else len(known)
    if known is not None:
        codes[:first] = known
    noise = Noise(seed)
    for layer in range(first, n_q):
        masked = np.arange(frames)  # frames of this layer that have no token yet
        for step in range(1, steps[layer] + 1):
            logits = yield codes, layer, masked
            if step == steps[layer]:
                codes[layer, masked] = logits.argmax(-1)
            else:
                token, surest_last = _draw(
                    logits, masked, frames, noise, temperature, 1 - step / steps[layer], choice_temperature
                )
                stay = cosine_schedule(frames, step, steps[layer])
                keep = surest_last[stay:]
                codes[layer, masked[keep]] = token[keep]
                masked = masked[np.sort(surest_last[:stay])]
            if on_pass is not None:
                on_pass(layer, step, codes)
    return codes


def _draw(
    logits: np.ndarray, masked: np.ndarray, frames: int, noise: Noise, temperature: float, left: float, choice: float
) -> tuple[np.ndarray, np.ndarray]:
    """A token for each masked frame, and the order (r,) of these from the least sure on; left: share of the passes."""
    logp = log_softmax(logits)
    noisy = logp
    if temperature > 0:
        noisy = logp + np.float32(temperature) * noise.gumbel((frames, logits.shape[-1]), masked)
    token = noisy.argmax(-1)  # (r,): Gumbel-max draws from softmax(logp / temperature)
    confidence = np.take_along_axis(logp, token[:, None], 1)[:, 0]
    if choice * left > 0:
        confidence = confidence + np.float32(choice * left) * noise.gumbel((frames,), masked)
    return token, confidence.argsort(kind="stable")
