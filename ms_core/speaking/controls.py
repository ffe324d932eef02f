"""How a text is to be said besides by whom."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ms_core.speaking.script import FASTEST, SLOWEST, read_lexicon
from ms_core.tokens import Voice


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
