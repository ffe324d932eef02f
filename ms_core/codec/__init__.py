"""The neural codec: what is asked of one, and the one that a checkpoint holds."""

import json
from pathlib import Path

from ms_core.checkpoint import CheckpointError
from ms_core.codec.base import Codec, check_codes

__all__ = ["Codec", "check_codes", "load_codec"]


def load_codec(folder: Path) -> Codec:
    """The codec saved in a folder, of either kind."""
    try:
        kind = json.loads((Path(folder) / "config.json").read_text())["config"]["kind"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: no readable codec checkpoint here ({error})") from None
    if kind == "encodec":
        from ms_core.codec.encodec import EncodecCodec

        return EncodecCodec.load(Path(folder))
    from ms_core.codec.mini import MiniCodec

    return MiniCodec.load(Path(folder))
