"""A runtime for a phone: speech from an exported folder with numpy and onnxruntime alone.

The paper's aim is a model that a phone can run (its introduction; paper.md, section 5.4). `ms_core.export` writes the
parts of MobileSpeech as ONNX graphs with a manifest; this package reads that folder and does the rest in numpy: phones,
durations, iterative parallel decoding, Griffin-Lim. It imports no torch, and nothing of ms_core that does.
"""

from ms_core.mobile.manifest import Manifest, MobileError
from ms_core.mobile.runtime import MobileRuntime, SpeakerStates
from ms_core.mobile.voice import MobileVoice
from ms_core.mobile.wav import write_wav

__all__ = ["Manifest", "MobileError", "MobileRuntime", "MobileVoice", "SpeakerStates", "write_wav"]
