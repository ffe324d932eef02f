"""What happens to speech on its way to whoever asks whether it is synthetic: codecs, telephone, noise, rooms, speeds.

Our choice throughout: the degradations under which detector and watermark are trained and measured. All take and give
float32 (L,) at 16 kHz; those that draw something take a generator, so that a seed fixes them.
"""

import io
from collections.abc import Callable

import numpy as np
import soxr

RATE = 16_000  # Hz
CODERS = {"mp3": ("libmp3lame", "mp3", 0), "opus": ("libopus", "ogg", 0), "aac": ("aac", "mp4", 1024)}
"""ffmpeg's names of encoder and container, and the samples of silence that come first."""

Degradation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def coded(wav: np.ndarray, coder: str, kbps: int) -> np.ndarray:
    """Through MP3, Opus or AAC at a bit rate and back, by ffmpeg's libraries (PyAV, extra `eval`)."""
    import av

    encoder, container, delay = CODERS[coder]
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(encoder, rate=RATE)
        stream.bit_rate, stream.layout = 1000 * kbps, "mono"
        samples = (np.clip(wav, -1, 1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as source:
        to_float = av.AudioResampler("flt", "mono", RATE)
        frames = [f for frame in [*source.decode(audio=0), None] for f in to_float.resample(frame)]
    decoded = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    return decoded[delay : delay + len(wav)]


def at_rate(wav: np.ndarray, rate: int) -> np.ndarray:
    """Resampled to a lower rate and back."""
    return soxr.resample(soxr.resample(wav, RATE, rate), rate, RATE)


def telephone(wav: np.ndarray) -> np.ndarray:
    """At 8 kHz, 300 to 3400 Hz, in 8-bit mu-law (ITU-T G.711's curve)."""
    spectrum = np.fft.rfft(soxr.resample(wav, RATE, 8000))
    hertz = np.linspace(0, 4000, len(spectrum))
    spectrum[(hertz < 300) | (hertz > 3400)] = 0
    narrow = np.fft.irfft(spectrum).clip(-1, 1)
    pressed = np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256)
    pressed = np.round(pressed * 127) / 127
    narrow = np.sign(pressed) * np.expm1(np.abs(pressed) * np.log(256)) / 255
    return soxr.resample(narrow.astype(np.float32), 8000, RATE)


def noisy(wav: np.ndarray, snr: float, rng: np.random.Generator, slope: float = 0.0) -> np.ndarray:
    """With noise at `snr` dB below the mean power; slope: 0 is white, 1 is pink."""
    spectrum = np.fft.rfft(rng.standard_normal(len(wav)))
    noise = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 20) ** (slope / 2), len(wav))
    gain = np.sqrt(np.mean(wav**2) / np.mean(noise**2) / 10 ** (snr / 10))
    return (wav + gain * noise).astype(np.float32)


def room(wav: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """In a room: the direct sound, then noise that falls by 60 dB in `seconds`, in sum as loud."""
    time = np.arange(int(seconds * RATE)) / RATE
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    tail[: RATE // 200] = 0
    tail[0] = np.sqrt(np.sum(tail**2))
    size = len(wav) + len(tail) - 1
    wet = np.fft.irfft(np.fft.rfft(wav, size) * np.fft.rfft(tail, size), size)[: len(wav)]
    return (wet * np.sqrt(np.mean(wav**2) / max(np.mean(wet**2), 1e-12))).astype(np.float32)


def speed(wav: np.ndarray, factor: float) -> np.ndarray:
    """Played faster by `factor`, which shifts the pitch too."""
    return soxr.resample(wav, RATE * factor, RATE)


MEASURED: dict[str, Degradation] = {
    "clean": lambda wav, rng: wav,
    **{f"{c}-{k}": lambda wav, rng, c=c, k=k: coded(wav, c, k) for c in CODERS for k in (16, 24, 32, 64)},
    "telephone": lambda wav, rng: telephone(wav),
    "resampled-11025": lambda wav, rng: at_rate(wav, 11_025),
    **{f"noise-{snr}db": lambda wav, rng, snr=snr: noisy(wav, snr, rng) for snr in (30, 20, 10, 5)},
    "room-0.4s": lambda wav, rng: room(wav, 0.4, rng),
    "gain-20db": lambda wav, rng: np.round(wav * 3276.7).astype(np.float32) / 32768,  # quieter, then stored in 16 bits
    "slower-5": lambda wav, rng: speed(wav, 0.95),
    "faster-5": lambda wav, rng: speed(wav, 1.05),
    "mp3-64+noise-20db": lambda wav, rng: noisy(coded(wav, "mp3", 64), 20, rng),
}
"""By name, what is measured, each at a fixed strength."""
