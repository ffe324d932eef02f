"""The command line: `ms-core synth | voice | detect | data | train | evaluate | bench | cost | export | report ...`.

What a person did wrong ends in one line on stderr and exit code 2; only a fault of ours shows a traceback. Whatever
writes a file writes it whole or not at all. Heavy libraries are imported inside the commands: `--help` must be quick.
"""

# Each module registers its commands, in the order of --help.
from ms_core.cli import speak, train, evaluate, bench, publish  # noqa: F401, I001
from ms_core.cli.common import app, reported

__all__ = ["app", "reported"]
