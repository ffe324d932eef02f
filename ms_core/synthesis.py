"""The public face of the package: a trained codec and model speak through PyTorch, and enrol voices."""

from pathlib import Path

import numpy as np
import torch

from ms_core.align import align, durations
from ms_core.audio import load_speech, resample
from ms_core.checkpoint import checkpoint_folder
from ms_core.codec import Codec, load_codec
from ms_core.config import DecodingConfig
from ms_core.files import sha256
from ms_core.model import MobileSpeechModel, VoiceStates
from ms_core.prompt import Condition
from ms_core.synthesizer import CHUNK_PHONES, Synthesizer
from ms_core.text import PHONES, phone_ids
from ms_core.tokens import Tokens, Voice

__all__ = ["CHUNK_PHONES", "MobileSpeech", "Voice"]

ALIGN_RATE = 16_000  # Hz, what the aligner hears
PROMPT_SECONDS = 3.0  # the paper's prompt length


class MobileSpeech(Synthesizer):
    """Zero-shot text-to-speech: `voice` enrols a speaker once, `synthesize` speaks any text with that voice.

    codec, model: both on one device. checkpoint: sha256 of the model's weights, for records.
    """

    def __init__(self, codec: Codec, model: MobileSpeechModel, decoding: DecodingConfig, checkpoint: str = ""):
        self.codec, self.model, self.decoding, self.checkpoint = codec, model.eval(), decoding, checkpoint
        self.sample_rate, self.token_digest = codec.config.sample_rate, codec.token_digest
        self.n_q, self.bins = codec.config.n_q, codec.config.bins
        self.device = next(model.parameters()).device

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str | torch.device = "cpu") -> "MobileSpeech":
        """Load a shipped checkpoint by name, or a folder that holds `codec/` and `model/`, onto a device.

        Raises CheckpointError when nothing is there, or codec and model are damaged or do not belong together.
        """
        folder = checkpoint_folder(name)
        codec = load_codec(folder / "codec")
        model = MobileSpeechModel.load(folder / "model", codec)
        digest = sha256(folder / "model" / "weights.safetensors")
        return cls(codec.to(device), model.to(device), model.decoding, digest)

    def voice(
        self,
        prompt: str | Path | np.ndarray | tuple[np.ndarray, int],
        text: str,
        seconds: float | None = PROMPT_SECONDS,
        meta: dict[str, str] | None = None,
    ) -> Voice:
        """Enrol a speaker from a recording and the words in it.

        Args:
            prompt: an audio file, samples at `sample_rate`, or (samples, their rate); 1 to 30 s of clear speech.
            text: what is said in it.
            seconds: use the first words of about this length, as the model was trained on; None keeps all.

        Raises AudioError (unusable recording), TextError (unreadable text) or AlignmentError (they do not match).
        """
        source, rate = prompt if isinstance(prompt, tuple) else (prompt, None)
        wave = load_speech(source, self.sample_rate, source_rate=rate)
        phones = align(resample(wave, self.sample_rate, ALIGN_RATE), text)
        codes = self.codec.encode(torch.from_numpy(wave)[None, None].to(self.device))[0].cpu().numpy()  # (n, t)
        frames = durations(phones, codes.shape[1], self.codec.config.frame_rate)
        whole = Tokens(np.array(phone_ids(phones.phones)), np.array(frames), codes)
        part = whole if seconds is None else first_words(whole, round(seconds * self.codec.config.frame_rate))
        names = tuple(PHONES[i] for i in part.phones)
        return Voice(
            part.codes.copy(),
            names,
            tuple(int(f) for f in part.durations),
            self.codec.token_digest,
            {"text": text, **(meta or {})},
        )

    @torch.inference_mode()
    def _encode_voice(self, voice: Voice) -> VoiceStates:
        arrays = (voice.codes, np.array(phone_ids(voice.phones)), np.array(voice.durations))
        return self.model.voice(*(torch.from_numpy(x)[None].long().to(self.device) for x in arrays))

    @torch.inference_mode()
    def _encode_text(self, ids: np.ndarray, states: VoiceStates) -> tuple[torch.Tensor, np.ndarray]:
        phones = torch.from_numpy(ids).to(self.device)
        text = self.model.text(phones)
        return text, self.model.predict_durations(text, phones, states)[0].float().cpu().numpy()

    @torch.inference_mode()
    def condition(self, text: torch.Tensor, durations: np.ndarray, states: VoiceStates) -> Condition:
        frames = torch.from_numpy(durations)[None].to(self.device)
        return self.model.expand(text, frames, int(durations.sum()), states, self.decoding.copy_sharpness)

    def run_pass(self, condition: Condition, states: VoiceStates):
        mask = torch.ones(condition.text.shape[:2], dtype=torch.bool, device=self.device)

        @torch.inference_mode()
        def run(codes: np.ndarray, layer: int, frames: np.ndarray) -> np.ndarray:
            grid = torch.from_numpy(codes)[None].to(self.device)
            logits, _ = self.model.smd(condition, grid, torch.tensor([layer], device=self.device), mask)
            return logits[0, torch.from_numpy(frames).to(self.device)].float().cpu().numpy()

        return run

    @torch.inference_mode()
    def _decode(self, codes: np.ndarray) -> np.ndarray:
        return self.codec.decode(torch.from_numpy(codes)[None].to(self.device))[0, 0].float().cpu().numpy()


def first_words(utterance: Tokens, frames: int) -> Tokens:
    """The first words, up to the word boundary nearest to `frames`."""
    bounds = utterance.words()
    ends = np.cumsum(utterance.durations)[bounds]
    nearest = 1 + int(np.abs(ends[1:] - frames).argmin())
    return utterance.slice(bounds[0], bounds[nearest])
