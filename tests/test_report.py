"""Tables and figures out of records, and the check of committed ones."""

import csv
import json

import numpy as np
import pytest

from ms_core import figures, report
from ms_core.records import Record, sha256, write_records
from ms_core.report import ReportError, Results, check, main_csv, main_markdown, write_tables

COMMON = {"preset": "mini", "device": "cpu: test", "date": "2025-01-02", "protocol": "a protocol"}
UNIT = {"wer": "fraction", "sim_campp": "cosine", "dnsmos": "MOS", "rtf_total": "s/s", "wer_shuffled": "fraction"}


def make(system, metric, value, split="test", **more) -> Record:
    interval = {"ci_low": value - 0.01, "ci_high": value + 0.02}
    return Record(**{**COMMON, **interval, "n": 20, **more}, system=system, metric=metric, value=value,
                  unit=UNIT[metric], split=split)  # fmt: skip


@pytest.fixture
def shipped(tmp_path):
    for part in ("model", "codec"):
        (tmp_path / "shipped" / part).mkdir(parents=True)
        (tmp_path / "shipped" / part / "weights.safetensors").write_bytes(part.encode())
    return tmp_path / "shipped"


@pytest.fixture
def folder(tmp_path, shipped):
    """Records of a small study: recordings, ours at three step counts, the authors' clips, a bench."""
    codec = sha256(shipped / "codec" / "weights.safetensors")
    own = {"checkpoint_sha256": sha256(shipped / "model" / "weights.safetensors"), "codec_sha256": codec}
    systems = [("mobilespeech-mini", 0.2), ("mobilespeech-mini-steps4", 0.25), ("mobilespeech-mini-steps1", 0.4)]
    found = [make("ground-truth", "wer", 0.05), make("ground-truth", "sim_campp", 0.8)]
    found += [make("ground-truth-codec", "wer", 0.09, codec_sha256=codec)]
    for system, wer in systems:
        found += [make(system, "wer", wer, **own), make(system, "sim_campp", 0.9 - wer, **own)]
        speed = {**own, "threads": 1, "n": 3}
        found += [make(system, "rtf_total", 0.5 - wer, split=f"bench-{s}s", **speed) for s in (3, 10)]
    found += [make("mobilespeech-mini", "wer", 0.11, pair_with="ground-truth-codec", **own)]
    found += [make("mobilespeech-mini", "wer_shuffled", 1.01, **own)]
    write_records(tmp_path / "results" / "ours.json", found)
    demo = [make(f"authors/{name}", "wer", 0.06, split="paper-demo") for name in ("mobilespeech", "mega-tts", "vall-e")]
    write_records(tmp_path / "results" / "paper-demo.json", demo)
    return tmp_path / "results"


def test_markdown_names_files_and_keeps_the_papers_figures_apart(folder):
    text = main_markdown(Results("mini", folder))
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("|")}
    assert "[0.060](paper-demo.json) (0.050 to 0.080)" in rows["authors/mobilespeech"]
    assert rows["authors/mobilespeech"].endswith("| – | – | 0.09 (seen: abstract; one A100) |")
    assert rows["authors/vall-e"].endswith("| – | – | – |")
    assert "| [0.090](ours.json) (0.080 to 0.110) | – |" in rows["ground-truth-codec"]  # no SIM: a dash
    assert "[+0.110](ours.json) (+0.100 to +0.130)" in text and "to `ground-truth-codec`" in text
    assert "[0.300](ours.json)" in text.split("## test")[1].split("## Speed")[0]  # RTF of 10 s on one thread
    assert text.index("| ground-truth |") < text.index("| mobilespeech-mini |")
    assert text.index("| mobilespeech-mini-steps1 ") < text.index("| mobilespeech-mini-steps4 ")
    assert "RTF" not in text.split("Paired difference")[1].split("Controls")[0]
    assert "WER against other texts" in text and "CER" not in text.split("## paper-demo")[1].split("##")[0]


