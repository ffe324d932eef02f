"""Other voices out of the same recordings."""

import numpy as np
import pytest
import torch
from conftest import CODEC, PRESET, TRAIN, fake_alignments, speech, write_corpus

from ms_core.align import Aligned
from ms_core.config import ConfigError, override
from ms_core.data import prepare
from ms_core.data.augment import Equaliser, scale_alignment
from ms_core.data.batches import Sampler
from ms_core.data.prepare import tokens


def features(codec, seed: int) -> np.ndarray:
    wav = torch.from_numpy(speech(1.0, seed))[None, None]
    return codec.features(codec.magnitudes(wav))[0].numpy().astype(np.float16)


def test_a_flat_curve_changes_nothing_and_another_does(codec) -> None:
    equaliser = Equaliser(codec, 3.0)
    wav = torch.from_numpy(speech(1.0, 1))[None, None]
    same = equaliser(features(codec, 1), np.ones(CODEC.n_mels, dtype=np.float32))
    assert (same == codec.encode(wav)[0].numpy()).mean() > 0.97  # features are kept in half precision
    louder = equaliser(features(codec, 1), np.full(CODEC.n_mels, 4, dtype=np.float32))
    assert (louder == codec.encode(4 * wav)[0].numpy()).mean() > 0.9
    assert (louder != same).mean() > 0.3


def test_curves_are_smooth_and_as_strong_as_asked(codec) -> None:
    rng = np.random.default_rng(0)
    curves = 20 * np.log10([Equaliser(codec, 3.0).draw(rng) for _ in range(500)])
    assert np.abs(np.diff(curves)).max() < 8
    assert 2 < curves.std() < 6
    assert np.array_equal(Equaliser(codec, 0.0).draw(rng), np.ones(CODEC.n_mels, dtype=np.float32))


def test_alignments_scale_with_speed() -> None:
    aligned = Aligned(["_", "AA1"], [0.0, 0.5], [0.5, 1.5])
    assert scale_alignment(aligned, 2.0) == Aligned(["_", "AA1"], [0.0, 0.25], [0.25, 0.75])


def test_speeds_make_speakers_and_the_sampler_makes_codes(codec, tmp_path, monkeypatch) -> None:
    write_corpus(tmp_path)
    monkeypatch.setenv("MS_DATA", str(tmp_path))
    monkeypatch.setattr(prepare, "align_corpus", fake_alignments)
    cuts = prepare.prepare(PRESET, "dev", codec, speeds=(0.8, 1.0)).to_eager()
    plain = prepare.prepare(PRESET, "dev", codec).to_eager()
    assert len(cuts) == 2 * len(plain)
    slow = [c for c in cuts if c.id.endswith("_sp0.8")]
    assert len(slow) == len(plain) and all(c.supervisions[0].speaker.endswith("_sp0.8") for c in slow)
    for cut, source in zip(slow, plain, strict=True):
        found = tokens(cut)
        assert cut.duration == pytest.approx(source.duration / 0.8, abs=0.01)
        assert found.codes.shape == (CODEC.n_mels * CODEC.substeps, found.durations.sum())
        assert list(found.phones) == list(tokens(source).phones)
    config = TRAIN.model_copy(update={"speeds": (0.8, 1.0), "timbre_db": 3.0})

    def first(seed: int):
        equaliser = Equaliser(codec, config.timbre_db)
        sampler = Sampler(cuts, config, CODEC.frame_rate, equaliser=equaliser)
        return sampler.example(cuts[0], np.random.default_rng(seed))

    prompt, target = first(0)
    for part in (prompt, target):
        assert part.codes.shape == (CODEC.n_q, part.durations.sum())
        assert np.issubdtype(part.codes.dtype, np.integer) and part.codes.min() >= 0 and part.codes.max() < CODEC.bins
    assert np.array_equal(first(0)[1].codes, target.codes)


@pytest.mark.parametrize("speeds", [[], [1.0, 1.0], [0.1], [3.0]])
def test_speeds_that_make_no_sense_are_refused(speeds: list[float]) -> None:
    with pytest.raises(ConfigError, match="speeds"):
        override(PRESET, {"train_model.speeds": speeds})


def test_only_the_mini_codec_has_features() -> None:
    with pytest.raises(ConfigError, match="mini codec's features alone"):
        override(PRESET, {"codec.kind": "encodec", "train_model.timbre_db": 2.0})
