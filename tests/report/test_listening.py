"""Listeners' files: what is refused, and the records, tables and figures that come of them."""

import copy
import json

import pytest

from ms_core.evaluation.records import Subject, read_file
from ms_core.report import figures, listening, tables
from ms_core.report.listening import ListeningError, read_ratings, records

PAGE = "c" * 64
BARE = {"preset": "mini", "device": "cpu: test", "date": "2025-01-02"}
OURS = "mobilespeech-mini"
SYSTEMS = {
    "ground-truth": Subject(**BARE, system="ground-truth"),
    "mobilespeech-mini": Subject(**BARE, seed=3, checkpoint_sha256="a" * 64, codec_sha256="b" * 64, system=OURS),
}
CLIPS = {f"{i:016x}": (system, utt) for i, (system, utt) in enumerate((s, u) for s in SYSTEMS for u in ("u1", "u2"))}


def key(page: str = PAGE, split: str = "dev") -> dict:
    return {
        "format": "ms-core-listening-key-1",
        "page": page,
        "split": split,
        "systems": {name: made.model_dump(mode="json") for name, made in SYSTEMS.items()},
        "clips": {name: {"system": system, "utt": utt} for name, (system, utt) in CLIPS.items()},
    }


def ratings(listener: int, marks: list[int], **changes) -> dict:
    """One listener's file: the same mark on all scales of a clip, but MOS-S one lower."""
    given = [
        {"clip": clip, "mos_q": mark, "mos_p": mark, "mos_s": mark - 1} for clip, mark in zip(CLIPS, marks, strict=True)
    ]
    value = {"format": "ms-core-listening-ratings-1", "page": PAGE, "listener": f"{listener:016x}", "seed": 2**32 - 1}
    value |= {"started": "2025-03-04T10:00:00.000Z", "finished": "2025-03-04T10:20:00.000Z", "ratings": given[::-1]}
    return value | changes


def put(folder, **values) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / f"{name.replace('_', '.')}.json").write_text(json.dumps(value))


@pytest.fixture
def results(tmp_path):
    """Two listeners; clips in the order recording u1, u2, ours u1, u2."""
    put(tmp_path / "listening", test_key=key(), one=ratings(1, [5, 4, 3, 2]), two=ratings(2, [5, 5, 2, 2]))
    return tmp_path


def test_records_are_means_over_listeners_with_intervals_over_utterances(results):
    found = {(r.system, r.metric, r.pair_with): r for r in records(results / "listening")}
    assert len(found) == 2 * 3 + 3
    ours = found["mobilespeech-mini", "mos_q", None]
    assert (ours.value, ours.n, ours.ci_low, ours.ci_high) == (2.25, 2, 2.0, 2.5)  # utterances: 2.5 and 2
    assert (ours.seed, ours.checkpoint_sha256, ours.split, ours.unit) == (3, "a" * 64, "dev", "MOS")
    assert ours.evaluators == {"listeners": "2"} and ours.date == "2025-03-04" and "2 listeners" in ours.protocol
    assert found["mobilespeech-mini", "mos_s", None].value == 1.25
    assert found["ground-truth", "mos_p", None].value == 4.75
    difference = found["mobilespeech-mini", "mos_q", "ground-truth"]
    assert (difference.value, difference.ci_low, difference.ci_high) == (-2.5, -2.5, -2.5)  # 2.5 - 5 and 2 - 4.5


def test_a_folder_without_listeners_gives_nothing(tmp_path):
    assert records(tmp_path / "absent") == [] and listening.write(tmp_path) is None
    put(tmp_path / "listening", test_key=key())
    assert records(tmp_path / "listening") == [] and listening.write(tmp_path) is None


def changed(path: list, value) -> dict:
    """A valid file with one entry replaced."""
    whole = copy.deepcopy(ratings(3, [5, 4, 3, 2]))
    place = whole
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return whole


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (changed(["page"], "d" * 64), "of page dddddddddddd, whose key is not there; keys of pages: cccccccccccc"),
        (changed(["ratings", 0, "mos_q"], 6), "ratings.0.mos_q: .*less than or equal to 5"),
        (changed(["ratings", 0, "mos_q"], 2.5), "ratings.0.mos_q: "),
        (changed(["ratings", 0, "mos_q"], True), "ratings.0.mos_q: "),
        (changed(["ratings", 0, "clip"], "f" * 16), "clip ffffffffffffffff is not on page cccccccccccc"),
        (changed(["ratings", 0, "clip"], f"{0:016x}"), "1 clips are rated twice"),
        (changed(["ratings"], ratings(3, [5, 4, 3, 2])["ratings"][:3]), "1 of 4 clips are not rated"),
        (changed(["ratings"], []), "ratings: "),
        (changed(["listener"], "Ada"), "listener: "),
        (changed(["listener"], f"{1:016x}"), "listener 0000000000000001 is there twice"),
        (changed(["seed"], 2**32), "seed: "),
        (changed(["finished"], "yesterday"), "finished: "),
        (changed(["more"], 1), "more: "),
        (changed(["format"], "other"), "format: "),
        ([1, 2], "not a file of a listening test"),
        ("x" * listening.MAX_BYTES, "bytes, at most 1048576 are read"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(results, value, message):
    put(results / "listening", zz=value)
    with pytest.raises(ListeningError, match=rf"zz\.json: .*{message}"):
        read_ratings(results / "listening")


def test_keys_that_do_not_fit_are_refused(results, monkeypatch):
    folder = results / "listening"
    put(folder, zz_key=key(page="d" * 64))
    with pytest.raises(ListeningError, match="zz.key.json: another test of split 'dev'"):
        read_ratings(folder)
    lacking = key(page="d" * 64, split="other")
    del lacking["clips"][f"{0:016x}"]
    put(folder, zz_key=lacking)
    with pytest.raises(ListeningError, match="zz.key.json: .*every system must have every utterance once"):
        read_ratings(folder)
    put(folder, zz_key=key(page="d" * 64, split="other"))
    assert [k.split for k, _ in read_ratings(folder)] == ["dev", "other"]
    monkeypatch.setattr(listening, "MAX_FILES", 3)
    with pytest.raises(ListeningError, match="4 files, at most 3"):
        read_ratings(folder)


def test_tables_and_figures_show_them_and_the_check_knows_them(results, tmp_path):
    written = tables.write_tables("mini", results)
    assert [path.name for path in written] == ["main.md", "robustness.md", "main.csv", "listening.json"]
    assert read_file(written[-1]) == records(results / "listening")
    text = written[0].read_text()
    assert "MOS-Q ↑ | MOS-P ↑ | MOS-S ↑" in text and "[2.25](listening.json) (2.00 to 2.50)" in text
    drawn = figures.draw("mini", (), "png", results, tmp_path / "figures")
    assert {path.name for path in drawn} == {"listening-dev.png"}
    (results / "listening" / "two.json").unlink()
    with pytest.raises(tables.ReportError, match="listening.json is not what the files in .* give"):
        tables.check("mini", results, tmp_path / "shipped")
