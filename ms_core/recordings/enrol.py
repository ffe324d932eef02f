"""From a recording to a voice: what is said in it, and which part of it is kept. All is our choice."""

import numpy as np

from ms_core.files import AudioError
from ms_core.recordings.recogniser import EvaluatorError, recogniser
from ms_core.tokens import Tokens

LONGEST_PAUSE = 0.6  # seconds of silence that a prompt keeps between two words, and at either end


def transcript(wave: np.ndarray) -> str:
    """What whisper-base hears in samples (l,) at 16 kHz."""
    try:
        text = recogniser("base")(wave).strip()
    except EvaluatorError as error:
        raise EvaluatorError(
            f"give the words of the prompt: no recogniser hears them ({error}); `pip install 'ms-core[eval]'` has one"
        ) from None
    if not text:
        raise AudioError("no words are heard in the prompt: give another one, or say what is said in it")
    return text


def shorter_pauses(utterance: Tokens, frame_rate: float) -> Tokens:
    """An utterance whose pauses last at most `LONGEST_PAUSE`: silence tells nothing of a voice. Their middles go.

    Of the pauses at both ends the outer part goes.
    """
    longest = round(LONGEST_PAUSE * frame_rate)
    pauses, ends = utterance.words(), np.cumsum(utterance.durations)
    kept = np.ones(ends[-1], dtype=bool)
    frames = utterance.durations.copy()
    for pause in pauses[utterance.durations[pauses] > longest]:
        first, last = ends[pause] - frames[pause], ends[pause]
        before = 0 if pause == pauses[0] else longest if pause == pauses[-1] else longest // 2
        kept[first + before : last - (longest - before)] = False
        frames[pause] = longest
    return Tokens(utterance.phones, frames, utterance.codes[:, kept])


def first_words(utterance: Tokens, frames: int) -> Tokens:
    """The first words, up to the word boundary nearest to `frames`."""
    bounds = utterance.words()
    ends = np.cumsum(utterance.durations)[bounds]
    nearest = 1 + int(np.abs(ends[1:] - frames).argmin())
    return utterance.slice(bounds[0], bounds[nearest])
