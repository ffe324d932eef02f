"""Noise, hard texts and the studies of robustness, with a fake synthesiser and fake judges; tables and figures."""

import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from conftest import speech

from ms_core.config import DataConfig
from ms_core.evaluation import conditions, eval_set, evaluate, metrics, noise, scoring
from ms_core.evaluation.conditions import (
    CLEAN,
    LENGTHS,
    SNRS,
    Adaptation,
    Exports,
    HardTexts,
    NoisyPrompts,
    PromptLengths,
    evaluate_experiment,
    hard_texts,
)
from ms_core.evaluation.eval_set import EvalSet, ProtocolError
from ms_core.evaluation.records import Provenance, read_records
from ms_core.recordings.align import AlignmentError
from ms_core.report import figures, tables
from ms_core.text import phonemise

RATE = 16_000
WORDS = "the old cat sat down on my mat and slept"
PROVENANCE = Provenance(
    preset="mini", seed=0, checkpoint_sha256="a" * 64, codec_sha256="b" * 64, device="cpu: test", date="2025-01-02"
)
SYSTEM = "mobilespeech-mini"


class FakeTTS:
    """Speaks noise; refuses a prompt that holds more than `limit` of power, as an aligner refuses a noisy one."""

    sample_rate = RATE

    def __init__(self, limit: float = np.inf):
        self.limit, self.prompts, self.spoken = limit, [], []

    def voice(self, wav, text, seconds=3.0):
        assert seconds is None  # else a longer prompt would be cut to 3 s
        if np.mean(np.square(wav)) > self.limit:
            raise AlignmentError("the text does not fit the recording")
        self.prompts.append((len(wav), text))
        return text

    def synthesize(self, text, voice, seed=0):
        self.spoken.append(text)
        return np.random.default_rng(seed).uniform(-0.1, 0.1, RATE).astype(np.float32)


class FakeJudge:
    """Hears the same words whatever is said."""

    name, version = "fake", "0"

    def __init__(self, metric):
        self.metric = metric

    def __call__(self, *wavs):
        return "the old cat sat down upon my mat" if self.metric == "wer" else 3.0

    def similarity(self, a, b):
        return 0.5


@pytest.fixture
def split(tmp_path, monkeypatch):
    """Six speakers: utterances of 5, 6 and 9 s, but speaker 6 has no long one; a word ends every 0.55 s."""
    lines = ["set\tutt\tspeaker\tsex\tseconds\tpath\ttext"]
    for speaker in range(1, 7):
        for i, seconds in enumerate((5.0, 6.0, 9.0 if speaker < 6 else 5.5)):
            name = f"{speaker}-0-{i:04d}"
            soundfile.write(tmp_path / f"{name}.flac", speech(seconds, 10 * speaker + i), RATE)
            lines.append(f"dev\t{name}\t{speaker}\tF\t{seconds}\t{name}.flac\t{WORDS.upper()}")
    (tmp_path / "manifest.tsv").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("MS_DATA", str(tmp_path))

    def boundaries(wav, text):
        words, ends = 2 * WORDS.split(), [0.55 * (k + 1) for k in range(20)]
        return [(end, " ".join(words[: k + 1])) for k, end in enumerate(ends) if end <= len(wav) / RATE]

    monkeypatch.setattr(eval_set, "boundaries", boundaries)
    monkeypatch.setattr(eval_set, "align", lambda wav, text: None)
    monkeypatch.setattr(scoring, "evaluator", lambda metric: FakeJudge(metric))
    monkeypatch.setattr(evaluate, "versions", lambda metric: {})
    return tmp_path


def trials(seed: int = 0) -> EvalSet:
    return EvalSet.of_split(DataConfig(), "dev", seed)


def talk(seconds: float, pause: float, seed: int = 0) -> np.ndarray:
    """Speech with a silence behind it."""
    return np.concatenate([speech(seconds, seed), np.zeros(round(pause * RATE), np.float32)])


