"""The cell of notebook 4 in which a person types a text, chooses or uploads a voice, and hears it."""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from IPython.display import Audio, display

from ms_core.files import wav_bytes, write_wav
from ms_core.recordings.recogniser import EvaluatorError
from ms_core.speaking.captions import Speech
from ms_core.speaking.lines import Line, shown_phones
from ms_core.synthesis import MobileSpeech
from ms_core.tokens import Voice


def has_person() -> bool:
    """Whether this kernel belongs to a notebook that is open in JupyterLab, VS Code or Colab; not under papermill."""
    main = sys.modules.get("__main__")
    return "JPY_SESSION_NAME" in os.environ or "google.colab" in sys.modules or hasattr(main, "__vsc_ipynb_file__")


def studio(tts: MobileSpeech, voices: dict[str, Voice]) -> "Studio | None":
    """The widgets, shown, where a person can use them; else nothing happens, so that a run without one is silent."""
    if not has_person():
        return None
    shown = Studio(tts, voices)
    display(shown.box)
    return shown


class Studio:
    """Widgets that speak; their values can be set from code, too. `speech` is what was said last."""

    def __init__(self, tts: MobileSpeech, voices: dict[str, Voice]):
        import ipywidgets as widgets

        self.tts, self.voices, self.speech = tts, dict(voices), None
        wide = widgets.Layout(width="40em")
        self.text = widgets.Textarea("Type any text. [pause:0.5] Then listen.", layout=wide)
        self.voice = widgets.Dropdown(options=list(self.voices), description="voice")
        self.upload = widgets.FileUpload(accept="audio/*,video/*", description="or a recording")
        self.words = widgets.Text(placeholder="the words in it; empty: a recogniser hears them", layout=wide)
        self.speed = widgets.FloatSlider(1.0, min=0.5, max=2.0, step=0.05, description="speed")
        self.variety = widgets.FloatSlider(0.0, min=0.0, max=1.0, step=0.1, description="variety")
        self.seed = widgets.BoundedIntText(0, min=0, max=2**31 - 1, description="seed")
        self.file = widgets.Text("speech.wav", description="file")
        self.out = widgets.Output()
        self.buttons = {
            act.__name__: widgets.Button(description=act.__name__) for act in (self.hear, self.phones, self.save)
        }
        for name, button in self.buttons.items():
            button.on_click(lambda _, name=name: self._do(getattr(self, name)))
        self.upload.observe(lambda _: self._do(self.enrol), "value")
        rows = [self.voice, self.upload], [self.speed, self.variety, self.seed], [*self.buttons.values(), self.file]
        enrolment, controls, actions = map(widgets.HBox, rows)
        self.box = widgets.VBox([self.text, enrolment, self.words, controls, actions, self.out])

    def _do(self, act) -> None:
        self.out.clear_output()
        with self.out:
            try:
                act()
            except (ValueError, OSError, EvaluatorError) as error:
                print(error)

    def enrol(self) -> None:
        """Add the uploaded recording to the voices; says what is heard in it."""
        for file in self.upload.value:
            name = Path(file["name"]).name
            with TemporaryDirectory() as folder:
                recording = Path(folder) / f"prompt{Path(name).suffix}"
                recording.write_bytes(bytes(file["content"]))
                self.voices[name] = self.tts.voice(recording, text=self.words.value.strip() or None)
            print(f"{name}: {self.voices[name].meta['text']}")
            self.voice.options = list(self.voices)
            self.voice.value = name

    def hear(self) -> None:
        """Speak, and show a player."""
        controls = {"speed": self.speed.value, "variety": self.variety.value, "voices": self.voices}
        self.speech = self.tts.speak(self.text.value, self.voices[self.voice.value], self.seed.value, **controls)
        display(Audio(data=wav_bytes(self.speech.wav, self.tts.sample_rate)))

    def phones(self) -> None:
        """Show what is read, word by word."""
        print(shown_phones([Line(1, passages=self.tts.read(self.text.value))]))

    def save(self) -> None:
        """Write what was said last as WAV, and its words with their times beside it."""
        speech: Speech | None = self.speech
        if speech is None:
            print("nothing was said yet")
            return
        path = write_wav(self.file.value, speech.wav, self.tts.sample_rate)
        speech.save_captions(path.with_suffix(".json"))
        print(f"{path.resolve()} and {path.with_suffix('.json').name}")
