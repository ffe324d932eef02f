"""The ablation study: its variants, what they train, and that a study goes on where it was stopped."""

import json

import numpy as np
import pytest
import torch
from conftest import PRESET, batch_of, new_model, unpadded, utterance
from test_pack import speech

from ms_core.baselines import NETWORKS, BaselineSpeech
from ms_core.checkpoint import CheckpointError
from ms_core.config import ConfigError, Variants, load_preset, load_variants, override, parse
from ms_core.layers import lengths_to_mask
from ms_core.tokens import Voice
from ms_core.training.ablations import SCORES, BaselineTask, dev_scores, train_variants
from ms_core.training.acoustic import PackTask
from ms_core.training.loop import STATE
from ms_core.training.pack import Pack

TINY = {"train_model.steps": 3, "train_model.eval_every": 100, "train_model.latent_weight": 0.0}


@pytest.fixture
def pack(codec) -> Pack:
    return Pack(speech(), speech(4, 2, seed=50), codec, {"speech_hours": 0.01})


def test_variants_differ_from_their_controls_in_what_they_say() -> None:
    study = load_variants()
    presets = study.presets(load_preset("mini"), {"train_model.steps": 7})
    kinds = {(study.variants[name].network, preset.digest()) for name, preset in presets.items()}
    assert len(kinds) == len(presets) - 1 > 20  # `base-repeat` is the base
    for name, variant in study.variants.items():
        assert override(presets[variant.control or "base"], variant.changes) == presets[name], name
        assert presets[name].train_model.steps == 7
    with pytest.raises(ConfigError, match="networks"):
        parse(Variants, {"variants": {"a": {"about": "", "networks": 1}}}, "here")


def test_loss_on_the_layers_above_reaches_their_heads_alone_where_asked(codec) -> None:
    batch, layer = batch_of((utterance(1), utterance(2)), (utterance(3), utterance(4, words=6))), torch.tensor([0, 1])
    real = lengths_to_mask(batch.durations.sum(1), batch.codes.shape[-1])
    model = new_model(codec, codebook_prior=False).train()
    losses = {}
    for above, reached in ((False, [True, True, False]), (True, [True, True, True])):
        model.zero_grad()
        out = model(batch, layer, real, 0.0, above)
        out["ce"].backward()
        assert [bool(row.abs().sum() > 0) for row in model.smd.head.grad] == reached
        losses[above] = out["ce"].item()
        assert out["ce_sum"].shape == (2,)
    x, copied = model.eval().smd.states(*_asked(model, batch, layer, real))
    by_hand = [model._scores(x, copied, batch.codes, layer, False)[0][real]]
    by_hand += [model._scores(x[:1], None, batch.codes[:1], torch.tensor([j]), False)[0][real[:1]] for j in (1, 2)]
    by_hand += [model._scores(x[1:], None, batch.codes[1:], torch.tensor([2]), False)[0][real[1:]]]
    assert torch.cat(by_hand).mean().item() == pytest.approx(losses[True], rel=1e-4)  # no dropout in the tiny model


def _asked(model, batch, layer, real):
    from ms_core.smd import apply_mask

    voice = model.voice(batch.prompt_codes, batch.prompt_phones, batch.prompt_durations)
    condition = model.expand(model.text(batch.phones), batch.durations, batch.codes.shape[-1], voice)
    return condition, apply_mask(batch.codes, layer, real, model.smd.mask_id), layer, real


def test_a_study_goes_on_where_it_was_stopped(pack: Pack, tmp_path) -> None:
    home = tmp_path / "study"
    variants = {
        "base": override(PRESET, TINY),
        "two": override(PRESET, {**TINY, "codec.n_q": 2, "decoding.steps": [1, 1]}),
    }
    said: list[str] = []
    train_variants({"base": variants["base"]}, pack, home, echo=said.append)
    before = (home / "base" / "export" / "weights.safetensors").stat().st_mtime_ns
    exports = train_variants(variants, pack, home, echo=said.append)
    assert said[1].startswith("base: at hand") and said[2].startswith("two: trained")
    assert exports["base"].joinpath("weights.safetensors").stat().st_mtime_ns == before
    assert json.loads((exports["two"] / "config.json").read_text())["codec_config"]["n_q"] == 2
    assert not list(home.rglob(STATE))
    rows = json.loads((exports["two"] / SCORES).read_text())
    assert [row["speaker"] for row in rows] == pack.dev.speakers.tolist() and len(rows[0]["ce"]) == 2
    # cut off before its scores: only what was lost is done again
    (exports["two"] / SCORES).unlink()
    train_variants(variants, pack, home, echo=said.append)
    assert said[-1].startswith("two: trained")
    assert json.loads((exports["two"] / SCORES).read_text()) == rows
    with pytest.raises(CheckpointError, match="another configuration"):
        train_variants({"base": override(PRESET, {**TINY, "mask.alpha": 0.1})}, pack, home, echo=said.append)


