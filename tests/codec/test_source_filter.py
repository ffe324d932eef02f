"""The source-filter decoder: its source, its filters, its purity."""

import math

import pytest
import torch
from conftest import CODEC, global_rng_untouched

from ms_core.codec.source_filter import SourceFilterDecoder, pulse_train
from ms_core.codec.spectral import stft


def new_decoder(seed: int = 0) -> SourceFilterDecoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SourceFilterDecoder(CODEC).eval()


@pytest.mark.parametrize("f0", [80.0, 200.0, 433.0])
def test_pulses_are_all_harmonics_of_f0_at_unit_power(f0: float) -> None:
    source = pulse_train(torch.full((1, 100), math.log(f0)), 160, 16_000)[0]  # 1 s
    assert source.square().mean() == pytest.approx(1, abs=0.05)
    power = torch.fft.rfft(source * torch.hann_window(16_000)).abs().square()  # 1 Hz a bin
    assert abs(int(power[: int(1.5 * f0)].argmax()) - f0) <= 1
    near = torch.zeros_like(power)
    for k in range(1, int(8000 / f0) + 1):
        near[max(0, round(k * f0) - 3) : round(k * f0) + 4] = 1
    assert (power * near).sum() > 0.99 * power.sum()


def test_pulses_follow_a_glide_without_a_jump() -> None:
    source = pulse_train(torch.linspace(math.log(100), math.log(200), 100)[None], 160, 16_000)[0]
    peaks = torch.nonzero((source > 3) & (source >= source.roll(1)) & (source > source.roll(-1)))[:, 0]
    periods = peaks.diff().float()
    assert len(peaks) == pytest.approx(100 / math.log(2), abs=3)  # the integral of F0 over the second
    assert (periods.diff().abs() <= 3).all() and periods[0] > 1.8 * periods[-1]
    low = pulse_train(torch.full((1, 10), -9.0), 160, 16_000)
    assert torch.equal(low, pulse_train(torch.full((1, 10), -20.0), 160, 16_000))  # held at the floor


def test_filters_shape_the_two_sources() -> None:
    decoder, frames, bins = new_decoder(), 50, CODEC.n_fft // 2 + 1
    log_f0 = torch.full((1, frames), math.log(200))
    off, zero = torch.full((1, bins, frames), -30.0), torch.zeros(1, bins, frames)
    voiced, hiss = decoder.render(log_f0, zero, zero, off), decoder.render(log_f0, off, zero, zero)
    assert torch.allclose(voiced, pulse_train(log_f0, decoder.step, 16_000), atol=1e-3)
    assert hiss.square().mean() == pytest.approx(1, abs=0.05)
    assert torch.allclose(decoder.render(log_f0, zero, zero, zero), voiced + hiss, atol=1e-3)
    louder = decoder.render(log_f0, off, zero, zero + math.log(2))
    assert torch.allclose(louder, 2 * hiss, atol=1e-3)
    turned = decoder.render(log_f0, zero, zero + math.pi, off)
    assert torch.allclose(turned[:, 640:-640], -voiced[:, 640:-640], atol=1e-2)
    lowpass = zero.clone()
    lowpass[:, 161:] = -30  # above 4 kHz
    high = stft(decoder.render(log_f0, off, zero, lowpass), 640, 160).abs()[:, 170:].mean()
    assert high < 0.01 * stft(hiss, 640, 160).abs().mean()


def test_decoding_is_pure_but_for_noise_that_is_asked_for() -> None:
    decoder = new_decoder()
    latent = torch.randn(2, CODEC.latent_dim, 9, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), global_rng_untouched():
        wav, log_f0 = decoder(latent)
    assert wav.shape == (2, 9 * CODEC.hop) and log_f0.shape == (2, 9 * CODEC.substeps)
    assert torch.equal(wav, decoder(latent)[0])
    assert torch.allclose(decoder(latent[1:])[0][0], wav[1], atol=1e-5)
    assert not torch.equal(decoder(latent, seed=1)[0], wav)
    assert not torch.equal(decoder(latent, seed=None)[0], decoder(latent, seed=None)[0])
    f0 = torch.zeros_like(log_f0)
    assert torch.equal(decoder(latent, f0)[0], wav)  # 0 means: not given
    f0[:, 4:] = 300
    assert not torch.equal(decoder(latent, f0)[0], wav)


def test_an_untrained_or_misled_filter_does_not_overflow() -> None:
    decoder, bins = new_decoder(), CODEC.n_fft // 2 + 1
    huge = torch.full((1, bins, 20), 1e4)
    assert decoder.render(torch.full((1, 20), 1e4), huge, huge, huge).isfinite().all()
