"""Shapes and types that signatures of the package state, checked at every call while the tests run.

conftest.py installs `checked` on the modules of CHECKED before it imports them. A test that gives a function what its
signature forbids, to see the function's own message, takes the fixture `any_shape`.
"""

import random

from beartype import BeartypeConf, beartype
from beartype._check.code import codemain

CHECKED = (
    "additions", "codec", "data.augment", "decoding", "encoder", "layers", "model", "prompt", "recordings.align",
    "smd", "speaking.crossfade", "speaking.synthesizer", "synthesis", "tokens",
)  # fmt: skip
# Of a long list beartype looks at a random item. Some tests watch the global generator, so it gets one of its own.
codemain.getrandbits = random.Random(0).getrandbits
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int may stand for a float
