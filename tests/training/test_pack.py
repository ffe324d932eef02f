"""Packs of speech: what goes in comes out, and what is wrong is refused; batches drawn from them on the device."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CODEC, PRESET, TRAIN, utterance
from safetensors.torch import load_file

from ms_core.config import ConfigError, override
from ms_core.text import phone_ids
from ms_core.tokens import BOUNDARY_IDS, PHRASE_WORDS, Batch
from ms_core.training.acoustic import PackTask, train_from_packs
from ms_core.training.loop import train
from ms_core.training.pack import Pack, PackError, Utterances, join_file, pack_bits, split_file, unpack_bits
from ms_core.training.resident import POOL, TokenBatches, Variation, by_length, dev_batches, shapes_of

LENGTHS = {"max_seconds": 1.5, "prompt_seconds": 0.5, "batch_seconds": 6.0}
PLAIN = TRAIN.model_copy(update={**LENGTHS, "other_utterance": 1.0})


def speech(count: int = 9, speakers: int = 3, seed: int = 0) -> Utterances:
    spoken = (utterance(seed + i, words=3 + i % 20) for i in range(count))
    return Utterances.of((f"s{i % speakers}", u.phones, u.durations, u.codes) for i, u in enumerate(spoken))


@pytest.fixture
def pack(codec) -> Pack:
    return Pack(speech(), speech(4, 2, seed=50), codec, {"speech_hours": 0.01})


@pytest.mark.parametrize("bits", [1, 5, 10, 12])
def test_bits_come_back(bits: int) -> None:
    values = np.random.default_rng(0).integers(0, 1 << bits, 1001)
    packed = pack_bits(values, bits)
    assert len(packed) == -(-1001 * bits // 8)
    assert (unpack_bits(packed, 1001, bits) == values).all()
    with pytest.raises(PackError, match="hold no"):
        unpack_bits(packed[:-1], 1001, bits)


def test_a_pack_comes_back_whole(pack: Pack, tmp_path) -> None:
    again = Pack.read(pack.write(tmp_path / "p.pack"))
    for name in ("train", "dev"):
        for field, values in vars(getattr(pack, name)).items():
            assert (getattr(getattr(again, name), field) == values).all(), (name, field)
    assert again.codec.token_digest == pack.codec.token_digest
    assert again.about == pack.about
    packed = load_file(tmp_path / "p.pack")["train.codes"]
    assert packed.numel() == -(-pack.train.codes.size * 5 // 8)  # bits, not bytes


def test_packs_are_joined_with_their_speakers_apart(pack: Pack, tmp_path) -> None:
    other = replace(pack, train=speech(5, 2, seed=90), about={"voices": "others"})
    files = [pack.write(tmp_path / "a.pack"), other.write(tmp_path / "b.pack")]
    both = Pack.read_all(files)
    assert both.train.speakers.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4]
    assert both.train.codes.shape[1] == pack.train.codes.shape[1] + other.train.codes.shape[1]
    assert both.about["joined"] == [{"voices": "others"}]
    both.train.check(CODEC.bins, "both")


def test_what_is_no_pack_is_refused(pack: Pack, codec, tmp_path) -> None:
    path = pack.write(tmp_path / "p.pack")
    with pytest.raises(PackError, match="no pack"):
        Pack.read(tmp_path / "missing.pack")
    whole = path.read_bytes()
    for length in (10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pack").write_bytes(whole[:length])
        with pytest.raises(PackError, match="cut short"):
            Pack.read(tmp_path / "cut.pack")
    tables = bytearray(whole)
    start = whole.index(load_file(path)["codec.books"].numpy().tobytes())
    tables[start + 3] ^= 1
    (tmp_path / "tables.pack").write_bytes(bytes(tables))
    with pytest.raises(PackError, match="digest"):
        Pack.read(tmp_path / "tables.pack")
    with pytest.raises(PackError, match="do not fit"):
        replace(pack, train=replace(pack.train, durations=pack.train.durations + 1)).write(tmp_path / "bad.pack")
    with pytest.raises(ConfigError, match="n_q"):
        PackTask(override(PRESET, {"codec.n_q": 4, "decoding.steps": [1, 1, 1, 1]}), pack, "cpu")


def test_parts_are_joined_and_a_wrong_one_is_named(pack: Pack, tmp_path) -> None:
    path = pack.write(tmp_path / "p.pack")
    content = path.read_bytes()
    parts = split_file(path, 5000)
    assert len(parts) == -(-len(content) // 5000) and max(p.stat().st_size for p in parts) == 5000
    path.unlink()
    assert join_file(path).read_bytes() == content
    path.unlink()
    first, second = parts[0].read_bytes(), parts[1].read_bytes()
    parts[0].write_bytes(second)
    parts[1].write_bytes(first)
    with pytest.raises(PackError, match=parts[0].name):
        join_file(path)
    parts[0].unlink()
    with pytest.raises(PackError, match="missing"):
        join_file(path)
    assert not path.exists()


def windows(speech: Utterances) -> set[bytes]:
    """The codes of every run of whole words."""
    ends, found, start = np.cumsum(speech.durations), set(), 0
    for stop in speech.phone_ends:
        at = [i for i in range(start, stop) if speech.phones[i] in BOUNDARY_IDS]
        for i, a in enumerate(at):
            for b in at[i + 1 :]:
                found.add(speech.codes[:, ends[a] - speech.durations[a] : ends[b]].tobytes())
        start = stop
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {"other_utterance": 1.0},
        {"other_utterance": 0.0},
        {"own_prompt": 1.0},
        {"phrases": 1.0},
        {"other_utterance": 0.5, "own_prompt": 0.3, "phrases": 0.3, "prompt_lengths": (0.5, 0.8)},
    ],
)
def test_examples_are_runs_of_whole_words(pack: Pack, changes: dict) -> None:
    config = PLAIN.model_copy(update=changes)
    stream = TokenBatches(pack.train, pack.codec, config, "cpu")
    allowed = windows(pack.train)
    longest, longest_prompt = (
        max(getattr(s, k) for s in shapes_of(config, pack.codec.config.frame_rate)) for k in ("target", "prompt")
    )
    for index in range(8):
        batch = stream.batch(index)
        assert batch.codes.shape[-1] <= longest and batch.prompt_codes.shape[-1] <= longest_prompt
        for kind in ("", "prompt_"):
            phones, durations, codes = (getattr(batch, kind + k) for k in ("phones", "durations", "codes"))
            for p, d, c in zip(phones, durations, codes, strict=True):
                frames, count = int(d.sum()), int((p != 0).sum())
                assert 0 < frames <= c.shape[-1] and count >= 3
                assert not p[count:].any() and not d[count:].any() and not c[:, frames:].any()
                assert int(p[0]) in BOUNDARY_IDS and int(p[count - 1]) in BOUNDARY_IDS
                assert c[:, :frames].numpy().astype(np.int16).tobytes() in allowed


def test_prompts_are_of_the_speaker_and_of_another_utterance(pack: Pack) -> None:
    """Every frame of an utterance carries the utterance's number as its code."""
    ends = np.cumsum(pack.train.durations)[pack.train.phone_ends - 1]
    number = np.searchsorted(ends, np.arange(ends[-1]), "right")
    marked = replace(pack.train, codes=np.stack([number] * CODEC.n_q).astype(np.int16))
    stream = TokenBatches(marked, pack.codec, PLAIN, "cpu")
    seen = set()
    for index in range(12):
        batch = stream.batch(index)
        target, prompt = batch.codes[:, 0, 0], batch.prompt_codes[:, 0, 0]
        assert (pack.train.speakers[target] == pack.train.speakers[prompt]).all()
        assert (target != prompt).all()
        seen |= set(prompt.tolist())
    assert seen == set(range(9))  # every utterance is some other's prompt


