"""The sound page and the listening test: what is in them, and, in a headless Chromium, that they play, rate and export.

The browser tests need the package playwright and an installed Chromium ($MS_CHROMIUM, or one on the PATH).
"""

import base64
import hashlib
import html
import io
import json
import os
import re
import shutil
from collections.abc import Iterator

import matplotlib.image
import numpy as np
import pytest
import soundfile
from conftest import speech
from typer.testing import CliRunner

from ms_core.cli import app
from ms_core.evaluation.evaluate import RowLog, aggregate
from ms_core.evaluation.records import Provenance, Subject, write_records
from ms_core.files import write_wav
from ms_core.report import listening, sounds

RATE = 16_000
OURS, OTHER = "mobilespeech-mini", "mobilespeech-mini-steps16"
RECORDINGS = ("ground-truth", "ground-truth-codec")
EVIL = '</script><script>window.evil = 1</script> & @@DATA@@ "quoted" <img src=x onerror=alert(1)>'
TEXTS = {"1-0-0000": "A TEXT IN CAPITALS", "2-0-0000": EVIL, "1-0-0001": "the third text"}
PROVENANCE = Provenance(
    preset="mini", seed=7, config_hash="d" * 16, checkpoint_sha256="a" * 64, codec_sha256="b" * 64,
    device="cpu: test", date="2025-01-02",
)  # fmt: skip


def make_run(folder, system=OURS, split="dev", texts=TEXTS, seconds=0.4, **changes) -> None:
    """What `ms-core evaluate --keep-audio` leaves of a run, with fractions of a second of sound."""
    steps = 16 if system == OTHER else None
    log, rows = RowLog(folder / f"{split}.{system}.jsonl", {"system": system}), []
    for number, (utt, text) in enumerate(texts.items()):
        for turn, name in enumerate((system, *RECORDINGS)):
            row = {"utt": utt, "speaker": utt[0], "system": name, "text": text, "duration_ratio": 1.0}
            row |= {"hypothesis": f"heard {name} <b>", "prompt_text": "the <i>prompt", **changes}
            rows.append(row)
            (folder / "audio" / name).mkdir(parents=True, exist_ok=True)
            write_wav(folder / "audio" / name / f"{utt}.wav", speech(seconds, 10 * number + turn), RATE)
        (folder / "audio" / "prompt").mkdir(exist_ok=True)
        write_wav(folder / "audio" / "prompt" / f"{utt}.wav", speech(seconds / 2, number), RATE)
    log.add(rows)
    made = PROVENANCE.model_copy(update={"steps": steps})
    about = {system: {"system": OURS}} if steps else None
    write_records(folder / f"{split}.{system}.json", aggregate(rows, made, split, "the protocol; more", about=about))


@pytest.fixture
def run(tmp_path):
    make_run(tmp_path / "run")
    return tmp_path / "run"


def sounds_of(text: str) -> list[bytes]:
    return [base64.b64decode(found) for found in re.findall(r"data:audio/wav;base64,([\w+/=]+)", text)]


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="test">(.*?)</script>', text, re.DOTALL)[1])


# ---- what is read


def test_a_study_is_the_first_utterances_in_the_order_of_the_run(run):
    study = sounds.read_study(run, "dev", limit=2)
    assert [one.utt for one in study.utterances] == list(TEXTS)[:2] and study.total == 3
    assert list(study.systems) == [*RECORDINGS, OURS] and study.protocol == "the protocol"
    assert study.ours == {OURS: Subject(**PROVENANCE.model_dump(), system=OURS)}
    assert study.systems["ground-truth-codec"].codec_sha256 == "b" * 64
    assert study.systems["ground-truth-codec"].seed is None
    assert study.utterances[0].heard[OURS] == f"heard {OURS} <b>"


def test_runs_of_one_split_are_joined_on_the_utterances_that_all_have(run):
    make_run(run, OTHER, texts=dict(list(TEXTS.items())[1:]))
    make_run(run, "mobilespeech-other", split="test")  # of another split
    study = sounds.read_study(run, "dev")
    assert list(study.systems) == [*RECORDINGS, OURS, OTHER]
    assert [one.utt for one in study.utterances] == list(TEXTS)[1:] and study.total == 2
    make_run(run, "mobilespeech-third", prompt_text="another")
    with pytest.raises(sounds.PageError, match="2-0-0000 was spoken with different prompts"):
        sounds.read_study(run, "dev")


