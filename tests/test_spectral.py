"""Analysis, synthesis and phase."""

import pytest
import torch
from conftest import global_rng_untouched, speech
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_core.spectral import griffin_lim, istft, stft


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([(640, 160), (640, 320), (512, 128), (400, 100)]), st.integers(1, 20), st.integers(0, 99))
def test_perfect_reconstruction_with_one_frame_a_hop(sizes: tuple[int, int], frames: int, seed: int) -> None:
    n_fft, hop = sizes
    wav = torch.randn(2, frames * hop, generator=torch.Generator().manual_seed(seed))
    spectrum = stft(wav, n_fft, hop)
    assert spectrum.shape == (2, n_fft // 2 + 1, frames)
    back = istft(spectrum, n_fft, hop)
    assert back.shape == wav.shape
    assert (back - wav).abs().max() < 2e-5


def test_agrees_with_torch() -> None:
    wav = torch.from_numpy(speech(0.5, 0))[None]  # 50 hops
    pad = torch.nn.functional.pad(wav, (240, 240))
    theirs = torch.stft(pad, 640, 160, window=torch.hann_window(640), center=False, return_complex=True)
    assert torch.allclose(stft(wav, 640, 160), theirs, atol=1e-4)


def test_griffin_lim_is_a_pure_function_of_the_magnitudes() -> None:
    magnitude = stft(torch.from_numpy(speech(0.5, 1))[None], 640, 160).abs()
    with global_rng_untouched():
        once = griffin_lim(magnitude, 640, 160, 4)
    assert torch.equal(once, griffin_lim(magnitude, 640, 160, 4))
    both = griffin_lim(torch.cat([magnitude * 0.5, magnitude]), 640, 160, 4)
    assert torch.allclose(both[1], once[0], atol=1e-6)  # nor do batch-mates matter


def test_more_passes_bring_the_magnitudes_nearer() -> None:
    magnitude = stft(torch.from_numpy(speech(0.5, 2))[None], 640, 160).abs()

    def error(passes: int) -> float:
        wav = griffin_lim(magnitude, 640, 160, passes)
        assert wav.shape == (1, 8000)
        return float((stft(wav, 640, 160).abs() - magnitude).norm() / magnitude.norm())

    errors = [error(passes) for passes in (0, 4, 32)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.5 * errors[0]
    assert errors[2] == pytest.approx(0, abs=0.25)
