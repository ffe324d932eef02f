"""A runtime for a phone: speech from an exported folder with numpy and onnxruntime alone.

The paper's aim is a model that a phone can run (its introduction; paper.md, section 5.4). `ms_core.export.onnx` writes
the parts of MobileSpeech as ONNX graphs with a manifest; this package reads that folder and does the rest in numpy:
phones, durations, iterative parallel decoding, Fourier transforms.
It imports no torch, and nothing of ms_core that does.
"""

from ms_core.export.runtime.manifest import Manifest, MobileError
from ms_core.export.runtime.runtime import MobileRuntime

__all__ = ["Manifest", "MobileError", "MobileRuntime"]