def test_what_is_missing_is_said(run, tmp_path):
    with pytest.raises(sounds.PageError, match="no finished run on split 'test': run `ms-core evaluate --keep-audio"):
        sounds.read_study(run, "test")
    with pytest.raises(sounds.PageError, match="the authors' clips are of the split paper-demo, not of 'dev'"):
        sounds.read_study(run, "dev", authors_clips=True)
    (run / "audio" / "prompt" / "1-0-0000.wav").unlink()
    with pytest.raises(sounds.PageError, match="prompt/1-0-0000.wav is missing"):
        sounds.read_study(run, "dev")
    log = run / f"dev.{OURS}.jsonl"
    log.write_text(log.read_text().replace("prompt_text", "prompt_words"))
    with pytest.raises(sounds.PageError, match="not the rows of `ms-core evaluate` of this version"):
        sounds.read_study(run, "dev")
    make_run(tmp_path / "apart")
    make_run(tmp_path / "apart", OTHER, texts={"9-9-0000": "another"})
    with pytest.raises(sounds.PageError, match=f"no utterance was spoken by each of .*{OTHER}"):
        sounds.read_study(tmp_path / "apart", "dev")
    (run / f"dev.{OURS}.json").unlink()  # the run was cut off
    with pytest.raises(sounds.PageError, match="no finished run"):
        sounds.read_study(run, "dev")


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A run on the authors' sentences and, in $MS_DATA, clips that stand for theirs."""
    make_run(tmp_path / "run", split="paper-demo", texts={"1-0-0000": "a text"})
    lines = ["item\tlibrispeech_utt\ttext\tsystem\tseconds\tpath"]
    folder = tmp_path / "data" / "paper-demo"
    folder.mkdir(parents=True)
    for number, system in enumerate(("ground-truth", "ground-truth-codec", "mega-tts")):
        soundfile.write(folder / f"{system}.flac", speech(0.3, 50 + number), RATE)
        lines.append(f"1\t1-0-0000\tA TEXT\t{system}\t0.3\t{system}.flac")
    (folder / "english.tsv").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("MS_DATA", str(tmp_path / "data"))
    return tmp_path / "run"


def test_the_authors_clips_are_in_only_when_asked_for(demo):
    theirs, _ = soundfile.read(demo.parent / "data" / "paper-demo" / "mega-tts.flac")
    study = sounds.read_study(demo, "paper-demo")
    text = sounds.sound_page(study)
    assert len(sounds_of(text)) == 4 and html.escape(sounds.AUTHORS_OUT) in text and "Mega-TTS" not in text
    assert "Do not publish" not in sounds.listening_page(study)[0]
    study = sounds.read_study(demo, "paper-demo", authors_clips=True)
    assert list(study.systems)[2:] == [OURS, "authors/ground-truth-codec", "authors/mega-tts"]
    text = sounds.sound_page(study)
    clips = [soundfile.read(io.BytesIO(sound))[0] for sound in sounds_of(text)]
    assert len(clips) == 6 and html.escape(sounds.AUTHORS_OUT) not in text and html.escape(sounds.AUTHORS_IN) in text
    assert any(np.array_equal(sound, theirs) for sound in clips)
    test, key = sounds.listening_page(study)
    assert sounds.PRIVATE in test and "LibriSpeech" in test and "mega" not in test.lower()
    assert key.systems["authors/mega-tts"].checkpoint_sha256 is None


# ---- what is written


def test_the_sound_page_holds_the_sounds_themselves_and_says_what_made_them(run):
    text = sounds.sound_page(sounds.read_study(run, "dev"))
    clips = sounds_of(text)
    assert len(clips) == 3 * 4
    order = [run / "audio" / s / f"{utt}.wav" for utt in TEXTS for s in ("prompt", *RECORDINGS, OURS)]
    for file, sound in zip(order, clips, strict=True):
        wanted, heard = soundfile.read(file, dtype="int16"), soundfile.read(io.BytesIO(sound), dtype="int16")
        assert np.array_equal(wanted[0], heard[0]) and wanted[1] == heard[1]
    for said in ("a" * 64, "b" * 64, "d" * 16, ">7<", "2025-01-02", "<code>dev</code>", "CC BY 4.0", "3 of the 3"):
        assert said in text, said
    assert html.escape(sounds.AUTHORS_OUT) in text
    assert len(re.findall("<audio ", text)) == len(set(re.findall('aria-label="(.*?)"', text))) == 12
    assert text.count("<img ") == text.count('<img alt="Spectrogram: ')


