"""The shipped model still says what it said: stored tokens of ten texts by three shipped voices.

Nothing that only moves or renames code may change a token. After the shipped checkpoint was replaced, make the stored
tokens anew (half a minute) and commit them with it:

    python tests/test_same_tokens.py
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from ms_core import paths
from ms_core.files import sha256
from ms_core.synthesis import MobileSpeech
from ms_core.text import phonemise

STORED = Path(__file__).with_name("tokens-mini.safetensors")
WEIGHTS = paths.shipped("mini") / "model" / "weights.safetensors"
VOICES = ("289", "445", "7505")
OTHER_CPU = 0.8  # share of equal tokens where sums are rounded in another order, and one token steers later ones
TEXTS = (
    "Yes.",
    "Who goes there?",
    "The rain is over.",
    "She reads, he writes.",
    "It is ten past four.",
    "Please, do not wait for me.",
    "A small lamp lit the room.",
    "No one knew the way home.",
    "All boats came back!",
    "Judge the ship by its voyage.",
)


def machine() -> str:
    """What decides how a sum is rounded: torch and the vector instructions of this CPU."""
    return f"torch {torch.__version__.partition('+')[0]} {torch.backends.cpu.get_cpu_capability()}"


def store() -> None:
    """Write the tokens, the phones that they speak, and the checkpoint that they belong to."""
    tts = MobileSpeech.from_pretrained("mini")
    phones = [phonemise(text) for text in TEXTS]
    tokens = {
        f"{name}/{index}": tts.generate(sequence, tts.load_voice(name), seed=index)[0].astype(np.int16)
        for name in VOICES
        for index, sequence in enumerate(phones)
    }
    meta = {"phones": json.dumps(phones), "checkpoint": tts.checkpoint, "machine": machine()}
    save_file(tokens, STORED, metadata=meta)


def test_the_shipped_model_gives_the_stored_tokens() -> None:
    with safe_open(STORED, "np") as file:
        meta, stored = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert meta["checkpoint"] == sha256(WEIGHTS), (
        f"{STORED.name} belongs to model {meta['checkpoint'][:12]}, not to the shipped {sha256(WEIGHTS)[:12]}: "
        f"run `python tests/{Path(__file__).name}`"
    )
    assert len(stored) == len(VOICES) * len(TEXTS)
    tts = MobileSpeech.from_pretrained("mini")
    voices = {name: tts.load_voice(name) for name in VOICES}
    phones = json.loads(meta["phones"])
    equal = []
    for key, codes in stored.items():
        name, _, index = key.partition("/")
        spoken, _ = tts.generate(phones[int(index)], voices[name], seed=int(index))
        if spoken.shape != codes.shape:
            pytest.fail(f"{key}: {spoken.shape[1]} frames instead of {codes.shape[1]}")
        equal.append(float((spoken == codes).mean()))
    share = sum(equal) / len(equal)
    assert share == 1 if meta["machine"] == machine() else share >= OTHER_CPU, f"{share:.4f} of the tokens are the same"


if __name__ == "__main__":
    torch.set_num_threads(1)
    store()