def test_scores_are_of_the_utterance_and_not_of_a_variants_own_masks(pack: Pack) -> None:
    one, other = (PackTask(override(PRESET, {**TINY, **changes}), pack, "cpu") for changes in ({}, {"mask.alpha": 0.0}))
    network = one.networks["model"].eval()
    rows = dev_scores(network, one)
    assert rows == dev_scores(network, other)
    assert all(0 < row["frames"] <= row["frames_whole"] for row in rows)
    assert sum(row["frames"] for row in rows) < sum(row["frames_whole"] for row in rows)
    ce = sum(row["ce_whole"] for row in rows) / sum(row["frames_whole"] for row in rows)
    batch = one.dev_batches()[0]
    real = lengths_to_mask(batch.durations.sum(1), batch.codes.shape[-1])
    with torch.inference_mode():
        out = network(batch, torch.zeros(len(real), dtype=torch.long), real)
    assert ce == pytest.approx(out["ce"].item(), rel=1e-4)


def test_the_lowest_layers_of_a_codec_are_a_codec(codec, pack: Pack) -> None:
    lower = codec.lowest(2)
    wave = torch.randn(1, 1, 16_000, generator=torch.Generator().manual_seed(0)) * 0.1
    assert torch.equal(lower.encode(wave), codec.encode(wave)[:, :2])
    assert torch.equal(lower.decode(lower.encode(wave)), codec.decode(codec.encode(wave)[:, :2]))
    assert lower.token_digest != codec.token_digest
    assert (pack.lowest(2).train.codes == pack.train.codes[:2]).all() and pack.lowest(3) is pack


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_baseline_learns_and_speaks(kind: str, pack: Pack, codec) -> None:
    task = BaselineTask(override(PRESET, TINY), pack, "cpu", kind)
    network = task.networks["model"]
    batch = task.dev_batches()[0]
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    torch.manual_seed(0)
    lost = []
    for _ in range(40):
        optimiser.zero_grad()
        loss, _ = task._loss(network, batch)
        loss.backward()
        optimiser.step()
        lost.append(loss.item())
    assert sum(lost[-5:]) < 0.9 * sum(lost[:5])
    assert all(parameter.grad is not None for name, parameter in network.named_parameters() if "smd" not in name)
    tts = BaselineSpeech(codec, network, PRESET.decoding)
    prompt = Voice(pack.dev.codes[:, :20].astype(np.int64), ("_", "AH0", "_"), (5, 10, 5), codec.token_digest)
    codes, durations = tts.generate(["_", "HH", "AH0", "_"], prompt, seed=1)
    assert codes.shape == (3, sum(durations)) and codes.min() >= 0 and codes.max() < 32
    assert (codes == tts.generate(["_", "HH", "AH0", "_"], prompt, seed=1)[0]).all()


def test_the_autoregressive_baseline_generates_as_it_was_trained(pack: Pack) -> None:
    network = BaselineTask(override(PRESET, TINY), pack, "cpu", "autoregressive").networks["model"].eval()
    batch = unpadded(utterance(1), utterance(2))
    with torch.inference_mode():
        voice = network.voice(batch.prompt_codes, batch.prompt_phones, batch.prompt_durations)
        frames = batch.codes.shape[-1]
        condition = network.expand(network.text(batch.phones), batch.durations, frames, voice)
        x = condition.text + network.before(batch.codes[:, 0])
        causal = torch.ones(frames, frames, dtype=torch.bool).tril()[None]
        allowed = torch.cat([voice.prompt.mask[:, None].expand(-1, frames, -1), causal], 2)[:, None]
        at_once = network._logits(x, allowed, network._prompts(condition), 0)
        past = network._prompts(condition)
        one_by_one = [network._logits(x[:, t : t + 1], None, past, t) for t in range(frames)]
    assert torch.allclose(torch.cat(one_by_one, 1), at_once, atol=1e-4)