def test_texts_are_escaped_and_nothing_is_loaded(run):
    study = sounds.read_study(run, "dev")
    test, _ = sounds.listening_page(study)
    for text in (sounds.sound_page(study), test):
        assert "<img src=x" not in text and "<b>" not in text and "<i>" not in text and "</script><script>w" not in text
        assert "A text in capitals" in text
        bare = re.sub(r'<a href="https://[^"]+">[^<]+</a>', "", text)
        assert "http" not in bare.replace("http-equiv", "") and "url(" not in text and "import " not in text
        policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)[1]
        assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
        for tag in ("script", "style"):
            inside = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
            digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy
    assert html.escape(EVIL) in sounds.sound_page(study)
    assert {clip["text"] for clip in data_of(test)["clips"]} == {"A text in capitals", EVIL, "the third text"}


def test_a_template_is_filled_in_one_pass():
    assert sounds.fill("@@A@@ @@B@@", A="@@B@@", B="b") == "@@B@@ b"
    with pytest.raises(KeyError):
        sounds.fill("@@C@@", A="a")


def test_a_picture_has_the_time_axis_that_is_asked_for():
    tone = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)).astype(np.float32)
    pixels = matplotlib.image.imread(io.BytesIO(sounds.picture(tone, RATE, 2.0)))
    bins, frames, _ = pixels.shape
    assert frames == round(2.0 / 0.008 / sounds.SHRINK)
    seen = pixels[..., 3].all(axis=0)
    assert seen[: frames // 2].all() and not seen[frames // 2 + 1 :].any()  # what is beyond its end is clear
    brightest = pixels[:, frames // 4, :3].sum(axis=-1).argmax()
    assert 1 - brightest / bins == pytest.approx(1000 / (RATE / 2), abs=0.03)  # low frequencies at the bottom


def test_the_listening_page_names_no_system_and_its_key_does(run):
    study = sounds.read_study(run, "dev")
    text, key = sounds.listening_page(study, seed=1)
    for name in (*study.systems, *TEXTS, "mobilespeech", "codec", "a" * 64):
        assert name not in text.lower(), name
    data = data_of(text)
    assert [clip["id"] for clip in data["clips"]] == sorted(key.clips) and len(key.clips) == 9
    assert data["page"] == key.page and set(key.systems) == set(study.systems)
    for clip in data["clips"]:
        behind = key.clips[clip["id"]]
        for name, system in ((clip["sound"], behind.system), (clip["prompt"], "prompt")):
            heard, _ = soundfile.read(io.BytesIO(base64.b64decode(data["sounds"][name])), dtype="int16")
            wanted, _ = soundfile.read(run / "audio" / system / f"{behind.utt}.wav", dtype="int16")
            assert np.array_equal(heard, wanted)
    assert sounds.listening_page(study, seed=1) == (text, key)
    assert not set(sounds.listening_page(study, seed=2)[1].clips) & set(key.clips)


def ms(*arguments: object):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_the_command_writes_both_pages(run, tmp_path):
    out = ("--html", tmp_path / "s.html", "--listening-test", tmp_path / "t.html")
    result = ms(*out, "--audio", run, "--split", "dev", "--limit", 1)
    assert result.exit_code == 0, result.output
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == [
        str(tmp_path / name) for name in ("s.html", "t.html", "t.key.json")
    ]
    assert len(sounds_of((tmp_path / "s.html").read_text())) == 4
    key = listening.Key.model_validate_json((tmp_path / "t.key.json").read_text())
    assert len(key.clips) == 3 and data_of((tmp_path / "t.html").read_text())["page"] == key.page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--html", "{tmp}/s.html"], "--html and --listening-test need --audio"),
        (["--html", "{tmp}/s.txt", "--audio", "{run}"], "--html {tmp}/s.txt: give a name that ends in .html"),
        (["--html", "{tmp}/s.html", "--listening-test", "{tmp}/s.html", "--audio", "{run}"], "give two names"),
        (["--html", "{tmp}/no/s.html", "--audio", "{run}"], "--html {tmp}/no/s.html: there is no folder {tmp}/no"),
        (["--html", "{tmp}/s.html", "--audio", "{tmp}"], "{tmp} has no finished run on split 'test-clean-24spk'"),
        (["--audio", "{run}"], "--audio and --authors-clips are for --html or --listening-test"),
    ],
)
def test_the_command_says_what_is_wrong(run, tmp_path, words, message):
    place = {"tmp": tmp_path, "run": run}
    result = ms(*(word.format(**place) for word in words))
    assert result.exit_code == 2 and message.format(**place) in result.stderr, result.output
    assert not list(tmp_path.glob("*.html"))