def test_phrases_and_own_prompts_come_as_often_as_asked(pack: Pack) -> None:
    """A phrase is up to three words between long pauses; an own prompt is at most half of the target that holds it."""
    config = PLAIN.model_copy(update={"phrases": 1.0, "max_seconds": 3.0})
    durations = np.where(np.isin(pack.train.phones, list(BOUNDARY_IDS)), 13, pack.train.durations).astype(np.int16)
    codes = np.zeros((CODEC.n_q, durations.sum()), np.int16)  # each pause is long enough
    batch = TokenBatches(replace(pack.train, durations=durations, codes=codes), pack.codec, config, "cpu").batch(0)
    words = torch.isin(batch.phones, torch.tensor(sorted(BOUNDARY_IDS))).sum(1) - 1
    assert words.min() >= 1 and words.max() <= PHRASE_WORDS
    batch = TokenBatches(pack.train, pack.codec, PLAIN.model_copy(update={"own_prompt": 1.0}), "cpu").batch(0)
    for whole, part, frames in zip(batch.codes, batch.prompt_codes, batch.prompt_durations.sum(1), strict=True):
        runs = whole[0].unfold(0, int(frames), 1)
        assert (runs == part[0, :frames]).all(1).any()


def test_pauses_are_labelled_by_their_length_in_half_of_the_examples(codec) -> None:
    phones = np.array(phone_ids(["_", "B", "_", "T", "_", "S", "_", "N", "_"]))
    frames = np.array([20, 2, 3, 2, 4, 2, 13, 2, 20])  # at 50 Hz: 0.06, 0.08 and 0.26 s between words
    one = Utterances.of([("a", phones, frames, np.zeros((CODEC.n_q, frames.sum()), int))] * 2)
    stream = TokenBatches(one, codec, PLAIN.model_copy(update={"max_seconds": 3.0}), "cpu")
    seen = [tuple(row[row != 0].tolist()) for index in range(8) for row in stream.batch(index).phones]
    marked = tuple(phone_ids(["_", "B", "_", "T", ",", "S", ".", "N", "_"]))
    assert set(seen) == {tuple(phones.tolist()), marked}
    assert 0.2 < np.mean([row == marked for row in seen]) < 0.8