def test_active_power_does_not_know_pauses():
    assert noise.active_power(talk(2, 6), RATE) == pytest.approx(noise.active_power(talk(2, 0), RATE), rel=1e-6)
    tone = np.sin(np.arange(RATE) * 0.3)
    assert noise.active_power(tone, RATE) == pytest.approx(0.5, rel=1e-2)
    with pytest.raises(ValueError, match="is silent"):
        noise.active_power(np.zeros(RATE), RATE)


@pytest.mark.parametrize("snr", SNRS)
@pytest.mark.parametrize("kind", conditions.NOISES)
def test_a_mixture_has_the_ratio_that_was_asked_for(kind, snr):
    wav, rng = talk(2, 1), np.random.default_rng(1)
    made = noise.white(len(wav), rng)
    if kind == "babble":
        made = noise.babble([speech(3, seed) for seed in range(4)], len(wav), RATE, rng)
    mixed = noise.mix(wav, made, snr, RATE)
    assert mixed.dtype == np.float32 and np.abs(mixed).max() <= noise.PEAK + 1e-6
    gains, *_ = np.linalg.lstsq(np.stack([wav, made], axis=1).astype(np.float64), mixed.astype(np.float64), rcond=None)
    power = noise.active_power(gains[0] * wav, RATE) / np.mean((gains[1] * made) ** 2)
    assert 10 * np.log10(power) == pytest.approx(snr, abs=0.01)


def test_a_loud_mixture_is_scaled_and_what_has_no_level_is_refused():
    wav = speech(1, 0)
    wav = wav / np.abs(wav).max()
    assert np.abs(noise.mix(wav, noise.white(len(wav), np.random.default_rng(0)), 0, RATE)).max() <= noise.PEAK + 1e-6
    with pytest.raises(ValueError, match="10 samples of noise for 16000"):
        noise.mix(wav, np.ones(10), 0, RATE)
    with pytest.raises(ValueError, match="noise is silent"):
        noise.mix(wav, np.zeros(len(wav)), 0, RATE)


def test_everyone_in_a_babble_is_as_loud_as_the_others():
    loud, quiet = speech(2, 0), 0.01 * speech(2, 1)
    both = noise.babble([loud, quiet], RATE, RATE, np.random.default_rng(0))
    same = noise.babble([loud, 100 * quiet], RATE, RATE, np.random.default_rng(0))
    assert np.allclose(both, same, rtol=1e-4)


def test_hard_texts_are_what_they_promise():
    texts = hard_texts()
    assert len({text.name for text in texts}) == len(texts) >= 60
    kinds = {kind: [t.text for t in texts if t.kind == kind] for kind in {t.kind for t in texts}}
    wanted = {"tongue-twister", "repeated-words", "digits", "names", "one-word", "two-three-word", "long"}
    assert set(kinds) == wanted and all(len(found) == len(set(found)) for found in kinds.values())
    counts = {kind: {len(text.split()) for text in found} for kind, found in kinds.items()}
    assert counts["one-word"] == {1} and counts["two-three-word"] == {2, 3} and counts["long"] == {60}
    assert min(len(kinds["one-word"]), len(kinds["two-three-word"])) >= 12 and len(kinds["long"]) == 4
    assert all(re.search(r"\d", text) for text in kinds["digits"])
    assert not any(re.search(r"\d", t.text) for t in texts if t.kind != "digits")
    for text in texts:
        assert re.fullmatch(r"[a-z-]+-\d\d", text.name) and len(phonemise(text.text)) > 3
        counts = metrics.count_errors(text.text, text.text)
        assert counts["wer_s"] + counts["wer_d"] + counts["wer_i"] == 0 < counts["wer_n"]
    for text in kinds["repeated-words"]:
        words = re.findall(r"[a-z']+", text.lower())
        assert len(set(words)) < len(words), text
    assert [t.name for t in hard_texts(1)] == [f"{kind}-01" for kind in dict.fromkeys(t.kind for t in texts)]


