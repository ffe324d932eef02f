"""Milestones: rows of measured models that stay when the shipped model changes."""

import json

import pytest

from ms_core.evaluation import run_history
from ms_core.evaluation.records import MILESTONES, Record, read_records, unit_of, write_records
from ms_core.evaluation.run_history import MilestoneError
from ms_core.report import figures

MADE = {"training_hours": 1.25, "hours_before": 0.5, "speech_hours": 12.0}
SYSTEM = "mobilespeech-mini"


def records(digest: str, wer: float) -> list[Record]:
    shared = {"preset": "mini", "seed": 0, "checkpoint_sha256": digest * 64, "codec_sha256": "b" * 64}
    shared |= {"device": "cpu: test", "date": "2025-01-02", "system": SYSTEM, "study": "quality"}
    shared |= {"split": "dev-other", "n": 20, "protocol": "test", "evaluators": {}}
    values = {"wer": wer, "sim_campp": 0.5, "distillmos": 3.5}
    return [
        Record(**shared, metric=m, unit=unit_of(m), value=v, ci_low=v - 0.1, ci_high=v + 0.1) for m, v in values.items()
    ]


def test_rows_are_kept_and_a_model_has_one(tmp_path):
    path = tmp_path / MILESTONES
    assert run_history.read(path) == []
    run_history.add(path, records("a", 0.2), SYSTEM, MADE, "first")
    run_history.add(path, records("c", 0.15), SYSTEM, {**MADE, "hours_before": 2}, "second")
    run_history.add(path, records("a", 0.25), SYSTEM, MADE, "first, again")
    rows = run_history.read(path)
    assert [(r.note, r.hours, r.wer, r.n) for r in rows] == [
        ("second", 3.25, (0.15, 0.05, 0.25), 20),
        ("first, again", 1.75, (0.25, 0.15, 0.35), 20),
    ]


def test_records_beside_them_are_read_and_a_figure_is_drawn(tmp_path):
    run_history.add(tmp_path / MILESTONES, records("a", 0.2), SYSTEM, MADE, "first")
    write_records(tmp_path / "dev-other.json", records("a", 0.2))
    assert len(read_records(tmp_path)) == 3
    drawn = {path.name for path in figures.draw("mini", (), "png", tmp_path, tmp_path / "figures")}
    assert "milestones.png" in drawn


def test_what_is_no_milestone_is_refused(tmp_path):
    with pytest.raises(MilestoneError, match="not evaluated: distillmos"):
        run_history.add(tmp_path / MILESTONES, records("a", 0.2)[:2], SYSTEM, MADE, "first")
    (tmp_path / MILESTONES).write_text(json.dumps([{"date": "2025-01-02"}]))
    with pytest.raises(MilestoneError, match="not a list of milestones"):
        run_history.read(tmp_path / MILESTONES)
    with pytest.raises(ValueError, match="no milestone"):
        figures.milestones_in_order([])
