"""How a text is to be said besides by whom, and how it is cut to be spoken. Numpy's world: torch is not needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ms_core.speaking.script import FASTEST, SLOWEST, read_lexicon
from ms_core.tokens import Voice

LONGEST_PAUSE = 20  # codec frames of a pause that the model fills; what a text asks for beyond them is silence
PAUSE_SHARE = 0.5  # a pause changes with the tempo to this power: speakers who hurry shorten phones more than pauses
# of `variety`, chosen on dev-other (results/mini/variety.json): passes and, at 1, temperature of layer 1 and the spread
# of log durations; at .5 WER is .082 where greedy has .087, at .75 .100
VARIED_PASSES, VARIED_TEMPERATURE, DURATION_SPREAD = 8, 2.0, 0.4


class SynthesisError(ValueError):
    """A request that cannot be spoken; the message says what was given and what is allowed."""


@dataclass(frozen=True)
class Controls:
    """How a text is to be said. Raises SynthesisError for what cannot be.

    Attributes:
        speed: times the natural tempo, 0.5 to 2, by durations: the pitch stays; pauses change by the square root of it.
        variety: 0 to 1. At 0 the likeliest durations and tokens are taken, and all seeds give the same; above, they are
            drawn: the durations, and the tokens of layer 1, in several passes. On dev-other .5 costs no words, .75 one
            in a hundred.
        rhythm: a second voice, whose durations the duration predictor is shown, while the timbre stays the first's.
        lexicon: words -> phones ("N W IH1 N"), or a file of them (`script.read_lexicon`).
        voices: what `[voice:NAME]` in a text names; a name that is not here is a shipped voice's or a voice file.
    """

    speed: float = 1.0
    variety: float = 0.0
    rhythm: Voice | str | Path | None = None
    lexicon: Mapping[str, str] | str | Path = field(default_factory=dict)
    voices: Mapping[str, Voice | str | Path] = field(default_factory=dict)

    def __post_init__(self):
        for name, least, most in (("speed", SLOWEST, FASTEST), ("variety", 0, 1)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not least <= value <= most:
                raise SynthesisError(f"{name} {value!r}: give a number from {least:g} to {most:g}")
        if isinstance(self.lexicon, str | Path):
            object.__setattr__(self, "lexicon", read_lexicon(self.lexicon))


@dataclass
class Part:
    """What is spoken at once: phones with their frames, in one voice.

    Attributes:
        pause: frames of its last phone that the next part begins with; 0 for the last part.
        silences: frames of silence to be put into pauses, by index of phone.
    """

    phones: Sequence[str]
    frames: list[int]
    voice: Voice
    seed: int
    pause: int
    silences: dict[int, int]

    def lasting(self) -> list[int]:
        """Frames of its phones with their silences, without the pause that the next part begins with."""
        frames = [count + self.silences.get(index, 0) for index, count in enumerate(self.frames)]
        return frames[:-1] if self.pause else frames
