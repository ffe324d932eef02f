"""MiniCodec: tokens, waveforms, fitting, saving."""

import json

import pytest
import torch
from conftest import CODEC, global_rng_untouched, speech
from torchaudio.functional import melscale_fbanks

from ms_core import paths
from ms_core.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from ms_core.codec import Codec, load_codec
from ms_core.codec.mini import MiniCodec, kmeans, mel_basis, nearest


def wave(seconds: float, seed: int) -> torch.Tensor:
    return torch.from_numpy(speech(seconds, seed))[None, None]


def new_codec(seed: int = 0, **changes: object) -> MiniCodec:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MiniCodec(CODEC.model_copy(update=changes)).eval()


def test_it_is_a_codec(codec) -> None:
    assert isinstance(codec, Codec)
    assert codec.codebooks().shape == (3, 32, 8)
    with pytest.raises(ValueError, match="kind 'mini', not 'encodec'"):
        new_codec(kind="encodec")


@pytest.mark.parametrize(("n_fft", "n_mels", "rate"), [(640, 80, 16_000), (320, 20, 16_000), (1024, 100, 24_000)])
def test_mel_filters_are_torchaudios_bit_for_bit(n_fft: int, n_mels: int, rate: int) -> None:
    """Shipped codecs were made with these, and the token digest tells."""
    made = mel_basis(CODEC.model_copy(update={"n_fft": n_fft, "n_mels": n_mels, "sample_rate": rate}))
    theirs = melscale_fbanks(n_fft // 2 + 1, 0.0, rate / 2, n_mels, rate, None, "slaney").T
    assert torch.equal(made, theirs / theirs.sum(1, keepdim=True).clamp_min(1e-8))


def test_mel_filters_are_those_of_the_shipped_codec() -> None:
    shipped = MiniCodec.load(paths.shipped("mini") / "codec")
    assert torch.allclose(shipped.mel_basis, mel_basis(shipped.config), atol=1e-6)  # the last bit is the machine's


@pytest.mark.parametrize("samples", [1, 319, 320, 321, 3200, 5000])
def test_lengths_and_range_of_codes(codec, samples: int) -> None:
    codes = codec.encode(wave(0.5, 0)[..., :samples])
    assert codes.shape == (1, 3, -(-samples // 320))
    assert codes.dtype == torch.int64
    assert 0 <= int(codes.min()) <= int(codes.max()) < 32
    wav = codec.decode(codes)
    assert wav.shape == (1, 1, codes.shape[-1] * 320)
    assert wav.dtype == torch.float32
    assert wav.abs().max() <= 1


def test_encoding_and_decoding_are_pure(codec) -> None:
    a, b = wave(1.0, 1), wave(1.0, 2)
    with global_rng_untouched():
        codes = codec.encode(a)
        wav = codec.decode(codes)
    assert torch.equal(codes, codec.encode(a))
    assert torch.equal(wav, codec.decode(codes))
    both = codec.encode(torch.cat([b, a]))
    assert torch.equal(both[1], codes[0])
    assert (codec.decode(both)[1] - wav[0]).abs().max() < 5e-3 * wav.abs().max()  # the phase adds up rounded F0


def test_codes_see_no_polarity_and_few_samples_around_them(codec) -> None:
    a = wave(1.0, 3)
    codes = codec.encode(a)
    assert torch.equal(codec.encode(-a), codes)
    changed = a.clone()
    changed[..., 8000:] = 0
    assert torch.equal(codec.encode(changed)[..., :24], codes[..., :24])  # up to the window that reaches sample 8000


def test_quantisation_takes_the_nearest_entry_of_each_layer(codec) -> None:
    latent = codec.latents(wave(0.2, 4))
    codes = codec.quantise(latent)
    residual = latent[0].T  # (t, c)
    for layer, book in enumerate(codec.books):
        distance = torch.cdist(residual.double(), book.double())
        assert torch.equal(distance.argmin(1), codes[0, layer])
        residual = residual - book[codes[0, layer]]
    sum_of_two = codec.books[0][codes[:, 0]] + codec.books[1][codes[:, 1]]
    assert torch.allclose(codec.dequantise(codes[:, :2]), sum_of_two.transpose(1, 2))


def test_fewer_layers_decode_and_more_layers_come_nearer(codec) -> None:
    latent = codec.latents(wave(1.0, 0))
    codes = codec.quantise(latent)
    left = [(latent - codec.dequantise(codes[:, :n])).square().sum().item() for n in (1, 2, 3)]
    assert left == sorted(left, reverse=True)
    assert codec.decode(codes[:, :1]).shape == (1, 1, 50 * 320)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(3, 5, dtype=torch.long), r"shape \(3, 5\): expected \(batch, 1 to 3 layers, frames\)"),
        (torch.zeros(1, 4, 5, dtype=torch.long), "1 to 3 layers"),
        (torch.full((1, 3, 5), 32), "codes between 32 and 32: allowed are 0 to 31"),
        (torch.full((1, 3, 5), -1), "codes between -1 and -1"),
    ],
)
@pytest.mark.usefixtures("any_shape")
def test_impossible_codes_are_refused(codec, codes: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec.decode(codes)


def test_fit_leaves_less_by_every_layer_and_follows_its_seed() -> None:
    waves = [torch.from_numpy(speech(1.0, seed)) for seed in range(3)]
    codecs = [new_codec() for _ in range(3)]
    with global_rng_untouched():
        left = [codec.fit(waves, seed, iterations=6) for codec, seed in zip(codecs, (0, 0, 1), strict=True)]
    assert 1 > left[0][0] > left[0][1] > left[0][2] > 0
    assert left[0] == left[1] != left[2]
    assert codecs[0].token_digest == codecs[1].token_digest != codecs[2].token_digest
    components = codecs[0].components
    assert torch.allclose(components @ components.T, torch.eye(8), atol=1e-4)
    with pytest.raises(ValueError, match="3 frames of speech are too few for codebooks of 32 entries"):
        new_codec().fit([torch.from_numpy(speech(0.06, 0))])


def test_kmeans_improves_and_uses_every_entry() -> None:
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)).exp()  # dense here, sparse there
    errors = []
    for iterations in (1, 25):
        book = kmeans(x, 16, iterations, torch.Generator().manual_seed(1))
        assert torch.bincount(nearest(x, book), minlength=16).min() > 0
        errors.append(torch.cdist(x, book).min(1).values.square().sum().item())
    assert errors[1] < 0.8 * errors[0]