@pytest.mark.parametrize(
    ("text", "heard", "edits"),
    [
        ("Call me at 7:45 on May 21st, room 308.", "Call me at 745 on May twenty-first, room 308", (0, 0, 0)),
        ("Call me at 7:45 on May 21st, room 308.", "Call me at 7:46 on May 21st", (1, 5, 0)),
        ("Count: 1, 2, 3, 4.", "Count, 1234.", (0, 0, 0)),
        ("Count: 1, 2, 3, 4.", "count one two four", (0, 1, 0)),
        ("My number is 5 5 5, 0 1 9 9.", "My number is 555-0199.", (0, 0, 0)),
        ("It was built in 1984.", "It was built in nineteen eighty four.", (0, 0, 0)),
        ("It costs $15.", "It cost 15 dollars", (1, 0, 0)),
        ("About 50% of 80.", "About 50 percent of eighty people", (0, 0, 1)),
        ("Room 12.", "", (0, 2, 0)),
        ("Room 12.", "Room B12.", (0, 0, 1)),
        ("Room 21.", "Room 21st.", (1, 0, 0)),
        ("Room 12.", "Привет", (1, 1, 0)),
    ],
)
def test_figures_are_compared_as_words(text, heard, edits):
    found = metrics.count_errors(text, heard)
    assert (found["wer_s"], found["wer_d"], found["wer_i"]) == edits


def test_babble_leaves_the_speaker_out_and_needs_four_others(split):
    found = trials()
    for item in found.targets:
        talkers = found.others(item, 5, 4)
        speakers = [talker.speaker for talker in talkers]
        assert item.speaker not in speakers and len(set(speakers)) == 5
        assert talkers == trials().others(item, 5, 4)
    assert len(found.others(found.targets[0], 99, 4)) == 5
    with pytest.raises(ProtocolError, match="'dev' has 5 speakers besides 1: babble needs 7"):
        found.others(found.targets[0], 9, 7)


def test_noise_is_a_function_of_seed_and_utterance(split):
    one, two, other = NoisyPrompts(trials()), NoisyPrompts(trials(), limit=2), NoisyPrompts(trials(seed=1))
    cases = {key: {c.condition: c for c in one.cases(key, RATE)} for key in two.utterances()}
    assert len(cases) == 2 and next(iter(one.conditions)) == CLEAN and len(one.conditions) == 1 + 2 * len(SNRS)
    for key, found in cases.items():
        assert list(found) == list(one.conditions)
        for case in two.cases(key, RATE):
            assert np.array_equal(case.wav, found[case.condition].wav) and case.text == WORDS.upper()
        assert np.array_equal(found[CLEAN].wav, one.eval_set.prompt_wav(found[CLEAN].item, RATE))
        assert len({c.prompt for c in found.values()}) == 1
        item = found[CLEAN].item
        for kind in conditions.NOISES:  # one noise at every level, another one for another seed or utterance
            length = len(found[CLEAN].wav)
            assert not np.array_equal(one.noise(item, kind, length, RATE), other.noise(item, kind, length, RATE))
    first, second = (found["white-0db"].wav[:RATE] - found[CLEAN].wav[:RATE] for found in cases.values())
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
    with pytest.raises(ProtocolError, match="unknown noise rain: choose among white, babble"):
        NoisyPrompts(trials(), noises=["rain"])


def test_prompt_lengths_come_from_one_recording_cut_at_word_ends(split):
    study = PromptLengths(trials())
    keys = study.utterances()
    # speaker 6 has no recording of 8 s, and the long ones cannot prompt themselves
    assert sorted(keys) == [f"{s}-0-{i:04d}" for s in range(1, 6) for i in (0, 1)]
    assert study.skipped == len(study.eval_set.targets) - len(keys) == 8
    for key in keys:
        prompts = study.prompts[key]
        assert {p.utt for p in prompts} == {f"{key[0]}-0-0002"}
        assert [p.seconds for p in prompts] == pytest.approx([1.1, 2.2, 2.75, 4.95, 8.25])
    cases = study.cases(keys[0], RATE)
    assert [case.condition for case in cases] == [f"prompt-{s}s" for s in LENGTHS]
    assert all(len(case.wav) == round(case.prompt.seconds * RATE) for case in cases)
    assert all(abs(case.prompt.seconds - s) <= eval_set.LENGTH_SLACK for case, s in zip(cases, LENGTHS, strict=True))
    assert all(a.prompt.seconds < b.prompt.seconds for a, b in pairwise(cases))
    assert all(b.prompt.text.startswith(a.prompt.text) for a, b in pairwise(cases))
    assert PromptLengths(trials(), limit=3).utterances() == keys[:3]
    assert "10 of 10 with all lengths from one recording, 8 utterances passed over" in study.note()
    with pytest.raises(ProtocolError, match="3 s, the control, has to be among them"):
        PromptLengths(trials(), lengths=[1, 2])
    with pytest.raises(ProtocolError, match="'dev': no speaker has recordings for prompts of 3, 20 s"):
        PromptLengths(trials(), lengths=[3, 20]).utterances()


