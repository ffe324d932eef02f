"""Variation of training speech is of the mini codec alone."""

import pytest
from conftest import PRESET

from ms_core.config import ConfigError, override


@pytest.mark.parametrize("switch", ["timbre_db", "virtual_voices", "noisy_prompts"])
def test_only_the_mini_codec_has_features(switch: str) -> None:
    assert override(PRESET, {f"train_model.{switch}": 0.5}).train_model.varied
    assert not PRESET.train_model.varied
    with pytest.raises(ConfigError, match="mini codec's features alone"):
        override(PRESET, {"codec.kind": "encodec", f"train_model.{switch}": 0.5})
