"""EnCodec and Vocos, against their packages; with random weights, since the published ones cannot be shipped."""

import sys

import pytest
import torch
from conftest import CODEC, global_rng_untouched, speech
from encodec import EncodecModel
from safetensors.torch import save_file

from ms_core import paths
from ms_core.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from ms_core.codec import Codec, encodec, load_codec
from ms_core.codec.encodec import OFFICIAL, EncodecCodec, read_tensors
from ms_core.codec.mini import MiniCodec
from ms_core.config import CodecConfig, ConfigError, load_preset

CONFIG = CodecConfig(kind="encodec", sample_rate=24_000)


def wave(seconds: float, *seeds: int) -> torch.Tensor:
    return torch.stack([torch.from_numpy(speech(seconds, seed, 24_000))[None] for seed in seeds])


@pytest.fixture(scope="module")
def official() -> EncodecModel:
    """The package's own model at 6 kb/s, with random weights and codebooks that fit its latents."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = EncodecModel.encodec_model_24khz(pretrained=False)
    with torch.no_grad():
        latent = model.encoder(wave(0.5, 0))[0].T  # (t, 128)
        mean, spread = latent.mean(0), latent.std(0)
        for index, layer in enumerate(model.quantizer.vq.layers):
            book = torch.randn(1024, 128, generator=generator) * spread * 0.7**index
            layer.codebook.copy_(book + mean if index == 0 else book)
    model.set_target_bandwidth(6.0)
    return model


@pytest.fixture(scope="module")
def weights(official, tmp_path_factory):
    """The official model's tensors as a file."""
    path = tmp_path_factory.mktemp("weights") / "official.th"
    torch.save(official.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def codec(weights) -> EncodecCodec:
    return EncodecCodec.from_official(CONFIG, weights)


def test_it_is_a_codec(codec, official) -> None:
    assert isinstance(codec, Codec)
    assert codec.codebooks().shape == (8, 1024, 128)
    assert torch.equal(codec.codebooks()[3], official.quantizer.vq.layers[3].codebook)
    assert not any(parameter.requires_grad for parameter in codec.parameters())


@pytest.mark.parametrize("samples", [1, 320, 4801, 12_000])
def test_codes_and_waveforms_are_the_package_s_bit_for_bit(codec, official, samples: int) -> None:
    wav = wave(0.5, 1, 2)[..., :samples]
    with torch.inference_mode():
        ((theirs, scale),) = official.encode(wav)
        assert scale is None
        expected = official.decode([(theirs, None)])
    codes = codec.encode(wav)
    assert codes.shape == (2, 8, -(-samples // 320))
    assert torch.equal(codes, theirs)
    assert len(codes[:, 0].unique()) >= min(4, codes.shape[-1])  # the weights do tell sounds apart
    decoded = codec.decode(codes)
    assert decoded.shape == (2, 1, codes.shape[-1] * 320)
    assert torch.equal(decoded, expected.clamp(-1, 1))
    assert expected.abs().max() > 1e-3


@pytest.mark.usefixtures("any_shape")
def test_fewer_layers_decode_as_in_the_package(codec, official) -> None:
    codes = codec.encode(wave(0.1, 3))[:, :2]
    with torch.inference_mode():
        assert torch.equal(codec.decode(codes), official.decode([(codes, None)]).clamp(-1, 1))
    with pytest.raises(ValueError, match="codes between 1024 and 1024"):
        codec.decode(torch.full((1, 8, 3), 1024))
    with pytest.raises(ValueError, match="expected"):
        codec.encode(torch.zeros(1, 2, 320))


@pytest.mark.parametrize("frames", [31, 32, 40])
def test_pieces_give_the_codes_and_the_waveform_of_the_whole(codec, monkeypatch, frames: int) -> None:
    """All codes agree, for any weights: the LSTM runs over the whole. Tails of one frame and of part of a frame too."""
    wav = wave(0.6, 4, 5)[..., : frames * 320 - 100]
    latent, codes = codec.latents(wav), codec.encode(wav)
    decoded = codec.decode(codes)
    with global_rng_untouched():
        monkeypatch.setattr(encodec, "PIECE", 10)
        assert (codec.latents(wav) - latent).abs().max() <= 1e-5 * latent.abs().max()
        assert torch.equal(codec.encode(wav), codes)
        assert (codec.decode(codes) - decoded).abs().max() <= 1e-5 * decoded.abs().max()
    monkeypatch.setattr(encodec, "CONTEXT", 1)  # what the context is for
    assert (codec.latents(wav) - latent).abs().max() > 1e-3 * latent.abs().max()
    assert (codec.decode(codes) - decoded).abs().max() > 1e-3 * decoded.abs().max()


def test_configs_that_the_model_does_not_fit() -> None:
    for changes, message in (
        ({"kind": "mini"}, "kind 'encodec', not 'mini'"),
        ({"sample_rate": 16_000}, "codec.sample_rate is 16000: EnCodec's 24 kHz model has 24000"),
        ({"hop": 160}, "codec.hop is 160"),
        ({"bins": 512}, "codec.bins is 512"),
    ):
        with pytest.raises(ConfigError, match=message):
            EncodecCodec(CONFIG.model_copy(update=changes))


def test_the_paper_s_preset_is_one_that_it_fits() -> None:
    config = load_preset("paper").codec
    assert EncodecCodec(config.model_copy(update={"vocoder": "encodec"})).codebooks().shape == (8, 1024, 128)


def test_save_and_load_keep_codes_waveforms_and_digest(codec, tmp_path) -> None:
    codec.save(tmp_path / "c", {"note": "x"})
    loaded = load_codec(tmp_path / "c")
    assert isinstance(loaded, EncodecCodec)
    assert (loaded.config, loaded.token_digest) == (codec.config, codec.token_digest)
    wav = wave(0.2, 6)
    codes = codec.encode(wav)
    assert torch.equal(loaded.encode(wav), codes)
    assert torch.equal(loaded.decode(codes), codec.decode(codes))
    tensors, meta = load_checkpoint(tmp_path / "c", EncodecCodec.FORMAT)
    assert meta["format"] == "ms-codec-encodec-1"
    assert not any("embed_avg" in name for name in tensors)
    del meta["weights_sha256"]
    name = "quantizer.vq.layers.0._codebook.embed"
    for wrong, message in (
        ((tensors, {**meta, "token_digest": "0"}), "token digest"),
        (({**tensors, name: tensors[name] + 1}, meta), "token digest"),
        (({k: v for k, v in tensors.items() if k != name}, meta), f'Missing key.*"{name}"'),
        (({**tensors, "extra": torch.zeros(1)}, meta), 'Unexpected key.*"extra"'),
        (
            ({**tensors, name: tensors[name][:9].clone()}, meta),
            "size mismatch for quantizer.vq.layers.0._codebook.embed",
        ),
        ((tensors, {**meta, "config": {**meta["config"], "hop": 160}}), "codec.hop is 160"),
        ((tensors, {**meta, "format": "ms-codec-1"}), "format 'ms-codec-1'"),
    ):
        save_checkpoint(tmp_path / "wrong", *wrong)
        with pytest.raises(CheckpointError, match=message):
            load_codec(tmp_path / "wrong")


def test_the_digest_follows_encoder_and_codebooks_alone(codec, weights) -> None:
    other = EncodecCodec.from_official(CONFIG, weights)
    with torch.no_grad():
        next(other.decoder.parameters()).add_(1)
    assert other.token_digest == codec.token_digest
    with torch.no_grad():
        next(other.encoder.parameters()).add_(1e-3)
    assert other.token_digest != codec.token_digest


def test_fewer_layers_of_the_official_weights(codec, weights) -> None:
    four = EncodecCodec.from_official(CONFIG.model_copy(update={"n_q": 4}), weights)
    wav = wave(0.1, 7)
    assert torch.equal(four.encode(wav), codec.encode(wav)[:, :4])
    assert four.token_digest != codec.token_digest


def test_the_official_file_is_fetched_checked_and_read_without_pickle(official, monkeypatch, tmp_path) -> None:
    """A stand-in for the download: the published file cannot be had in a test."""
    place = paths.runs() / "pretrained" / OFFICIAL

    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(CheckpointError, match=f"could not be downloaded .*no network.* put the file at {place}"):
        EncodecCodec.from_official(CONFIG)
    with pytest.raises(CheckpointError, match=f"no weights at .*none.th; the official file {OFFICIAL} goes to"):
        EncodecCodec.from_official(CONFIG, tmp_path / "none.th")

    asked = []

    def download(url: str, path: str, prefix: str, progress: bool) -> None:
        asked.append((url, prefix))
        torch.save({k: v for k, v in official.state_dict().items() if not k.endswith("embed_avg")}, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    EncodecCodec.from_official(CONFIG)
    with pytest.raises(CheckpointError, match="its sha256 does not start with d7cc33bc: damaged"):
        EncodecCodec.from_official(CONFIG)  # what lies there is held to the hash too
    with pytest.raises(CheckpointError, match="its sha256 does not start with d7cc33bc: damaged"):
        EncodecCodec.from_official(CONFIG, place)  # by its path as well
    monkeypatch.setattr(encodec, "sha256", lambda path: "d7cc33bc" + 56 * "0")
    fetched = EncodecCodec.from_official(CONFIG)
    assert asked == [(encodec.ROOT_URL + OFFICIAL, "d7cc33bc")]  # once, held to the hash in its name, and kept
    wav = wave(0.1, 8)
    with torch.inference_mode():
        assert torch.equal(fetched.encode(wav), official.encode(wav)[0][0])


def test_damaged_weight_files(tmp_path) -> None:
    for name in ("a.th", "a.safetensors"):
        (tmp_path / name).write_bytes(b"not weights at all")
        with pytest.raises(CheckpointError, match=name):
            read_tensors(tmp_path / name)
    torch.save({"a": MiniCodec(CODEC)}, tmp_path / "code.th")  # would run code when unpickled
    with pytest.raises(CheckpointError, match="not a PyTorch file of plain tensors"):
        read_tensors(tmp_path / "code.th")
    torch.save([torch.zeros(1)], tmp_path / "list.th")
    with pytest.raises(CheckpointError, match="not a table of named tensors"):
        read_tensors(tmp_path / "list.th")
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    assert read_tensors(tmp_path / "a.safetensors") == {"a": torch.ones(1)}
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.th")
    with pytest.raises(CheckpointError, match=r"other.th: damaged, or of another version \(.*Missing key"):
        EncodecCodec.from_official(CONFIG, tmp_path / "other.th")


def test_vocos_is_named_where_it_is_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "vocos", None)
    for name in ("vocos.heads", "vocos.models"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ImportError, match=r"run `pip install 'ms-core\[paper\]'`, or set codec.vocoder to 'encodec'"):
        EncodecCodec(CONFIG.model_copy(update={"vocoder": "vocos"}))


def test_vocos_decodes_as_its_package_does(codec, weights, monkeypatch, tmp_path) -> None:
    """Skipped where the package `vocos` is not installed."""
    vocos = pytest.importorskip("vocos")
    from vocos.feature_extractors import EncodecFeatures
    from vocos.heads import ISTFTHead
    from vocos.models import VocosBackbone

    plain = EncodecModel.encodec_model_24khz
    monkeypatch.setattr(EncodecModel, "encodec_model_24khz", lambda pretrained: plain(pretrained=False))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        theirs = vocos.Vocos(
            EncodecFeatures(), VocosBackbone(128, 384, 1152, 8, adanorm_num_embeddings=4), ISTFTHead(384, 1280, 320)
        ).eval()
        with torch.no_grad():
            theirs.feature_extractor.codebook_weights.normal_()
            theirs.head.out.weight.mul_(10)
    monkeypatch.undo()
    assert theirs.feature_extractor.codebook_weights.shape == (16 * 1024, 128)
    kept = {k: v for k, v in theirs.state_dict().items() if not k.startswith("feature_extractor.encodec.")}
    torch.save(kept, tmp_path / "vocos.bin")

    config = CONFIG.model_copy(update={"vocoder": "vocos"})
    with pytest.raises(CheckpointError, match="Vocos's weights are missing.*put pytorch_model.bin of charactr/vocos"):
        monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args: 1 / 0)
        EncodecCodec.from_official(config, weights)
    ours = EncodecCodec.from_official(config, weights, tmp_path / "vocos.bin")
    assert ours.token_digest == codec.token_digest  # voices and models serve both decoders
    codes = torch.randint(1024, (2, 8, 75), generator=torch.Generator().manual_seed(2))
    features = theirs.codes_to_features(codes.transpose(0, 1))
    expected = theirs.decode(features, bandwidth_id=torch.tensor([2]))[:, None].clamp(-1, 1)  # 6 kb/s
    decoded = ours.decode(codes)
    assert decoded.shape == (2, 1, 75 * 320)
    assert (decoded - expected).abs().max() < 1e-5
    assert expected.std() > 1e-3
    monkeypatch.setattr(encodec, "PIECE", 20)
    assert (ours.decode(codes) - decoded).abs().max() < 1e-5  # no seams
    ours.save(tmp_path / "saved", {})
    assert torch.equal(load_codec(tmp_path / "saved").decode(codes), ours.decode(codes))
