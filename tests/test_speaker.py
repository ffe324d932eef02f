"""The speaker encoder on latents, and the loss that asks for the recording's speaker."""

import json

import numpy as np
import pytest
import torch
from conftest import CODEC, PRESET, batch_of, new_model, utterance

from ms_core.checkpoint import CheckpointError, sha256
from ms_core.codec import MiniCodec
from ms_core.config import MaskConfig, override
from ms_core.data import DataError
from ms_core.layers import lengths_to_mask
from ms_core.smd import apply_mask
from ms_core.speaker import LatentSpeakerEncoder, SpeakerTask, consistency_loss, equal_error_rate
from ms_core.tasks import ModelTask
from ms_core.train import train

SPEAKER = override(PRESET, {"train_speaker": {**PRESET.train_codec.model_dump(mode="json"), "steps": 4}})
PAIRS = [(utterance(2 * i), utterance(2 * i + 1, words=3 + i)) for i in range(4)]


def encoder_of(codec, seed: int = 0) -> LatentSpeakerEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LatentSpeakerEncoder(codec.codebooks().square().mean(1).sum(0).sqrt()).eval()


def test_an_embedding_hears_the_masked_frames_and_no_padding(codec) -> None:
    encoder = encoder_of(codec)
    latents = torch.randn(2, 40, CODEC.latent_dim, generator=torch.Generator().manual_seed(0))
    mask = lengths_to_mask(torch.tensor([40, 25]), 40)
    found = encoder(latents, mask)
    assert torch.allclose(found.norm(dim=1), torch.ones(2), atol=1e-5)
    beyond = latents.clone()
    beyond[1, 33:] = 9.0  # more than the context of 8 frames away
    assert torch.allclose(encoder(beyond, mask), found, atol=1e-5)
    heard = latents.clone()
    heard[1, 10] = 9.0
    assert not torch.allclose(encoder(heard, mask)[1], found[1], atol=1e-3)


def test_the_consistency_loss_is_the_distance_of_embeddings_weighed_by_frames(codec) -> None:
    encoder = encoder_of(codec)
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(2, 30, CODEC.latent_dim, generator=generator).requires_grad_() for _ in range(2))
    mask = lengths_to_mask(torch.tensor([30, 10]), 30)
    cosine = (encoder(a, mask) * encoder(b, mask)).sum(1)
    loss = consistency_loss(encoder, a, b, mask)
    assert loss.item() == pytest.approx(((1 - cosine) * torch.tensor([0.75, 0.25])).sum().item(), rel=1e-4)
    loss.backward()
    assert b.grad is None and a.grad[0].abs().sum() > 0
    assert consistency_loss(encoder, a, a, mask).item() == pytest.approx(0, abs=1e-5)


def test_what_the_model_would_speak_is_its_greedy_choice(codec) -> None:
    """Values are those of greedy tokens over true lower layers; half go on to layer 2 from their own layer 1."""
    model = new_model(codec)
    batch = batch_of(*PAIRS)
    frames = batch.codes.shape[-1]
    real = lengths_to_mask(batch.durations.sum(1), frames)
    masks = MaskConfig(alpha=0.0, p_rank="harmonic")  # layer 1: all frames
    seed = next(s for s in range(99) if (draw(model, batch, masks, s)["layer"] == 0).sum() == 2)
    out = draw(model, batch, masks, seed)
    layer, books = out["layer"], codec.codebooks()
    voice = model.voice(batch.prompt_codes, batch.prompt_phones, batch.prompt_durations)
    text = model.expand(model.text(batch.phones), batch.durations, frames, voice)
    compared = out["compared"][:4]
    grid = apply_mask(batch.codes, layer, compared, model.smd.mask_id)
    best = model.smd(text, grid, layer, real, voice.prompt)[0].argmax(-1)  # (b, t)
    for row in range(4):
        vectors = [books[j][batch.codes[row, j]] for j in range(CODEC.n_q)]
        own = torch.where(compared[row, :, None], books[layer[row]][best[row]], vectors[layer[row]])
        below = sum(vectors[: layer[row]], torch.zeros_like(own))
        assert torch.allclose(out["spoken"][row], below + own, atol=1e-5)
        assert torch.allclose(out["recorded"][row], below + vectors[layer[row]], atol=1e-5)
    rows = layer.argsort(stable=True)[:2]
    assert (layer[rows] == 0).all()
    second = torch.full((2, CODEC.n_q, frames), model.smd.mask_id)
    second[:, 0] = torch.where(compared[rows], best[rows], batch.codes[rows, 0])
    logits, _ = model.smd(text[rows], second, torch.ones_like(rows), real[rows], voice.prompt.of(rows))
    expected = books[0][second[:, 0]] + books[1][logits.argmax(-1)]
    assert torch.allclose(out["spoken"][4:], expected, atol=1e-4)
    assert torch.equal(out["compared"][4:], real[rows])
    out["spoken"].sum().backward()
    assert model.smd.head.grad.abs().sum() > 0  # through the choice