def test_a_batch_depends_on_its_index_alone(pack: Pack) -> None:
    config = PLAIN.model_copy(update={"timbre_db": 3.0, "virtual_voices": 0.5, "noisy_prompts": 0.5})
    stream = TokenBatches(pack.train, pack.codec, config, "cpu")
    later = next(iter(TokenBatches(pack.train, pack.codec, config, "cpu").batches(3)))[1]
    stream.batch(0)
    for name, value in vars(stream.batch(3)).items():
        assert torch.equal(value, getattr(later, name)), name
    assert not torch.equal(stream.batch(4).codes, later.codes)


@pytest.mark.parametrize("seconds", [1.5, 6.0, 24.0])
def test_a_pool_of_batches_holds_each_example_once(pack: Pack, seconds: float) -> None:
    """Batches of like length lose no example, no token, and none is empty."""
    stream = TokenBatches(pack.train, pack.codec, PLAIN.model_copy(update={"batch_seconds": seconds}), "cpu")
    shape = stream.shapes[0]
    drawn = stream.draw(replace(shape, examples=shape.examples * POOL), torch.Generator().manual_seed(0))
    parts = by_length(drawn, POOL, np.random.default_rng(0))
    assert len(parts) == POOL and min(len(p.codes) for p in parts) > 0

    def rows(batch: Batch, name: str) -> list[bytes]:
        values = getattr(batch, name)
        whole = torch.zeros(*values.shape[:-1], getattr(drawn, name).shape[-1], dtype=torch.long)
        whole[..., : values.shape[-1]] = values
        return [row.numpy().tobytes() for row in whole]

    for name in vars(drawn):
        assert sorted(r for p in parts for r in rows(p, name)) == sorted(rows(drawn, name)), name
    spans = sorted((int(p.durations.sum(1).min()), int(p.durations.sum(1).max())) for p in parts)
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))


def test_variation_moves_envelope_and_pitch_and_nothing_else(pack: Pack) -> None:
    config = PLAIN.model_copy(update={"timbre_db": 3.0, "virtual_voices": 1.0, "noisy_prompts": 1.0})
    variation = Variation(pack.codec, config, torch.device("cpu"))
    assert torch.allclose(variation._stretch(torch.ones(2)), torch.eye(CODEC.n_mels), atol=1e-6)
    tone = torch.zeros(CODEC.n_mels)
    tone[5] = 1.0
    moved = variation._stretch(torch.tensor([1.3]))[0] @ tone  # what was at a frequency is at 1.3 times it
    peak = (moved * variation.centres).sum() / moved.sum()
    assert peak.item() == pytest.approx(1.3 * variation.centres[5].item(), rel=0.08)
    codes, frames = torch.randint(0, CODEC.bins, (4, CODEC.n_q, 12)), torch.full((4, 3), 4)
    batch = Batch(frames, frames, codes, frames, frames, codes)
    still = variation.config.model_copy(update={"timbre_db": 0.0, "virtual_voices": 0.0, "noisy_prompts": 0.0})
    variation.config = still
    generator = torch.Generator().manual_seed(0)
    target = variation(batch, generator).codes
    again = variation._tokens(variation._features(codes))
    kept = [(torch.equal(t, c) or torch.equal(t, a)) for t, c, a in zip(target, codes, again, strict=True)]
    assert all(kept)
    variation.config = config
    varied = variation(batch, generator)
    assert not torch.equal(varied.codes, codes)
    assert not torch.equal(varied.codes, varied.prompt_codes)  # the prompt has noise, too


def test_a_training_from_packs_learns_and_resumes(pack: Pack, tmp_path) -> None:
    changes = {"train_model.timbre_db": 2.0, "train_model.virtual_voices": 0.5, "train_model.muon": True}
    preset = override(PRESET, changes)
    whole = train(PackTask(preset, pack, "cpu"), tmp_path / "whole")
    files = [pack.write(tmp_path / "p.pack")]
    export = train_from_packs(preset, files, tmp_path / "packs")
    assert (export / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    again = train_from_packs(preset, files, tmp_path / "packs", resume=True)
    assert (again / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


def test_dev_batches_are_whole_utterances_in_order(pack: Pack) -> None:
    config = PLAIN.model_copy(update={"timbre_db": 3.0, "seed": 9})
    batches = dev_batches(pack.dev, pack.codec, config, "cpu", 3)
    assert sum(len(b.codes) for b in batches) == 3
    first = batches[0]
    frames = int(pack.dev.durations[: pack.dev.phone_ends[0]].sum())
    assert torch.equal(first.codes[0, :, :frames], torch.from_numpy(pack.dev.codes[:, :frames]).long())
