"""The joined model: where the loss falls, what a batch must not change, what each switch does."""

import math

import pytest
import torch
from conftest import CODEC, MODEL, batch_of, global_rng_untouched, new_model, unpadded, utterance

from ms_core.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from ms_core.codec.mini import MiniCodec
from ms_core.config import MaskConfig
from ms_core.layers import lengths_to_mask
from ms_core.model import MobileSpeechModel, duration_loss
from ms_core.smd import apply_mask, draw_masks
from ms_core.text import phone_ids
from ms_core.tokens import Batch

MASKS = MaskConfig(alpha=0.75, p_rank="uniform")
PAIRS = [(utterance(seed, 2), utterance(10 + seed, 3 + seed)) for seed in range(3)]


def losses(
    model: MobileSpeechModel, batch: Batch, seed: int = 0, layer: int | None = None, **options: object
) -> dict[str, torch.Tensor]:
    real = lengths_to_mask(batch.durations.sum(1), batch.codes.shape[-1])
    drawn, masked = draw_masks(real, CODEC.n_q, MASKS, torch.Generator().manual_seed(seed))
    return model(batch, drawn if layer is None else torch.full_like(drawn, layer), masked, **options)


@pytest.mark.parametrize("switches", [{}, {"codebook_prior": False}])
def test_scores_of_masked_frames_alone_are_those_of_all(codec, switches: dict) -> None:
    """A CPU scores masked frames layer by layer, a GPU all at once: values and gradients agree."""
    model = new_model(codec, **switches)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, CODEC.bins, (5, CODEC.n_q, 40), generator=generator)
    x = torch.randn(5, 40, MODEL.dim, generator=generator)
    copied = None if model.smd.copy is None else torch.randn(5, 40, model.smd.prior.scale.shape[1], generator=generator)
    layer, masked = torch.tensor([0, 2, 0, 1, 2]), torch.rand(5, 40, generator=generator) < 0.6
    found = []
    for scores in (model._scores, lambda *a: model._scores_of_masked(*a[:4], masked, a[4])):
        model.zero_grad()
        ce, latent, correct = scores(x, copied, codes, layer, True)
        ((ce + latent) * masked).sum().backward()
        found.append([ce * masked, latent * masked, correct & masked, model.smd.head.grad.clone()])
    for dense, sparse in zip(*found, strict=True):
        assert torch.allclose(dense.float(), sparse.float(), atol=1e-4, rtol=1e-4)


