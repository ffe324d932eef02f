"""The fitting of the detector, and the random damage that its recordings take."""

import numpy as np
import pytest

from ms_core.config import load_preset, override
from ms_core.detect import noise
from ms_core.training.detector import degraded, fit, train_detector

RATE = 16_000


def test_the_tail_of_known_peaks_is_found():
    found = np.random.default_rng(0).gumbel([5.0, 6.0], [0.2, 0.3], (20_000, 2))
    location, scale = fit(found)
    assert location == pytest.approx([5.0, 6.0], abs=0.05) and scale == pytest.approx([0.2, 0.3], rel=0.06)
    scores = np.array([noise.score(row[None], {"location": location, "scale": scale}) for row in found])
    assert np.mean(scores > -np.log(0.01)) == pytest.approx(0.01, abs=0.002)


def test_random_damage_gives_speech_of_another_kind():
    wav = (0.1 * np.sin(np.arange(2 * RATE) / 9)).astype(np.float32)
    made = [degraded(wav, np.random.default_rng(seed)) for seed in range(12)]
    for out in made:
        assert out.dtype == np.float32 and np.isfinite(out).all() and len(out) == pytest.approx(len(wav), rel=0.06)
    assert len({len(out) for out in made}) > 2 and sum(np.array_equal(out, wav) for out in made) < 4


def test_recordings_of_training_speakers_are_fitted(tmp_path, monkeypatch):
    rows = ["set\tutt\tspeaker\tsex\tseconds\tpath\ttext"]
    for file in sorted((noise.FOLDER / "recordings").glob("*.opus")):
        rows += [f"train\t{file.stem}-{n}\t{file.stem[:4]}\tF\t3.0\t{file}\tWORDS" for n in range(3)]
    (tmp_path / "manifest.tsv").write_text("\n".join(rows) + "\n")
    monkeypatch.setenv("MS_DATA", str(tmp_path))
    config = override(load_preset("mini"), {"data.train": "train"})
    assert train_detector(config, tmp_path / "config.json") == 20  # two of each speaker's three
    known = noise.load(tmp_path / "config.json")
    assert "20 recordings of 10 speakers of train" in known["provenance"]["recordings"]
    assert min(known["scale"]) > 0 and min(known["location"]) > 4 and max(known["provenance"]["highest"]) < 8