# ---- in a browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    binary = os.environ.get("MS_CHROMIUM") or next((found for name in names if (found := shutil.which(name))), None)
    if not binary:
        pytest.skip("needs an installed Chromium: put it on the PATH or set MS_CHROMIUM")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync", "--mute-audio"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=binary, args=quiet)
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium):
    """A fresh browser tab, phone-sized; it must not complain, nor ask for anything beyond the page itself."""
    context = chromium.new_context(viewport={"width": 390, "height": 844}, accept_downloads=True)
    context.set_default_timeout(10_000)
    complaints, own = [], ("file:", "data:", "blob:")
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    context.on("request", lambda asked: None if asked.url.startswith(own) else complaints.append(asked.url))
    tab = context.new_page()
    yield tab
    context.close()
    assert complaints == []


def until(tab, condition: str, seconds: float = 10.0) -> None:
    """Wait for a condition in JavaScript. (playwright's own wait_for_function needs what the page's policy forbids.)"""
    for _ in range(round(seconds / 0.02)):
        if tab.evaluate(condition):
            return
        tab.wait_for_timeout(20)
    raise AssertionError(f"not within {seconds:g} s: {condition}")


def fits(tab) -> bool:
    """Whether nothing is wider than the window."""
    return tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_players_play_stop_each_other_and_move_the_playhead(tab, tmp_path):
    make_run(tmp_path / "run", seconds=3.0, texts={"1-0-0000": EVIL})
    file = sounds.write_sound_page(tmp_path / "s.html", sounds.read_study(tmp_path / "run", "dev"))
    tab.goto(file.as_uri())
    assert fits(tab) and tab.evaluate("window.evil") is None
    assert tab.locator("article .text").text_content() == EVIL
    first, second = (tab.get_by_label(f"{name}, sentence 1", exact=True) for name in ("recording", "ours, mini"))
    first.evaluate("player => player.play()")
    until(tab, "document.querySelectorAll('audio')[1].currentTime > 0.1")
    second.evaluate("player => player.play()")
    until(tab, "document.querySelectorAll('audio')[3].currentTime > 0.2")
    assert first.evaluate("player => player.paused") and not second.evaluate("player => player.paused")
    heads = [float(value or 0) for value in tab.evaluate(
        "[...document.querySelectorAll('.head')].map(head => head.style.left.replace('%', ''))"
    )]  # fmt: skip
    assert heads[0] == 0 and 0 < heads[1] < 100 and heads[3] > 100 * 0.15 / 3.0
    second.evaluate("player => player.pause()")
    spectrogram = tab.locator(".picture").nth(3)  # a place to jump to
    spectrogram.click(position={"x": spectrogram.bounding_box()["width"] / 2, "y": 5})
    until(tab, "!document.querySelectorAll('audio')[3].paused")
    assert 1.4 < second.evaluate("player => player.currentTime") < 2.5
    tab.get_by_label("prompt, sentence 1", exact=True).focus()
    tab.keyboard.press("Space")
    until(tab, "!document.querySelectorAll('audio')[0].paused")
    assert second.evaluate("player => player.paused")


def shuffled(names: list[str], seed: int) -> list[str]:
    """The page's order again, in Python: Fisher and Yates's shuffle by mulberry32."""
    order, state, mask = list(names), seed, 0xFFFFFFFF
    for i in range(len(order) - 1, 0, -1):
        state = (state + 0x6D2B79F5) & mask
        t = ((state ^ (state >> 15)) * (1 | state)) & mask
        t = ((t + (((t ^ (t >> 7)) * (61 | t)) & mask)) & mask) ^ t
        j = int(((t ^ (t >> 14)) & mask) / 2**32 * (i + 1))
        order[i], order[j] = order[j], order[i]
    return order


def hear(tab) -> None:
    """Hear the prompt and the clip, by the keyboard, to their ends."""
    for key, player in (("p", "prompt"), ("Space", "clip")):
        tab.keyboard.press(key)
        until(tab, f"document.getElementById('{player}').ended")
    until(tab, "!document.querySelector('#scales input').disabled")


def place(tab) -> str:
    return tab.locator("#where").text_content()


def checked(tab) -> list[int]:
    return [int(mark) for mark in tab.locator("input:checked").evaluate_all("all => all.map(one => one.value)")]


