"""ms_core: a replication of MobileSpeech, zero-shot text-to-speech by masked filling of neural-codec tokens.

The files beside this one are the paper: `encoder` (phones, durations), `prompt`, `smd` and `decoding`, which `model`
joins and `synthesis` lets speak; `codec/` makes and reads the tokens. What stands in the other rooms serves them.

The public names load at first use, so that `import ms_core.export.runtime` stays light: it runs without
torch. `__version__` is that of the installed package; pyproject.toml alone states it.
"""

import importlib
import importlib.metadata

_HOMES = {"MobileSpeech": "ms_core.synthesis", "Voice": "ms_core.tokens", "load_preset": "ms_core.config"}

__all__ = ["MobileSpeech", "Voice", "__version__", "load_preset"]


def __getattr__(name: str):
    if name == "__version__":
        return importlib.metadata.version("ms-core")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}: it offers {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