def test_hard_texts_are_spoken_in_several_voices(split, tmp_path):
    tts = FakeTTS()
    study = HardTexts(trials(), limit=1, voices=2)
    records = evaluate_experiment(tts, SYSTEM, study, tmp_path / "out", PROVENANCE)
    assert len(tts.spoken) == 7 * 2 == len(study.utterances()) and {text for _, text in tts.prompts} == {
        "the old cat sat down"
    }
    found = {(r.place, r.metric): r for r in records}
    assert {r.name for r in records} == {SYSTEM} and {r.pair_with for r in records} == {None}
    assert found["hard-texts", "wer"].n == 7 and found["hard-texts-long", "wer"].n == 1  # texts, not voices
    one = found["hard-texts-one-word", "wer_ins"]  # "Yes." is heard as eight words
    assert one.value == 7 and one.ci_low is None and found["hard-texts-one-word", "wer_del_ins"].value == 7
    assert found["hard-texts-one-to-three-words", "wer_del_ins"].n == 2
    for name in ("hard-texts", "hard-texts-digits"):
        parts = [found[name, f"wer_{edit}"].value for edit in ("sub", "del", "ins")]
        assert sum(parts) == pytest.approx(found[name, "wer"].value, abs=1e-5)
    with pytest.raises(ProtocolError, match="'dev' has 6 speakers, 7 voices are wanted"):
        HardTexts(trials(), voices=7)


def test_a_study_is_resumed_counts_refusals_and_pairs_with_the_control(split, tmp_path):
    found = NoisyPrompts(trials(), limit=3, noises=["white"], snrs=[20, 0])
    powers = {key: [np.mean(c.wav**2) for c in found.cases(key, RATE)] for key in found.utterances()}
    loudest = max(powers.values(), key=lambda levels: levels[-1])
    tts, out = FakeTTS(limit=loudest[-1] * 0.999), tmp_path / "out"  # refuses one prompt, at 0 dB
    records = evaluate_experiment(tts, SYSTEM, found, out, PROVENANCE, keep_audio=True)
    assert len(tts.spoken) == 3 * 3 - 1 == len(list((out / "audio").rglob("*.wav")))
    by = {(r.name, r.metric, r.pair_with): r for r in records}
    clean, worst = f"{SYSTEM}-{CLEAN}", f"{SYSTEM}-white-0db"
    told = by[worst, "wer", clean]
    assert (told.system, told.condition, told.snr_db) == (SYSTEM, "white", 0)
    assert by[worst, "enrolment_refused", None].value == pytest.approx(1 / 3, abs=1e-5)
    assert by[worst, "enrolment_refused", None].n == 3 and by[clean, "enrolment_refused", None].value == 0
    assert by[worst, "wer", None].n == by[worst, "wer", clean].n == 2 and by[worst, "wer", clean].value == 0
    assert by[worst, "prompt_seconds", None].value == pytest.approx(2.75) and (clean, "wer", clean) not in by
    assert by[worst, "wer_del", None].value == pytest.approx(2 / 10) and by[worst, "wer", None].ci_low is not None
    assert all(r.checkpoint_sha256 == "a" * 64 and (r.split, r.study) == ("dev", "noisy-prompts") for r in records)
    assert read_records(out / f"dev-noisy-prompts.{SYSTEM}.json") == sorted(records, key=lambda r: r.key)

    log = out / f"dev-noisy-prompts.{SYSTEM}.jsonl"
    before = log.read_text()
    assert before.count('"refused"') == 1 and "AlignmentError: the text does not fit" in before
    log.write_text("".join(line + "\n" for line in before.splitlines()[:6]))  # cut off within the second utterance
    again = evaluate_experiment(tts, SYSTEM, found, out, PROVENANCE, keep_audio=True)
    assert log.read_text() == before and sorted(again, key=lambda r: r.key) == sorted(records, key=lambda r: r.key)
    assert len(tts.spoken) - 8 == before.count("\n") - 4 - 1


