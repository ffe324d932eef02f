"""Analysis and synthesis."""

import torch
from conftest import speech
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_core.codec.spectral import istft, stft


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