def test_a_listener_rates_by_keyboard_closes_the_tab_goes_on_and_exports(tab, run, tmp_path):
    study = sounds.read_study(run, "dev", limit=2)
    file, keyfile = sounds.write_listening_test(tmp_path / "t.html", study)
    key = listening.Key.model_validate_json(keyfile.read_text())
    tab.goto(file.as_uri())
    assert fits(tab) and tab.evaluate("document.activeElement.tagName") == "BODY"
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert place(tab) == "Clip 1 of 6" and fits(tab)
    tab.keyboard.press("5")  # not heard yet
    assert tab.locator("input:checked").count() == 0 and tab.locator("input:disabled").count() == 15
    tab.keyboard.press("p")
    until(tab, "document.getElementById('prompt').ended")
    assert tab.locator("input:disabled").count() == 15  # the clip is still to be heard
    given = {}
    for number in range(6):
        hear(tab)
        marks = [1 + (number + turn) % 5 for turn in range(3)]
        for mark in marks:
            tab.keyboard.press(str(mark))
        given[number] = marks
        assert checked(tab) == marks
        if number == 2:  # the tab is closed; another one goes on
            seed = tab.locator("#seed").text_content()
            tab.close()
            tab = tab.context.new_page()
            tab.goto(file.as_uri())
            assert tab.locator("#start").text_content() == "Go on"
            tab.locator("#start").click()
            assert place(tab) == "Clip 3 of 6" and tab.locator("#seed").text_content() == seed
            assert checked(tab) == marks
            tab.keyboard.press("ArrowLeft")
            assert place(tab) == "Clip 2 of 6" and tab.locator("input:checked").count() == 3
            tab.keyboard.press("ArrowRight")
        if number < 5:
            assert tab.locator("#finish").is_hidden()
            tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#thanks").is_visible() and tab.locator("#another").is_disabled()
    with tab.expect_download() as download:
        tab.locator("#save").click()
    folder = tmp_path / "results" / "listening"
    folder.mkdir(parents=True)
    download.value.save_as(folder / download.value.suggested_filename)
    shutil.copy(keyfile, folder)
    ((read_key, (ratings,)),) = listening.read_ratings(folder)
    assert read_key == key and download.value.suggested_filename == (
        f"listening-{key.page[:12]}-{ratings.listener}.json"
    )
    assert [r.clip for r in ratings.ratings] == shuffled(sorted(key.clips), ratings.seed)
    assert [[r.mos_q, r.mos_p, r.mos_s] for r in ratings.ratings] == list(given.values())
    found = {(r.system, r.metric): r for r in listening.records(folder) if r.pair_with is None}
    mine = [r.mos_q for r in ratings.ratings if key.clips[r.clip].system == OURS]
    assert found[OURS, "mos_q"].value == np.mean(mine) and found[OURS, "mos_q"].n == 2
    tab.locator("#another").click()  # the next listener at this machine is another one
    until(tab, "document.getElementById('start').textContent === 'Start'")
    tab.locator("#start").click()
    assert tab.locator("#listener").text_content() != ratings.listener and place(tab) == "Clip 1 of 6"


def test_marks_can_be_given_and_changed_by_pointer_and_by_focus(tab, run, tmp_path):
    file, _ = sounds.write_listening_test(tmp_path / "t.html", sounds.read_study(run, "dev", limit=1))
    tab.goto(file.as_uri())
    tab.locator("#start").click()
    hear(tab)
    names = ("MOS-Q", "MOS-P", "MOS-S")
    groups = [tab.get_by_role("group", name=re.compile(name)) for name in names]
    groups[1].get_by_text("4 good").click()
    assert "active" in groups[1].get_attribute("class")
    tab.keyboard.press("2")  # goes to the scale that has the focus
    assert groups[1].get_by_role("radio", name="2 poor").is_checked()
    tab.keyboard.press("3")  # then to the first without a mark
    assert groups[0].get_by_role("radio", name="3 fair").is_checked()
    tab.keyboard.press("5")
    assert groups[2].get_by_role("radio", name="5 excellent").is_checked()
    assert "1 of 3 clips are rated" in tab.get_by_role("status").first.text_content()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    tab.locator("#next").click()  # from the last one to the first that is not rated
    assert place(tab) == "Clip 2 of 3" and tab.locator("#done").is_hidden()


def test_a_listener_is_told_when_the_browser_keeps_nothing(tab, run, tmp_path):
    file, _ = sounds.write_listening_test(tmp_path / "t.html", sounds.read_study(run, "dev", limit=1))
    tab.add_init_script("Storage.prototype.setItem = () => { throw new Error('full'); };")
    tab.goto(file.as_uri())
    tab.locator("#start").click()
    assert tab.get_by_role("alert").text_content().startswith("This browser keeps nothing")
    assert tab.get_by_role("alert").is_visible()