def test_a_condition_that_is_always_refused_has_no_word_errors(split, tmp_path):
    study = NoisyPrompts(trials(), limit=2, noises=["white"], snrs=[0])
    quietest = min(np.mean(study.cases(key, RATE)[1].wav ** 2) for key in study.utterances())
    records = evaluate_experiment(FakeTTS(limit=quietest * 0.99), SYSTEM, study, tmp_path, PROVENANCE)
    assert {r.metric for r in records if r.name == f"{SYSTEM}-white-0db"} == {"enrolment_refused", "prompt_seconds"}
    with pytest.raises(ValueError, match=r"metrics \['pesq'\] cannot be taken of a study"):
        evaluate_experiment(FakeTTS(), SYSTEM, study, tmp_path, PROVENANCE, metrics=["pesq"])


@pytest.fixture
def results(split, tmp_path):
    """Records of all three studies, and of a plain evaluation with the edits apart."""
    folder = tmp_path / "results"
    for study in (HardTexts(trials(), 1, 2), NoisyPrompts(trials(), 2, snrs=[20, 0]), PromptLengths(trials(), 2)):
        evaluate_experiment(FakeTTS(limit=0.04), SYSTEM, study, folder, PROVENANCE)
    rows = [{"utt": u, "system": s, "text": "a b", "hypothesis": "a"} for u in "xy" for s in ("ground-truth", SYSTEM)]
    rows = [{**row, **metrics.count_errors(row["text"], row["hypothesis"])} for row in rows]
    plain = evaluate.aggregate(rows, PROVENANCE, "dev", "plain")
    conditions.write_records(folder / "dev.json", plain)
    return folder


def test_tables_show_words_kinds_noise_and_lengths(results):
    written = tables.tables("mini", results)
    text = written["robustness.md"]
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "## Words on dev",
        "## Hard texts",
        "## Noisy prompts: dev",
        "## Prompts of several lengths: dev",
    ]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    (words,) = [row for row in rows if row[0] == "ground-truth"]
    assert [re.sub(r"\(.*", "", cell) for cell in words[2:]] == ["[0.500]", "[0.000]", "[0.500]", "[0.000]"]
    kinds = [row[1] for row in rows if row[0] == SYSTEM and not row[1].isdigit()]
    assert kinds[0] == "all" and {"digits", "one-word", "one-to-three-words"} <= set(kinds)
    noisy = [row[0] for row in rows if row[0].endswith(("db", "clean"))]
    assert noisy[0] == f"{SYSTEM}-clean" and f"{SYSTEM}-babble-0db" in noisy
    assert f"Paired difference to `{SYSTEM}-prompt-3s`" in text
    main = written["main.md"]
    assert "## dev\n" in main and main.count("| hard-texts |") == 1 and main.count("| noisy-prompts |") == 5
    assert "noisy-prompts" in written["main.csv"]


def test_tables_are_there_when_nothing_was_measured(tmp_path):
    assert "Nothing has been measured yet" in tables.tables("mini", tmp_path)["robustness.md"]


def test_check_covers_the_conditions(results, tmp_path):
    for part in ("model", "codec"):
        (tmp_path / "shipped" / part).mkdir(parents=True)
        (tmp_path / "shipped" / part / "weights.safetensors").write_bytes(b"another")
    tables.write_tables("mini", results)
    with pytest.raises(tables.ReportError, match=f"wer of {SYSTEM}-white-20db on dev-noisy-prompts is of model aaaa"):
        tables.check("mini", results, tmp_path / "shipped")
    (results / "robustness.md").write_text("edited")
    with pytest.raises(tables.ReportError, match="robustness.md differs from its records"):
        tables.check("mini", results, tmp_path / "shipped")


