"""The interactive cell, driven from code."""

from datetime import UTC, datetime

import pytest
import soundfile
from conftest import new_model

from ms_core import paths
from ms_core.config import DecodingConfig
from ms_core.report import studio as ms_studio
from ms_core.synthesis import MobileSpeech

pytest.importorskip("ipywidgets")
PROMPT = paths.ASSETS / "smoke" / "audio" / "test" / "445-06.opus"
WORDS = "I would rather walk home tonight, since the moon is so bright and the air is finally cool."


@pytest.fixture
def studio(codec):
    tts = MobileSpeech(codec, new_model(codec), DecodingConfig(steps=(1, 1, 1)))
    return ms_studio.Studio(tts, {"one": tts.voice(PROMPT, text=WORDS)})


def test_a_person_hears_reads_and_saves(studio, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    studio.text.value = "Go. [voice:one] Stop."
    studio.buttons["save"].click()
    assert "nothing was said yet" in capsys.readouterr().out
    studio.buttons["hear"].click()
    length = len(studio.speech.wav)
    studio.speed.value = 2.0
    studio.buttons["hear"].click()
    assert len(studio.speech.wav) < 0.8 * length
    studio.buttons["save"].click()
    assert soundfile.info(tmp_path / "speech.wav").frames == len(studio.speech.wav)
    assert '"text": "Stop."' in (tmp_path / "speech.json").read_text()
    capsys.readouterr()
    studio.buttons["phones"].click()
    assert "Stop.\tS T AA1 P" in capsys.readouterr().out
    studio.text.value = "Привет"
    studio.buttons["hear"].click()
    assert "cannot read the characters" in capsys.readouterr().out


def test_an_uploaded_recording_becomes_a_voice(studio, capsys) -> None:
    studio.words.value = WORDS
    content = memoryview(PROMPT.read_bytes())
    studio.upload.value = ({"name": "me.opus", "type": "audio/ogg", "size": len(content), "content": content,
                            "last_modified": datetime.now(UTC)},)  # fmt: skip
    assert studio.voice.value == "me.opus" and studio.voices["me.opus"].phones == studio.voices["one"].phones
    assert WORDS in capsys.readouterr().out


def test_nothing_is_shown_without_a_person(monkeypatch) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert not ms_studio.has_person() and ms_studio.studio(None, {}) is None
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/04_zero_shot.ipynb")
    assert ms_studio.has_person()