def logits(model: MobileSpeechModel, batch: Batch, layer: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a layer with all of it masked, and predicted durations: all that the model says of a batch."""
    frames = batch.codes.shape[-1]
    mask = lengths_to_mask(batch.durations.sum(1), frames)
    voice = model.voice(batch.prompt_codes, batch.prompt_phones, batch.prompt_durations)
    states = model.text(batch.phones)
    chosen = torch.full((len(mask),), layer)
    grid = apply_mask(batch.codes, chosen, mask, model.smd.mask_id)
    condition = model.expand(states, batch.durations, frames, voice)
    return model.smd(condition, grid, chosen, mask)[0], model.predict_durations(states, batch.phones, voice)


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_falls_on_masked_frames_of_the_drawn_layer_alone(model, seed: int) -> None:
    """Codes that neither the loss nor the visible grid may hold: changing them changes nothing."""
    batch = batch_of(*PAIRS)
    real = lengths_to_mask(batch.durations.sum(1), batch.codes.shape[-1])
    layer, masked = draw_masks(real, CODEC.n_q, MASKS, torch.Generator().manual_seed(seed))
    with global_rng_untouched():
        plain = losses(model, batch, seed)
    assert torch.equal(plain["layer"], layer)
    assert torch.equal(plain["masked"], masked.sum(1))
    rank = torch.arange(CODEC.n_q)[None, :, None]
    hidden = (rank > layer[:, None, None]) | ~real[:, None]  # layers above, and padding
    other = torch.randint(0, CODEC.bins, batch.codes.shape, generator=torch.Generator().manual_seed(9))
    unseen = Batch(**{**vars(batch), "codes": torch.where(hidden, other, batch.codes)})
    for name, value in losses(model, unseen, seed).items():
        assert torch.equal(value, plain[name]), name
    chosen = (rank == layer[:, None, None]) & masked[:, None]
    wrong = Batch(**{**vars(batch), "codes": torch.where(chosen, (batch.codes + 1) % CODEC.bins, batch.codes)})
    assert not torch.equal(losses(model, wrong, seed)["ce"], plain["ce"])  # what it does fall on


def test_the_loss_is_cross_entropy_over_the_masked_frames(model) -> None:
    batch = batch_of(*PAIRS)
    out = losses(model, batch, layer=1)
    assert (out["layer"] == 1).all()
    frames = batch.codes.shape[-1]
    real = lengths_to_mask(batch.durations.sum(1), frames)
    _, masked = draw_masks(real, CODEC.n_q, MASKS, torch.Generator().manual_seed(0))
    voice = model.voice(batch.prompt_codes, batch.prompt_phones, batch.prompt_durations)
    condition = model.expand(model.text(batch.phones), batch.durations, frames, voice)
    grid = apply_mask(batch.codes, out["layer"], masked, model.smd.mask_id)
    logp = model.smd(condition, grid, out["layer"], real)[0].log_softmax(-1)
    picked = -logp.gather(-1, batch.codes[:, 1, :, None])[..., 0]
    assert out["ce"].item() == pytest.approx(picked[masked].mean().item(), rel=1e-5)
    assert torch.allclose(out["ce_sum"], (picked * masked).sum(1), rtol=1e-5)
    assert out["correct"].tolist() == ((logp.argmax(-1) == batch.codes[:, 1]) & masked).sum(1).tolist()
    expected = duration_loss(logits(model, batch)[1], batch.durations, batch.phones)
    assert out["duration"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert out["latent"] == 0


def test_the_duration_loss_adds_phones_words_and_utterances() -> None:
    """Against sums written out: "_ B IY1 _ AA1 _" and a shorter one beside it."""
    names = [["_", "B", "IY1", "_", "AA1", "_"], ["_", "AA1", "_"]]
    durations = torch.tensor([[2, 3, 5, 0, 7, 1], [4, 6, 2, 0, 0, 0]])
    phones = torch.tensor([phone_ids(names[0]), phone_ids(names[1]) + [0] * 3])
    predicted = torch.log1p(torch.tensor([[2.0, 4, 4, 1, 9, 1], [5, 5, 4, 7, 7, 7]]))
    predicted.requires_grad_(True)

    def error(pairs: list[tuple[float, float]]) -> float:
        return sum((math.log1p(a) - math.log1p(b)) ** 2 for a, b in pairs) / len(pairs)

    phone = error([(2, 2), (4, 3), (4, 5), (1, 0), (9, 7), (1, 1), (5, 4), (5, 6), (4, 2)])
    word = error([(2, 2), (8, 8), (9, 7), (1, 1), (5, 4), (5, 6), (4, 2)])  # a pause is one, unless it has no length
    whole = error([(21, 18), (14, 12)])
    loss = duration_loss(predicted, durations, phones)
    assert loss.item() == pytest.approx(phone + word + whole, rel=1e-5)
    loss.backward()
    assert (predicted.grad[1, 3:] == 0).all() and predicted.grad[1, :3].abs().min() > 0  # padding teaches nothing


def test_the_latent_loss_falls_on_masked_frames_alone(model) -> None:
    batch = batch_of(*PAIRS)
    plain = losses(model, batch, latent_weight=1.0)["latent"]
    assert plain > 0
    real = lengths_to_mask(batch.durations.sum(1), batch.codes.shape[-1])
    changed = Batch(**{**vars(batch), "codes": torch.where(real[:, None], batch.codes, 5)})
    assert torch.equal(losses(model, changed, latent_weight=1.0)["latent"], plain)
    books = model.smd.prior.codebooks[:, :-1]
    full, lower = (model.smd.prior.known(batch.codes[:, :n]) for n in (3, 1))
    assert torch.allclose(full - lower, books[1][batch.codes[:, 1]] + books[2][batch.codes[:, 2]], atol=1e-5)


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"prefix": False},
        {"cross_attention": False},
        {"codebook_prior": False},
        {"prompt_copy": False},
        {"speaker": "pooled"},
    ],
)
def test_padding_and_batch_mates_change_nothing(codec, switches: dict[str, bool]) -> None:
    model = new_model(codec, **switches)
    together, durations = logits(model, batch_of(*PAIRS))
    for index, pair in enumerate(PAIRS):
        alone, own = logits(model, unpadded(*pair))
        assert torch.allclose(together[index, : alone.shape[1]], alone[0], atol=1e-3)
        assert torch.allclose(durations[index, : own.shape[1]], own[0], atol=1e-4)
    assert together.abs().max() > 1


def test_a_kept_voice_is_a_recomputed_one(model) -> None:
    batch = unpadded(*PAIRS[0])
    prompt = (batch.prompt_codes, batch.prompt_phones, batch.prompt_durations)
    kept, fresh = model.voice(*prompt), model.voice(*prompt)
    frames = batch.codes.shape[-1]
    mask = torch.ones(1, frames, dtype=torch.bool)
    grid = torch.full_like(batch.codes, model.smd.mask_id)
    condition, recomputed = (
        model.expand(model.text(batch.phones), batch.durations, frames, voice) for voice in (kept, fresh)
    )
    for layer in range(CODEC.n_q):
        chosen = torch.tensor([layer])
        once = model.smd(condition, grid, chosen, mask)[0]
        again = model.smd(recomputed, grid, chosen, mask)[0]
        assert torch.equal(once, again)  # passes leave the cache as it is
        grid[:, layer] = once.argmax(-1)
    for a, b in zip(kept.prompt.prefix, fresh.prompt.prefix, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])


def reach(model: MobileSpeechModel) -> tuple[bool, bool]:
    """Whether the prompt's codes, and its durations alone, change (logits, durations)."""
    prompt, target = PAIRS[0]
    plain = logits(model, unpadded(prompt, target))
    codes = type(prompt)(prompt.phones, prompt.durations, (prompt.codes + 3) % CODEC.bins)
    by_codes = logits(model, unpadded(codes, target))
    tempo = prompt.durations.copy()
    spoken = [i for i, d in enumerate(tempo) if d > 1][:1] + [len(tempo) - 1]
    tempo[spoken[0]] -= 1
    tempo[spoken[1]] += 1  # same number of frames
    by_tempo = logits(model, unpadded(type(prompt)(prompt.phones, tempo, prompt.codes), target))
    return not torch.allclose(plain[0], by_codes[0], atol=1e-5), not torch.allclose(plain[1], by_tempo[1], atol=1e-6)


def test_the_switches_work(codec) -> None:
    full = new_model(codec)
    assert reach(full) == (True, True)
    voice = full.voice(
        *(torch.from_numpy(x)[None] for x in (PAIRS[0][0].codes, PAIRS[0][0].phones, PAIRS[0][0].durations))
    )
    assert len(voice.prompt.prefix) == MODEL.smd_layers
    assert voice.prompt.cross is not None

    no_prefix = new_model(codec, prefix=False)
    assert all(block.attention.prompt_key_value is None for block in no_prefix.smd.blocks)
    assert reach(no_prefix) == (True, True)  # through cross-attention and the mean
    no_cross = new_model(codec, cross_attention=False)
    assert no_cross.prompt.attention is None
    assert reach(no_cross) == (True, True)
    no_durations = new_model(codec, prompt_durations=False)
    assert no_durations.extractor is None
    assert reach(no_durations) == (True, False)
    no_prior = new_model(codec, codebook_prior=False)
    assert no_prior.smd.prior is None and no_prior.smd.copy is None
    assert losses(no_prior, batch_of(*PAIRS), latent_weight=1.0)["latent"] == 0
    neither = new_model(codec, prefix=False, cross_attention=False)
    with torch.no_grad():
        neither.prompt.mean.weight.zero_()
    assert reach(neither)[0] is True  # through the copy
    none = new_model(codec, prefix=False, cross_attention=False, prompt_copy=False)
    with torch.no_grad():
        none.prompt.mean.weight.zero_()
    assert reach(none)[0] is False  # there is no fifth way in
    modulated = new_model(codec, prefix=False, cross_attention=False, prompt_copy=False, speaker="pooled")
    with torch.no_grad():
        modulated.prompt.mean.weight.zero_()
    assert reach(modulated)[0] is True  # but where the config asks for one


def test_every_parameter_learns(codec) -> None:
    model = new_model(codec).train()
    with torch.no_grad():
        model.smd.head.normal_(std=0.1)
    out = [losses(model, batch_of(*PAIRS), layer=j, latent_weight=1.0) for j in range(CODEC.n_q)]
    sum(o["ce"] + o["duration"] + o["latent"] for o in out).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_save_and_load(codec, model, tmp_path) -> None:
    model.save(tmp_path / "m", codec, {"note": "x"})
    loaded = MobileSpeechModel.load(tmp_path / "m", codec)
    assert not loaded.training
    assert (loaded.config, loaded.codec_config, loaded.decoding) == (model.config, model.codec_config, model.decoding)
    halved = {k: v.half().float() for k, v in model.state_dict().items()}
    assert all(torch.equal(v, halved[k]) for k, v in loaded.state_dict().items())
    assert torch.allclose(logits(loaded, batch_of(*PAIRS))[0], logits(model, batch_of(*PAIRS))[0], atol=0.1)
    assert torch.equal(loaded.smd.prior.codebooks[:, :-1], codec.books)  # taken from the codec, not from the file


def test_damaged_or_foreign_models_are_refused(codec, model, tmp_path) -> None:
    other = MiniCodec(CODEC)
    other.load_state_dict(codec.state_dict())
    other.books += 1
    model.save(tmp_path / "m", codec, {})
    with pytest.raises(CheckpointError, match=f"trained on tokens {codec.token_digest}, this codec makes"):
        MobileSpeechModel.load(tmp_path / "m", other)
    tensors, meta = load_checkpoint(tmp_path / "m", MobileSpeechModel.FORMAT)
    del meta["weights_sha256"]
    name = "position_in_phone.weight"
    for wrong, message in (
        ((tensors, {**meta, "phones": meta["phones"][:-1]}), "phone table"),
        ((tensors, {**meta, "config": {**meta["config"], "dim": 64}}), "size mismatch"),
        ((tensors, {**meta, "config": {**meta["config"], "colour": 1}}), "colour"),
        ((tensors, {k: v for k, v in meta.items() if k != "decoding"}), "'decoding' is missing"),
        ((tensors, {k: v for k, v in meta.items() if k != "token_digest"}), "'token_digest' is missing"),
        (({k: v for k, v in tensors.items() if k != name}, meta), name),
        (({**tensors, "extra": torch.zeros(1)}, meta), "extra"),
        ((tensors, {**meta, "format": "ms-codec-1"}), "format 'ms-codec-1', expected 'ms-model-1'"),
    ):
        save_checkpoint(tmp_path / "wrong", *wrong)
        with pytest.raises(CheckpointError, match=message):
            MobileSpeechModel.load(tmp_path / "wrong", codec)
