"""Records: validation, files, bootstrap."""

import json
import re
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ms_core.evaluation import records
from ms_core.evaluation.records import Provenance, Record, RecordError, bootstrap, read_records, write_records

BASE = {
    "preset": "mini",
    "seed": 0,
    "config_hash": "0123456789ab",
    "checkpoint_sha256": "a" * 64,
    "device": "cpu: test, 1 cores",
    "threads": 1,
    "date": "2025-01-02",
}


def make(metric="wer", value=0.1, unit="fraction", **more) -> Record:
    more = {"n": 10, "system": "mobilespeech-mini", "study": "quality", "split": "dev-other", **more}
    return Record(**BASE, metric=metric, value=value, unit=unit, **more)


def test_values_are_rounded_and_negative_zero_is_gone():
    assert make(value=1 / 3).value == 0.333333
    assert str(make(metric="sim_campp", unit="cosine", value=-1e-9).value) == "0.0"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"value": float("nan")}, "finite"),
        ({"unit": "percent"}, "fraction"),
        ({"n": 0}, "greater"),
        ({"ci_low": 0.1}, "both"),
        ({"ci_low": 0.3, "ci_high": 0.2}, "above"),
        ({"metric": "WER"}, "pattern"),
        ({"colour": 1}, "Extra"),
        ({"system": "ours"}, "pattern"),
        ({"study": "another"}, "quality"),
        ({"precision": "int4"}, "int8"),
        ({"metric": "rtf_total"}, "s/s"),
    ],
)
def test_refuses(change, word):
    with pytest.raises(ValidationError, match=word):
        make(**change)


def test_files_are_sorted_stable_and_read_back(tmp_path):
    many = [make(value=0.2, system="ground-truth"), make(), make(metric="cer"), make(pair_with="ground-truth")]
    assert len({record.key for record in many + [make(steps=4), make(condition="clean"), make(split=None)]}) == 7
    write_records(tmp_path / "a.json", many)
    first = (tmp_path / "a.json").read_bytes()
    write_records(tmp_path / "a.json", reversed(many))
    assert (tmp_path / "a.json").read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json"]
    found = read_records(tmp_path)
    assert len(found) == 4 and set(map(str, found)) == set(map(str, many))
    assert found[0].system == "ground-truth"
    (tmp_path / "b.json").write_text(make(metric="cer", split="x").model_dump_json())  # one record, not a list
    assert len(read_records(tmp_path)) == 5
    assert [name for name, _ in records.read_sourced(tmp_path)] == ["a.json"] * 4 + ["b.json"]


def test_bad_files_are_named(tmp_path):
    with pytest.raises(RecordError, match="two records"):
        write_records(tmp_path / "a.json", [make(), make(value=0.5)])
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.json").write_text("[")
    with pytest.raises(RecordError, match="a.json: not a readable JSON"):
        read_records(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps([{**make().model_dump(), "n": "ten"}]))
    with pytest.raises(RecordError, match=r"record 0: n: .*integer"):
        read_records(tmp_path)
    older = {**make().model_dump(), "system": "mobilespeech-mini-steps8", "split": "bench-10s"}
    del older["study"]
    (tmp_path / "a.json").write_text(json.dumps([older]))
    with pytest.raises(RecordError, match=r"a.json, record 0: of an older form"):
        read_records(tmp_path)
    assert read_records(tmp_path / "absent") == []


def test_names_and_places_are_made_of_fields():
    noisy = make(study="noisy-prompts", condition="babble", snr_db=5.0)
    assert (noisy.name, noisy.place) == ("mobilespeech-mini-babble-5db", "dev-other-noisy-prompts")
    hard = make(study="hard-texts", split="hard-texts", kind="digits", steps=8)
    assert (hard.name, hard.place) == ("mobilespeech-mini-steps8", "hard-texts-digits")
    timed = make("rtf_total", unit="s/s", study="bench", split=None, seconds=2.5, runtime="onnx", precision="int8")
    assert (timed.name, timed.place) == ("mobilespeech-mini-onnx-int8", "bench-2.5s")
    assert make(study="stream", split=None, words=20).place == "stream-20w"


def test_bootstrap_of_a_mean_agrees_with_theory():
    values = np.random.default_rng(1).normal(5, 2, size=400)
    found = bootstrap(values, seed=3)
    error = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - error, abs=0.03)
    assert found.high == pytest.approx(values.mean() + error, abs=0.03)
    assert bootstrap(values, seed=3) == found != bootstrap(values, seed=4)


