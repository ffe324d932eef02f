"""Error rates of detection on scores whose rates are known, and the records that carry them."""

import numpy as np
import pytest

from ms_core.evaluation import detection
from ms_core.evaluation.detection import Clip, Score, equal_error_rate, interval, misses_at, records
from ms_core.evaluation.records import Provenance, write_records


def test_rates_of_known_scores():
    recordings, synthetic = np.arange(100.0), np.arange(100.0) + 90
    assert equal_error_rate(recordings, synthetic) == pytest.approx(0.05)
    assert misses_at(recordings, synthetic) == pytest.approx(0.09)  # one recording passes 99; 90 to 98 stay below it
    assert misses_at(recordings, synthetic, 0.1) == 0
    assert equal_error_rate(recordings, synthetic + 100) == 0 and misses_at(recordings, synthetic + 100) == 0
    assert equal_error_rate(recordings, recordings) == pytest.approx(0.5)
    assert misses_at(recordings, recordings - 100) == 1


def scored(count: int, speakers: int, shift: float, system: str) -> list[Score]:
    rng = np.random.default_rng(len(system))
    values = rng.standard_normal(count) + shift
    return [Score(f"s{i % speakers}", system, "clean", 3.0, float(value)) for i, value in enumerate(values)]


def test_an_interval_holds_the_value_and_shrinks_with_speakers():
    def width(speakers: int) -> float:
        sides = scored(10 * speakers, speakers, 0, "ground-truth"), scored(10 * speakers, speakers, 2, "ours")
        found = interval(equal_error_rate, *sides)
        assert found.low <= found.value <= found.high and found.value == pytest.approx(0.16, abs=0.08)
        return found.high - found.low

    assert width(40) < width(5)
    assert interval(equal_error_rate, scored(9, 1, 0, "ground-truth"), scored(9, 1, 9, "ours")).low is None


def test_records_say_what_was_scored(tmp_path):
    provenance = Provenance.of("mini", seed=0)
    found = [x for n, s in ((0, "ground-truth"), (6, "mobilespeech-mini")) for x in scored(40, 4, n, s)]
    made = {(r.system, r.metric): r for r in records(found, "dev-other", provenance)}
    assert made["mobilespeech-mini", "eer"].value == 0 and ("ground-truth", "eer") not in made
    assert {r.condition for r in made.values()} == {"clean"} and {r.seconds for r in made.values()} == {3.0}
    marks = records(found, "dev-other", provenance, watermark=True)
    assert [r.metric for r in marks] == ["watermark_read"] * 2
    write_records(tmp_path / "detection.json", [*made.values(), *marks])


def test_all_is_measured_clean_and_recordings_and_ours_degraded():
    wav = (0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)
    clips = [Clip("a", "s", name, wav) for name in ("ground-truth", "mobilespeech-mini", "authors/vall-e")]
    found = [(s.system, s.condition, s.seconds) for s in detection.measure(clips, ["clean", "noise-5db"], [0.5], 1.0)]
    assert len(found) == len(set(found)) == 8 and ("authors/vall-e", "noise-5db", 1.0) not in found


def test_a_score_is_that_of_the_middle_and_fixed():
    rng = np.random.default_rng(0)
    wav = (0.1 * rng.standard_normal(48_000)).astype(np.float32)
    quiet = Clip(
        "a", "s", "ground-truth", np.concatenate([np.zeros(16_000, np.float32), wav[:16_000], 0 * wav[:16_000]])
    )
    assert detection.score(quiet, "clean", 1.0).value == pytest.approx(
        detection.score(Clip("b", "s", "ground-truth", wav[:16_000]), "clean", 1.0).value
    )
    noisy = [detection.score(quiet, "noise-10db", 1.0).value for _ in range(2)]
    assert noisy[0] == noisy[1]