def test_csv_has_every_record_with_its_file(folder):
    rows = list(csv.DictReader(main_csv(Results("mini", folder)).splitlines()))
    measured = [row for row in rows if row["split"]]
    assert len(measured) == 20 and {row["record"] for row in measured} == {"ours.json", "paper-demo.json"}
    told = {row["system"]: row for row in rows if row["paper"] != "–"}
    assert set(told) == {"authors/mobilespeech", "authors/mega-tts"}
    assert told["authors/mega-tts"]["paper_tag"] == "secondary" and told["authors/mega-tts"]["value"] == ""


def test_check_finds_what_does_not_agree(folder, shipped):
    with pytest.raises(ReportError, match="main.md is missing"):
        check("mini", folder, shipped)
    first = [path.read_bytes() for path in write_tables("mini", folder)]
    check("mini", folder, shipped)
    assert [path.read_bytes() for path in write_tables("mini", folder)] == first
    text = (folder / "main.md").read_text()
    (folder / "main.md").write_text(text.replace("0.200", "0.100"))
    with pytest.raises(ReportError, match="main.md differs from its records"):
        check("mini", folder, shipped)
    (folder / "main.md").write_text(text)
    (shipped / "model" / "weights.safetensors").write_bytes(b"another")
    with pytest.raises(ReportError, match="wer of mobilespeech-mini on test is of model"):
        check("mini", folder, shipped)
    (shipped / "codec" / "weights.safetensors").unlink()
    with pytest.raises(ReportError, match="wer of ground-truth-codec on test is of codec .* shipped is none"):
        check("mini", folder, shipped)


def test_two_records_of_one_thing_are_refused(folder):
    write_records(folder / "zz.json", [make("ground-truth", "wer", 0.04)])
    with pytest.raises(ReportError, match="zz.json and ours.json both have wer of ground-truth"):
        Results("mini", folder)


def test_only_tagged_figures_are_called_the_papers():
    assert {r.tag for r in (*report.PAPER, *report.ELSEWHERE)} <= {"seen", "secondary"}
    assert all(r.source for r in (*report.PAPER, *report.ELSEWHERE))


def test_figures_are_drawn_and_stable(folder, tmp_path):
    rng = np.random.default_rng(0)
    with open(folder / "train-model.jsonl", "w") as file:
        for step in range(0, 400, 20):
            row = {"step": step, "split": "train", "loss": 6 - step / 200 + rng.normal() / 20, "seconds": step * 1.5}
            file.write(json.dumps(row) + "\n")
            if step % 100 == 0:
                layers = {f"ce_{j}": 6 - step / 300 for j in (1, 8)} | {f"acc_{j}": step / 1000 for j in (1, 8)}
                file.write(json.dumps({"step": step, "split": "dev", "loss": 6 - step / 250, **layers}) + "\n")
        file.write('{"step": 400, "sp')  # cut off
    written = figures.draw_all("mini", folder, tmp_path / "a")
    names = {"metrics-paper-demo", "metrics-test", "rtf-length", "steps-test", "train-model"}
    assert {path.name for path in written} == {f"{n}.{e}" for n in names for e in ("png", "svg")}
    again = figures.draw_all("mini", folder, tmp_path / "b")
    for one, two in zip(written, again, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name
        assert one.stat().st_size > 2000


def test_figures_say_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="evaluate it first"):
        figures.metric_dots([], "test")
    with pytest.raises(ValueError, match="at least two"):
        figures.steps_tradeoff([], "test", "mini")
    with pytest.raises(ValueError, match="run the bench"):
        figures.rtf_length([])
    with pytest.raises(ValueError, match="nothing to draw"):
        figures.training_curves([{"step": 1}])
    (tmp_path / "log.jsonl").write_text("no\n{}\n")
    with pytest.raises(ValueError, match="line 1"):
        figures.read_log(tmp_path / "log.jsonl")