def test_bootstrap_of_a_rate_weighs_utterances_by_their_words():
    found = bootstrap([1, 0, 3], [10, 1, 9])
    assert found.value == pytest.approx(4 / 20)
    assert 0 <= found.low <= found.value <= found.high <= 1 / 3


def test_paired_difference_is_tighter_than_the_two_intervals():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 1, 100)
    a, b = hard + 0.1 + rng.normal(0, 0.01, 100), hard
    found = bootstrap(a, minus=(b, None))
    assert found.value == pytest.approx(0.1, abs=0.01)
    assert found.high - found.low < 0.01 < bootstrap(a).high - bootstrap(a).low
    assert bootstrap(a, minus=(a, None)) == (0, 0, 0)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=20))
def test_bootstrap_of_a_mean_stays_within_the_values(values):
    found = bootstrap(values, resamples=50)
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


@pytest.mark.parametrize(
    "arguments",
    [
        {"values": []},
        {"values": [1, float("nan")]},
        {"values": [1, 2], "weights": [1]},
        {"values": [1, 2], "weights": [0, 0]},
        {"values": [1, 2], "minus": ([1], None)},
    ],
)
def test_bootstrap_refuses(arguments):
    with pytest.raises(ValueError, match="expected"):
        bootstrap(**arguments)


def test_speakers_are_resampled_before_their_utterances():
    """Two speakers who differ, each the same in all utterances: many utterances tell no more than two speakers."""
    speakers, values = ["a"] * 50 + ["b"] * 50, [0.0] * 50 + [1.0] * 50
    plain, nested = bootstrap(values), bootstrap(values, speakers=speakers)
    assert nested.value == plain.value == 0.5
    assert (nested.low, nested.high) == (0, 1) and plain.high - plain.low < 0.25
    assert bootstrap(values, speakers=["a"] * 100) == plain
    noise = np.random.default_rng(0).normal(size=200)
    alike, apart = bootstrap(noise), bootstrap(noise, speakers=[str(i % 40) for i in range(200)])
    assert apart.high - apart.low == pytest.approx(alike.high - alike.low, rel=0.35)  # speakers do not matter
    weighted = bootstrap([1, 2, 3, 4], [2, 2, 4, 4], speakers=["a", "a", "b", "b"])
    assert weighted.value == pytest.approx(10 / 12) and weighted.low <= weighted.value <= weighted.high
    paired = bootstrap(noise + 0.1, minus=(noise, None), speakers=[str(i % 40) for i in range(200)])
    assert paired.low == pytest.approx(0.1) == paired.high
    with pytest.raises(ValueError, match="2 speakers for 3"):
        bootstrap([1, 2, 3], speakers=["a", "b"])


def test_one_utterance_has_no_interval():
    assert bootstrap([2.0]) == (2.0, None, None)


def test_provenance_names_checkpoint_and_codec(tmp_path):
    (tmp_path / "codec").mkdir()
    (tmp_path / "codec" / "weights.safetensors").write_bytes(b"weights")
    found = Provenance.of("mini", tmp_path, seed=1, threads=1, date="2025-01-02")
    assert found.codec_sha256 == records.sha256(tmp_path / "codec" / "weights.safetensors")
    assert found.checkpoint_sha256 is None and found.date == "2025-01-02" and found.device.startswith("cpu: ")
    assert records.git_commit(tmp_path) is None


def test_the_commit_is_of_our_own_repository_alone(tmp_path):
    """An installed package may lie inside somebody's project: its commit is not ours."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "theirs"], check=True)
    (tmp_path / ".venv" / "site-packages").mkdir(parents=True)
    assert re.fullmatch("[0-9a-f]{40}", records.git_commit(tmp_path))
    assert records.git_commit(tmp_path / ".venv" / "site-packages") is None