def draw(model, batch, masks: MaskConfig, seed: int) -> dict:
    return model(batch, masks, torch.Generator().manual_seed(seed), spoken=True)


def test_equal_error_rate() -> None:
    assert equal_error_rate(np.array([0.8, 0.9]), np.array([0.1, 0.2])) == 0
    assert equal_error_rate(np.array([0.1, 0.2]), np.array([0.8, 0.9])) == 1
    assert equal_error_rate(np.array([0.1, 0.6, 0.7, 0.8]), np.array([0.2, 0.3, 0.4, 0.65])) == 0.25


def test_trained_loaded_and_used(codec, cuts, tmp_path) -> None:
    folder = train(SpeakerTask(SPEAKER, codec, cuts["train"], cuts["dev"]), tmp_path / "speaker")
    rows = [json.loads(line) for line in (tmp_path / "speaker" / "log.jsonl").read_text().splitlines()]
    assert all(0 <= r["accuracy"] <= 1 and np.isfinite(r["loss"]) for r in rows if r["split"] == "train")
    assert all(0 <= r["eer"] <= 1 and 0 <= r["eer_layer1"] <= 1 for r in rows if r["split"] == "dev")
    encoder = LatentSpeakerEncoder.load(folder, codec)
    assert not any(p.requires_grad for p in encoder.parameters())
    other = MiniCodec(codec.config)
    with pytest.raises(CheckpointError, match="train speaker"):
        LatentSpeakerEncoder.load(folder, other)
    asked = override(PRESET, {"train_model.speaker_weight": 1.0, "train_model.steps": 2})
    with pytest.raises(CheckpointError, match="speaker encoder"):
        ModelTask(asked, codec, cuts["train"], cuts["dev"])
    task = ModelTask(asked, codec, cuts["train"], cuts["dev"], speaker=folder)
    made = json.loads((train(task, tmp_path / "model") / "config.json").read_text())["provenance"]
    assert made["speaker_encoder"] == sha256(folder / "weights.safetensors")
    rows = [json.loads(line) for line in (tmp_path / "model" / "log.jsonl").read_text().splitlines()]
    first = next(r for r in rows if r["split"] == "train")
    assert 0 < first["speaker"] < 2 and 0 < first["speaker_own"] < 2
    plain = first["ce"] + first["duration"] + 0.5 * first["latent"]
    assert first["loss"] == pytest.approx(plain + (first["speaker"] + first["speaker_own"]) / 2, rel=1e-4)


def test_it_learns_to_tell_two_speakers(codec, cuts, tmp_path) -> None:
    more = override(SPEAKER, {"train_speaker.steps": 60, "train_speaker.log_every": 20, "train_speaker.lr": 3e-3})
    train(SpeakerTask(more, codec, cuts["train"], cuts["dev"]), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    found = [r["loss"] for r in rows if r["split"] == "train"]
    assert found[-1] < 0.7 * found[0]


def test_one_speaker_is_too_few(codec, cuts) -> None:
    first = cuts["train"][0].supervisions[0].speaker
    alone = cuts["train"].filter(lambda cut: cut.supervisions[0].speaker == first).to_eager()
    with pytest.raises(DataError, match="two at least"):
        SpeakerTask(SPEAKER, codec, alone, cuts["dev"])
