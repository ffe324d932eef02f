"""The backend of a phone: an exported folder on onnxruntime."""

from pathlib import Path

import numpy as np
import onnxruntime
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ms_core.decoding import Pass, length_regulate
from ms_core.detect.watermark import FILE
from ms_core.export.runtime.codec import MobileCodec
from ms_core.export.runtime.manifest import MobileError, read_manifest
from ms_core.speaking.synthesizer import Synthesizer
from ms_core.text import LANGUAGES, phone_ids, phone_table
from ms_core.tokens import Voice, VoiceError

VoiceStates = dict[str, np.ndarray]
"""By name, the outputs of the prompt's graph: all that the other graphs need of a voice."""
CONSTANTS = "codec.safetensors"
VECTORS = "vectors.bin"  # the codec's code vectors, float32 (float16 in an int8 export)
SLOWER = "SkipLayerNormFusion"  # onnxruntime's fused sum and norm take four times as long as the two: 9 % of a pass
RESIDENT = ("text", "duration", "condition", "smd", "codec")  # stay loaded; the prompt's runs once for a voice


class MobileRuntime(Synthesizer):
    """Zero-shot text-to-speech from an exported folder.

    Args:
        folder: what `ms_core.export.onnx.export` wrote.
        threads: that onnxruntime uses for one operator.
        check: compare every file with its sha256 in the manifest; without, sizes alone are compared.

    Raises MobileError for a folder that is incomplete, damaged, of another version or for another runtime.
    """

    kind = "onnx"  # of the folders that it runs

    def __init__(self, folder: str | Path, threads: int = 1, check: bool = True):
        if threads < 1:
            raise MobileError(f"threads {threads}: give at least 1")
        self.folder, self.threads = Path(folder), threads
        self.manifest = read_manifest(folder, check)
        if self.manifest.runtime != self.kind:
            raise MobileError(
                f"{folder} is an export to {self.manifest.runtime}, {type(self).__name__} runs {self.kind}: "
                f"`ms-core export --to {self.kind}` writes that"
            )
        self.language = self.manifest.language
        if self.language not in LANGUAGES:
            raise MobileError(f"{folder} speaks {self.language!r}; this version reads {', '.join(LANGUAGES)}")
        if self.manifest.phones != phone_table(self.language):
            raise MobileError(f"{folder}: its phone table is not this version's: export the model again")
        codec = self.manifest.codec
        self.sample_rate, self.n_q, self.bins = codec.sample_rate, codec.n_q, codec.bins
        self.frame_rate = codec.sample_rate / codec.hop
        self.decoding, self.token_digest = self.manifest.decoding, self.manifest.token_digest
        self.chunk_phones = self.manifest.chunk_phones
        self.checkpoint, self.watermark = self.manifest.checkpoint_sha256, self.folder / FILE
        try:
            vectors = np.fromfile(
                self.folder / VECTORS, np.float16 if self.manifest.precision == "int8" else np.float32
            )
            books = vectors.reshape(codec.n_q, codec.bins + 1, -1)[:, :-1].astype(np.float32)
            self.codec = MobileCodec(codec, {**load_file(self.folder / CONSTANTS), "books": books})
        except (SafetensorError, KeyError, ValueError) as error:
            raise MobileError(f"{self.folder}: {CONSTANTS} and {VECTORS} are not the codec's ({error})") from None
        self._sessions = {name: self._load(name) for name in RESIDENT}

    def _load(self, name: str) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_mem_pattern = False  # a plan for each length of a text would keep 30 MB, and saves no time
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads cost battery
        try:
            return onnxruntime.InferenceSession(
                self.folder / f"{name}.onnx", options, ["CPUExecutionProvider"], disabled_optimizers=[SLOWER]
            )
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise MobileError(f"{self.folder / name}.onnx cannot be loaded by onnxruntime ({error})") from error

    def _run(self, name: str, **inputs: np.ndarray) -> list[np.ndarray]:
        """Outputs of a graph; inputs that it does not have are left out."""
        return _run(self._sessions[name], inputs)

    def _encode_voice(self, voice: Voice) -> VoiceStates:
        if voice.adapter:
            raise VoiceError("this voice was adapted, which changes weights: it speaks through PyTorch alone")
        ids, durations = np.array([phone_ids(voice.phones)]), np.array(voice.durations)
        index, position = length_regulate(durations)
        inputs = {"codes": voice.codes[None], "phones": ids, "durations": durations[None], "index": index[None],
                  "position": position[None], "states": self._run("text", phones=ids)[0]}  # fmt: skip
        return _run_named(self._load("prompt"), inputs)  # released again: half a voice's memory would stay idle

    def _encode_text(self, ids: np.ndarray, states: VoiceStates) -> tuple[np.ndarray, np.ndarray]:
        text = self._run("text", phones=ids)[0]
        return text, self._run("duration", states=text, prompt=states.get("duration_states"))[0][0]

    def condition(self, text: np.ndarray, durations: np.ndarray, states: VoiceStates) -> dict[str, np.ndarray]:
        index, position = length_regulate(durations)
        inputs = {"states": text, "index": index[None], "position": position[None], **states}
        return _run_named(self._sessions["condition"], inputs)

    def run_pass(self, condition: dict[str, np.ndarray], states: VoiceStates) -> Pass:
        def run(codes: np.ndarray, layer: int, frames: np.ndarray) -> np.ndarray:
            inputs = {"codes": codes[None], "layer": np.array([layer]), "frames": frames}
            return self._run("smd", **inputs, **condition, **states)[0][0]

        return run

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        controls = self._run("codec", latent=self.codec.dequantise(codes)[None])
        return self.codec.waveform(*(control[0] for control in controls))


def _run(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    return session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})


def _run_named(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip((output.name for output in session.get_outputs()), _run(session, inputs), strict=True))
