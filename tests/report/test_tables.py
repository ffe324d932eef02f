"""Tables and figures out of records, and the check of committed ones."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from ms_core import paths
from ms_core.cli import app
from ms_core.evaluation.records import Record, read_file, sha256, write_records
from ms_core.report import figures, style, tables
from ms_core.report import speed as speed_figures
from ms_core.report.latex import latex
from ms_core.report.tables import ReportError, Results, check, main_csv, main_markdown, write_tables

COMMON = {"preset": "mini", "device": "cpu: test", "date": "2025-01-02", "protocol": "a protocol"}
OURS = "mobilespeech-mini"
BENCH = {"study": "bench", "split": None, "threads": 1}
UNIT = {
    "wer": "fraction",
    "params": "count",
    "training_hours": "h",
    "audio_seconds": "s",
    "peak_rss_mb": "MB",
    "wer_sub": "fraction",
    "wer_del": "fraction",
    "wer_ins": "fraction",
    "sim_campp": "cosine",
    "dnsmos": "MOS",
    "rtf_total": "s/s",
    "wer_shuffled": "fraction",
}


def make(system, metric, value, **more) -> Record:
    interval = {"ci_low": value - 0.01, "ci_high": value + 0.02}
    more = {"study": "quality", "split": "test", "n": 20, **more}
    return Record(**{**COMMON, **interval, **more}, system=system, metric=metric, value=value,
                  unit=UNIT.get(metric, "s/s" if metric.startswith("rtf_") else "any"))  # fmt: skip


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
    found = [make("ground-truth", "wer", 0.05), make("ground-truth", "sim_campp", 0.8)]
    found += [make("ground-truth-codec", "wer", 0.09, codec_sha256=codec)]
    for steps, wer in ((None, 0.2), (4, 0.25), (1, 0.4)):
        at = {**own, "steps": steps}
        found += [make(OURS, "wer", wer, **at), make(OURS, "sim_campp", 0.9 - wer, **at)]
        speed = {**at, **BENCH, "n": 3}
        found += [make(OURS, "rtf_total", 0.5 - wer, seconds=s, **speed) for s in (3.0, 10.0)]
    told = {**own, "study": "model", "split": None, "n": 1, "ci_low": None, "ci_high": None}
    found += [make("mobilespeech-mini", "params", 10_483_272, **told)]
    found += [make("mobilespeech-mini", "training_hours", 3.619, **told)]
    found += [
        make("mobilespeech-mini", m, x, **own) for m, x in (("wer_sub", 0.1), ("wer_del", 0.07), ("wer_ins", 0.03))
    ]
    found += [make("mobilespeech-mini", "wer", 0.11, pair_with="ground-truth-codec", **own)]
    found += [make("mobilespeech-mini", "wer_shuffled", 1.01, **own)]
    write_records(tmp_path / "results" / "ours.json", found)
    demo = [make(f"authors/{name}", "wer", 0.06, split="paper-demo") for name in ("mobilespeech", "mega-tts", "vall-e")]
    write_records(tmp_path / "results" / "paper-demo.json", demo)
    return tmp_path / "results"


def test_markdown_names_files_and_keeps_the_papers_figures_apart(folder):
    text = main_markdown(Results("mini", folder))
    rows = {line.split(" | ")[0].strip("| "): line for line in reversed(text.splitlines()) if line.startswith("|")}
    assert "[0.060](paper-demo.json) (0.050 to 0.080)" in rows["authors/mobilespeech"]
    assert rows["authors/mobilespeech"].endswith("| RTF 0.09 (seen: abstract; one A100) |")
    assert rows["authors/vall-e"].endswith("| – |")
    ours = rows["mobilespeech-mini"]
    assert ours.startswith("| mobilespeech-mini | 20 | [0.200](ours.json) (0.190 to 0.220) | [0.700](ours.json)")
    assert ours.endswith("| [0.300](ours.json) (0.290 to 0.320) | [10.5 M](ours.json) | – |")  # RTF of 10 s, 1 thread
    assert "| [0.090](ours.json) (0.080 to 0.110) | – |" in rows["ground-truth-codec"]  # no SIM: a dash
    assert text.index("## test") < text.index("## paper-demo")  # the main result first
    assert text.index("| ground-truth |") < text.index("| mobilespeech-mini |") < text.index("Other numbers of passes")
    assert text.index("| mobilespeech-mini-steps1 ") < text.index("| mobilespeech-mini-steps4 ")
    assert "wer_shuffled" in main_csv(Results("mini", folder)) and "wer_shuffled" not in text


def test_the_main_page_is_short(folder):
    noisy = {"study": "noisy-prompts", "condition": "white"}
    write_records(folder / "noisy.json", [make(OURS, "wer", 0.1, snr_db=float(db), **noisy) for db in range(20)])
    text = main_markdown(Results("mini", folder))
    tables_of = [part.splitlines() for part in re.split(r"\n\n", text) if part.startswith("|")]
    assert all(len(lines) <= 2 + 15 and lines[0].count("|") <= 9 for lines in tables_of)
    assert "5 more rows are in [main.csv](main.csv)" in text


def test_csv_has_every_record_with_its_file(folder):
    rows = list(csv.DictReader(main_csv(Results("mini", folder)).splitlines()))
    measured = [row for row in rows if row["study"]]
    assert len(measured) == 25 and {row["record"] for row in measured} == {"ours.json", "paper-demo.json"}
    behind = {(r["system"], r["steps"], r["split"]): (r["parameters"], r["training_hours"]) for r in rows}
    assert behind[OURS, "1", "test"] == ("10483272.0", "3.619")
    assert behind["authors/mega-tts", "", "paper-demo"] == behind["ground-truth-codec", "", "test"] == ("–", "–")
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
    assert {r.tag for r in (*tables.PAPER, *tables.ELSEWHERE)} <= {"seen", "secondary"}
    assert all(r.source for r in (*tables.PAPER, *tables.ELSEWHERE))


def test_two_seeds_have_two_rows(folder):
    own = {"checkpoint_sha256": "a" * 64, "codec_sha256": "b" * 64}
    seeds = [make(OURS, "wer", wer, split="dev", seed=seed, **own) for seed, wer in ((0, 0.1), (1, 0.2))]
    write_records(folder / "zz.json", [make("ground-truth", "wer", 0.04, split="dev"), *seeds])
    text = main_markdown(Results("mini", folder)).split("## dev")[1].split("##")[0]
    assert "| mobilespeech-mini, seed 0 | 20 | [0.100](zz.json)" in text and "| ground-truth | 20 |" in text
    assert "| mobilespeech-mini, seed 1 | 20 | [0.200](zz.json)" in text


def sweep(threads=1, slope=0.05, lengths=(2.0, 5.0, 10.0, 30.0), **more) -> list[Record]:
    """What a sweep says of one thread count, but for the checkpoint."""
    system, told = OURS, {**BENCH, "threads": threads, "n": 7, **more}
    found = []
    for s in lengths:
        at = {"seconds": s, **told}
        parts = {"rtf_total": slope, "rtf_smd": slope * 0.7, "rtf_codec": slope * 0.3}
        found += [make(system, metric, value, **at) for metric, value in parts.items()]
        found += [make(system, "audio_seconds", s * 1.1, **at), make(system, "peak_rss_mb", 700 + 4.4 * s, **at)]
    return found


def test_token_shares_have_a_table(tmp_path):
    at = {"study": "model", "split": None, "precision": "bf16"}
    shares = [make(OURS, "token_agreement_free", 1 - j / 10, layer=j, **at) for j in (2, 1, 7, 8)]
    found = [*sweep(), *sweep(threads=2, slope=0.03), *sweep(precision="bf16"), *shares]
    write_records(tmp_path / "sweep.json", found)
    text = main_markdown(Results("mini", tmp_path))  # one length for each thread count is no clash
    shown = text.split("## Tokens of other precisions")[1].split("##")[0]
    assert (
        "| system | number | n | layer 1 | layer 2 | layer 8 |" in shown
        and "| mobilespeech-mini-bf16 | free | 20 | [0.900]" in shown
    )


def test_layers_show_values_not_differences(tmp_path):
    at = {"study": "ablations", "split": "dev", "layer": 1, "condition": "dense"}
    pair = make("mobilespeech-mini", "ce", -0.2, **at, pair_with="mobilespeech-mini-base")
    write_records(tmp_path / "ablations.json", [make("mobilespeech-mini", "ce", 4.5, **at), pair])
    text = main_markdown(Results("mini", tmp_path))
    assert "[4.500](ablations.json)" in text and "-0.2" not in text


def test_speed_is_drawn_by_component_and_quality(folder):
    swept = [*sweep(), *sweep(threads=2, slope=0.03), *sweep(precision="bf16")]
    figure = speed_figures.rtf_length([*swept, make(OURS, "rtf_total", 0.03, seconds=10.0, runtime="onnx", **BENCH)])
    total, parts = figure.axes
    names = ["fp32, 1 thread", "fp32, 2 threads", "bf16, 1 thread"]
    assert [line.get_label() for line in total.lines] == names  # and no lone point
    assert [text.get_text() for text in parts.get_yticklabels()] == names
    assert [round(bar.get_width(), 4) for bar in parts.patches[:2]] == [0.035, 0.015]  # mask decoder, codec
    assert "n = 7 repeats" in figure.get_supxlabel()
    records = [record for file in folder.glob("*.json") for record in read_file(file)]
    onnx = [{"runtime": "onnx", "precision": precision} for precision in ("fp32", "int8")]
    exports = [make(OURS, "wer", 0.1, study="exports", n=24, **one) for one in onnx]
    speed = [make(OURS, "rtf_total", 0.03, seconds=10.0, **BENCH, **one) for one in onnx]
    figure = speed_figures.quality_speed([*records, *exports, *speed], "test", "mini")
    rtf, wer, sim = figure.axes
    rows = [text.get_text() for text in rtf.get_yticklabels()]
    assert rows == ["ONNX fp32", "ONNX int8", "1 pass in layer 1", "4 passes in layer 1"]
    shown = [len(np.ma.filled(axis.collections[-1].get_offsets(), np.nan)) for axis in (rtf, wer, sim)]
    assert shown == [4, 4, 2]  # SIM of the exports was not judged
    assert sorted(patch.get_x() for patch in rtf.patches) == [0.09, 0.8]
    said = " ".join(figure.get_supxlabel().split())
    assert "n = 20/24 utterances; RTF: cpu: test, n = 3/20 repeats" in said and "0.8–1.0 (phone)" in said


def test_labels_read_precision_and_passes():
    def said(system=OURS, **more) -> tuple[str, str]:
        record = make(system, "wer", 0.1, **more)
        return record.name, style.label(record)

    assert said(precision="bf16", steps=4) == ("mobilespeech-mini-bf16-steps4", "ours, mini, bf16, 4 passes in layer 1")
    assert said(runtime="onnx", precision="int8") == ("mobilespeech-mini-onnx-int8", "ours, mini, ONNX int8")
    assert said("ground-truth-codec", layers=2)[1] == "recording through our codec, 2 layers"
    assert said("peer/vall-e-shape") == ("peer/vall-e-shape", "VALL-E's shape")


def test_figures_are_drawn_and_stable(folder, tmp_path):
    write_records(folder / "sweep.json", sweep(threads=2))
    rng = np.random.default_rng(0)
    with open(folder / "train-model.jsonl", "w") as file:
        for step in range(0, 400, 20):
            row = {"step": step, "split": "train", "loss": 6 - step / 200 + rng.normal() / 20, "seconds": step * 1.5}
            file.write(json.dumps(row) + "\n")
            if step % 100 == 0:
                layers = {f"ce_{j}": 6 - step / 300 for j in (1, 8)} | {f"acc_{j}": step / 1000 for j in (1, 8)}
                file.write(json.dumps({"step": step, "split": "dev", "loss": 6 - step / 250, **layers}) + "\n")
        file.write('{"step": 400, "sp')  # cut off
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "orphan.png").write_bytes(b"of a record that went")
    for form in ("png", "svg", "pdf"):
        written = figures.draw("mini", (), form, folder, tmp_path / "a")
        names = {"metrics-paper-demo", "metrics-test", "quality-speed-test", "rtf-length", "train-model"}
        assert {path.name for path in written} == {f"{name}.{form}" for name in names | {"word-errors-test"}}
        some = ("metrics-test", "rtf-length")
        again = figures.draw("mini", some, form, folder, tmp_path / "b")
        assert [path.stem for path in again] == list(some)
        for path in again:
            assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes(), path.name
            assert path.stat().st_size > 2000
    assert not (tmp_path / "a" / "orphan.png").exists() and len(list((tmp_path / "a").iterdir())) == 18


def test_committed_figures_are_those_of_the_committed_records():
    for folder in paths.figures("mini").parent.iterdir():
        kept = {path.name for path in folder.iterdir() if folder.name != "smoke"}
        assert kept <= {f"{name}.png" for name in figures.figures(folder.name)}, folder
    assert len(list(paths.figures("mini").iterdir())) == len(figures.figures("mini"))


def test_names_of_lines_do_not_touch():
    figure, (axis,) = style.subplots(1, 1, 3, 2)
    for level in (0.50, 0.501, 0.502, 0.9):
        axis.plot([0, 1], [level, level], label=f"at {level}")
    axis.plot([0, 1], [0, 0], label="_unnamed")
    style.name_lines(axis)
    figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in axis.texts), key=lambda box: box.y0)
    assert len(boxes) == 4 and all(low.y1 <= high.y0 + 1 for low, high in zip(boxes, boxes[1:], strict=False))


def test_dots_count_the_utterances_of_the_systems_they_show():
    found = [make(OURS, "wer", 0.1, n=20), make(OURS, "wer", 0.1, n=5, steps=4)]
    figure = figures.metric_dots(found, found[0].split)
    assert "n = 20 utterances" in figure.get_supxlabel()


def test_figures_say_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="evaluate it first"):
        figures.metric_dots([], "test")
    with pytest.raises(ReportError, match="no record to draw"):
        figures.draw("mini", results=tmp_path)
    for draw, hint in (
        (speed_figures.rtf_length, "--sweep"), (speed_figures.size_speed, "notebook 6"),
        (speed_figures.token_agreement, "notebook 6"), (speed_figures.first_audio, "notebook 6"),
        (figures.codec_layers, "notebook 2"), (figures.ablations, "notebook 5"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=hint):
            draw([])
    with pytest.raises(ValueError, match="0 systems have both WER"):
        speed_figures.quality_speed([], "test", "mini")
    with pytest.raises(ValueError, match="nothing to draw"):
        figures.training_curves([{"step": 1}])
    (tmp_path / "log.jsonl").write_text("no\n{}\n")
    with pytest.raises(ValueError, match="line 1"):
        figures.read_log(tmp_path / "log.jsonl")


def test_tables_in_latex(folder):
    text = latex(main_markdown(Results("mini", folder)))
    assert r"0.060 (0.050 to 0.080)" in text and "](" not in text and "|" not in text
    assert text.count(r"\begin{tabular}") == text.count(r"\toprule") == text.count(r"\bottomrule") > 3
    for table in text.split(r"\begin{tabular}")[1:]:
        rows = [line.count(" & ") for line in table.splitlines() if line.endswith(r"\\")]
        assert len(set(rows)) == 1 and len(re.match(r"{(\w+)}", table)[1]) == rows[0] + 1
    assert latex("# A_1 & 5 %\n\n| x↓ |\n| --- |\n| [a_b](f.json) |\n").splitlines()[2:6] == [
        r"\caption{A\_1 \& 5 \%}", r"\begin{tabular}{l}", r"\toprule", r"x$\downarrow$ \\",
    ]  # fmt: skip


def test_one_command_draws_figures_and_writes_latex(folder, tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("MS_HOME", str(home))  # and back, after --home
    shutil.copytree(folder, home / "results" / "mini")

    def run(*options: str) -> str:
        result = CliRunner().invoke(app, ["report", "--home", str(home), *options])
        assert result.exit_code == (2 if result.stderr else 0)
        return result.stderr or result.stdout

    assert run("metrics-test", "--figures", "--format", "svg").split() == [str(home / "figures/mini/metrics-test.svg")]
    assert run("--latex", str(tmp_path / "main.tex")).split() == [str(tmp_path / "main.tex")]
    assert r"\toprule" in (tmp_path / "main.tex").read_text()
    for options, words in (
        (["metrics-test"], "go with --figures"), (["nothing", "--figures"], "choose among metrics-"),
        (["--figures", "--check"], "one at a time"), (["--latex", "main.txt"], "ends in .tex"),
    ):  # fmt: skip
        assert words in run(*options)
    assert [path.name for path in (home / "figures" / "mini").iterdir()] == ["metrics-test.svg"]
