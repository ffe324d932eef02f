"""Numbers of the ablation study: paired with the right control, and verdicts that the intervals allow."""

import numpy as np
import pytest

from ms_core.evaluation.ablations import read_measured, study_records, verdict, write_measured
from ms_core.evaluation.records import Interval


def facts(gain: float, layers: int = 3, steps: int = 10, seed: int = 0, speech: bool = True) -> dict:
    """Measurements whose cross-entropy and SIM lie `gain` from what all share."""
    shared, own = np.random.default_rng(1), np.random.default_rng(seed)
    tokens = []
    for i in range(20):
        frames = int(shared.integers(50, 90))
        ce = (shared.normal(4, 0.5, 3)[:layers] + gain + own.normal(0, 0.01, layers)) * frames
        row = {"utterance": i, "speaker": i % 4, "frames": frames, "ce": ce.tolist(), "frames_whole": 100}
        tokens.append({**row, "ce_whole": 450.0 + 100 * gain, "duration": 1.0})
    spoken = [
        {"utt": f"u{i}", "speaker": f"s{i % 3}", "wer_s": i % 2, "wer_d": 0, "wer_i": 0, "wer_n": 8}
        | {"sim_campp": 0.4 - gain + 0.01 * i, "sim_campp_other": 0.2, "duration_ratio": 1.0}
        for i in range(9)
    ]
    run = {"pack": {"speech_hours": 1.0}, "data": {"dev": "dev"}, "codec": {"n_q": layers}}
    run["train_model"] = {"steps": steps, "batch_seconds": 40.0}
    made = {"preset": "mini", "device": "cpu", "date": "2026-11-27", "seed": 0}
    return {
        "made": made, "run": run, "params": 5, "split": "dev-other", "speech_protocol": "spoken",
        "log": [{"step": steps}], "tokens": tokens, "speech": spoken if speech else [],
    }  # fmt: skip


def test_differences_are_paired_with_the_control_of_equal_budget() -> None:
    measured = {"base": facts(0.0), "worse": facts(0.1, seed=1)}
    measured |= {"layers-2": facts(0.0, layers=2), "longer": facts(0.0, steps=20)}
    controls = {"base": None, "worse": "base", "layers-2": "base", "longer": "base"}
    records = study_records(measured, controls)
    paired = {(r.condition, r.metric, r.layer): r for r in records if r.pair_with}
    assert {r.pair_with for r in paired.values()} == {"mobilespeech-mini-base"}
    for metric, layer in (("ce", None), ("ce", 2), ("ce_first", None)):
        found = paired["worse", metric, layer]
        assert found.value == pytest.approx(0.1, abs=0.01) and found.ci_low > 0.08 and found.ci_high < 0.12
    assert paired["worse", "sim_campp", None].value == pytest.approx(-0.1)
    assert paired["worse", "sim_campp_margin", None].n == 9
    assert ("layers-2", "ce", None) not in paired and ("layers-2", "ce", 1) in paired
    assert not any(name == "longer" for name, *_ in paired)
    alone = {(r.condition, r.metric): r for r in records if r.pair_with is None}
    assert alone["base", "wer"].value == pytest.approx(4 / 72, abs=1e-6)
    assert alone["base", "ce_first"].unit == "nats" and alone["base", "ce_first"].split == "dev"
    assert {r.metric for r in study_records({"base": facts(0, speech=False)}, {})} == {
        "ce",
        "ce_first",
        "duration_loss",
    }


def test_measurements_come_back(tmp_path) -> None:
    one = facts(0.0)
    write_measured(tmp_path / "no-prefix.json", one)
    assert read_measured(tmp_path) == {"no-prefix": one}
    assert len((tmp_path / "no-prefix.json").read_text().splitlines()) > 30  # a row a line, for diffs


@pytest.mark.parametrize(
    ("difference", "more", "seeds", "said"),
    [
        ((0.1, 0.05, 0.2), False, (), "worse, in one training each"),
        ((0.1, 0.05, 0.2), True, (0.05,), "better"),
        ((-0.1, -0.2, -0.05), False, (0.01,), "better"),
        ((0.1, -0.05, 0.2), True, (), "no difference seen"),
        ((0.1, 0.05, 0.2), True, (0.02, -0.15), "no more than another seed"),
        ((0.1, None, None), True, (), "one utterance: nothing"),
    ],
)
def test_a_verdict_says_what_the_interval_allows(difference, more, seeds, said) -> None:
    assert verdict(Interval(*difference), more, seeds) == said