def test_figures_of_robustness_are_drawn_and_stable(results, tmp_path):
    written = figures.draw("mini", (), "png", results, tmp_path / "a")
    names = {path.stem for path in written}
    assert names == {
        "metrics-dev",
        "word-errors-dev",
        "word-errors-hard-texts",
        "robustness-dev-noisy-prompts",
        "robustness-dev-prompt-lengths",
    }
    again = figures.draw("mini", (), "png", results, tmp_path / "b")
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in again]


def test_figures_say_what_they_show(results):
    records = read_records(results)
    (axis,) = figures.word_errors(records, "dev").axes
    widths = np.array([bar.get_width() for bar in axis.patches]).reshape(2, 3)  # system, edit
    assert np.allclose(widths, [[0, 0.5, 0], [0, 0.5, 0]])
    assert [t.get_text() for t in axis.get_yticklabels()] == ["recording (n = 2)", "ours, mini (n = 2)"]
    figure = figures.prompt_conditions(records, "dev-prompt-lengths")
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["WER ↓", "SIM CAM++ ↑", "DistillMOS ↑"]
    assert len(figure.axes[0].lines[0].get_xdata()) == len(LENGTHS)
    figure = figures.prompt_conditions(records, "dev-noisy-prompts")
    assert figure.axes[-1].get_title(loc="left") == "prompts refused ↓"
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["20", "0"]
    with pytest.raises(ValueError, match="evaluate it first"):
        figures.word_errors([], "dev")
    with pytest.raises(ValueError, match="evaluate it first"):
        figures.prompt_conditions([], "dev-noisy-prompts")


class FakeRuntime:
    """An exported folder named after its precision; speaks a second more than PyTorch does."""

    def __init__(self, folder):
        self.folder, self.manifest, self.voices = folder, SimpleNamespace(precision=Path(folder).name), []

    def synthesize(self, text, voice, seed=0):
        self.voices.append(voice)
        return np.zeros(2 * RATE, dtype=np.float32)


def test_exported_models_speak_with_the_voices_of_pytorch(split, tmp_path, monkeypatch):
    monkeypatch.setattr(conditions, "MobileRuntime", FakeRuntime)
    study, tts = Exports(trials(), 3, [Path("a/fp32"), Path("b/int8")]), FakeTTS()
    records = evaluate_experiment(tts, SYSTEM, study, tmp_path / "out", PROVENANCE, ("wer", "distillmos"))
    assert list(study.conditions) == ["pytorch", "fp32", "int8"] and len(tts.spoken) == 3
    for runtime in study.runtimes.values():
        assert runtime.voices == [text for _, text in tts.prompts[::3]]
    assert {r.place for r in records} == {"dev-exports"}
    paired = {(r.name, r.pair_with, r.value) for r in records if r.metric == "wer" and r.pair_with}
    assert paired == {(f"{SYSTEM}-onnx-{name}", f"{SYSTEM}-pytorch", 0.0) for name in ("fp32", "int8")}
    for folders, message in (([], "none"), ([Path("a/int8"), Path("b/int8")], r"a/int8 \(int8\), b/int8 \(int8\)")):
        with pytest.raises(ProtocolError, match=f"exported folders: {message}; give at least one"):
            Exports(trials(), 3, folders)


def test_adapted_voices_speak_beside_the_enrolled_ones(split, tmp_path):
    tts, changed = FakeTTS(), []

    def adapt(tts, voice):
        changed.append(voice)
        return voice

    experiment = Adaptation(trials(), 3, adapt, 40)
    records = evaluate_experiment(tts, SYSTEM, experiment, tmp_path / "out", PROVENANCE)
    assert len(changed) == 3 and len(tts.spoken) == 6
    wer = {(r.condition, r.pair_with is not None): r for r in records if r.metric == "wer"}
    assert set(wer) == {(None, False), ("adapted-40-steps", False), ("adapted-40-steps", True)}
    assert all(r.study == "adaptation" and r.prompt_seconds == 8.0 and r.n == 3 for r in wer.values())
    assert "adapted" in tables.robustness_markdown(tables.Results("mini", tmp_path / "out"))