def test_the_digest_names_all_that_decides_tokens_and_nothing_else(codec) -> None:
    other = new_codec(seed=1)
    other.load_state_dict({**other.state_dict(), **{k: v for k, v in codec.state_dict().items() if "decoder" not in k}})
    assert other.token_digest == codec.token_digest  # another decoder
    assert new_codec(decoder_dim=24).token_digest == new_codec().token_digest != new_codec(n_q=2).token_digest
    for name in ("mean", "components", "books"):
        changed = new_codec()
        changed.load_state_dict(codec.state_dict())
        getattr(changed, name).flatten()[0] += 1e-3
        assert changed.token_digest != codec.token_digest


def test_save_and_load(codec, tmp_path) -> None:
    codec.save(tmp_path / "c", {"note": "x"})
    loaded = load_codec(tmp_path / "c")
    assert isinstance(loaded, MiniCodec)
    assert not loaded.training
    assert (loaded.config, loaded.token_digest) == (codec.config, codec.token_digest)
    codes = codec.encode(wave(1.0, 5))
    assert torch.equal(loaded.encode(wave(1.0, 5)), codes)
    latent = codec.dequantise(codes)
    for ours, theirs in zip(codec.decoder.controls(latent), loaded.decoder.controls(latent), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-2)  # the decoder is stored in fp16
    assert json.loads((tmp_path / "c" / "config.json").read_text())["provenance"] == {"note": "x"}


def test_damaged_or_foreign_codecs_are_refused(codec, tmp_path) -> None:
    codec.save(tmp_path / "c", {})
    tensors, meta = load_checkpoint(tmp_path / "c", "ms-codec-1")
    del meta["weights_sha256"]
    wrong = {
        "no config": (tensors, {k: v for k, v in meta.items() if k != "config"}),
        "no digest": (tensors, {k: v for k, v in meta.items() if k != "token_digest"}),
        "unknown key": (tensors, {**meta, "config": {**meta["config"], "colour": 1}}),
        "other sizes": (tensors, {**meta, "config": {**meta["config"], "bins": 64}}),
        "lost tensor": ({k: v for k, v in tensors.items() if k != "mean"}, meta),
        "other tokens": ({**tensors, "books": tensors["books"] + 1}, meta),
        "of a model": (tensors, {**meta, "format": "ms-model-1"}),
    }
    for name, (some, values) in wrong.items():
        save_checkpoint(tmp_path / name, some, values)
        with pytest.raises(CheckpointError, match=name):  # the folder is named
            load_codec(tmp_path / name)
    (tmp_path / "c" / "config.json").write_text("{")
    for folder in (tmp_path / "c", tmp_path / "nothing"):
        with pytest.raises(CheckpointError, match="no readable codec checkpoint here"):
            load_codec(folder)
