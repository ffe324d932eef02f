"""Configs and presets."""

import math

import pytest
import yaml
from conftest import PRESET
from pydantic import ValidationError

from ms_core import paths
from ms_core.config import (
    PRESET_NAMES,
    CodecConfig,
    ConfigError,
    DecodingConfig,
    MaskConfig,
    ModelConfig,
    Preset,
    load_preset,
    override,
    parse,
)


@pytest.mark.parametrize("path", sorted(paths.PRESETS / f"{name}.yaml" for name in PRESET_NAMES), ids=lambda p: p.stem)
def test_presets_are_valid(path) -> None:
    preset = load_preset(path.stem)
    assert preset.name == path.stem in PRESET_NAMES
    assert len(preset.decoding.steps) == preset.codec.n_q
    assert load_preset(path) == preset  # by name or by file


def test_a_preset_survives_yaml_and_json(tmp_path) -> None:
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(PRESET.model_dump(mode="json")))
    assert load_preset(tmp_path / "p.yaml") == PRESET


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nmask: {aplha: 0.5}", r"mask\.aplha: Extra inputs.*given: 0\.5"),
        ("name: x\nmask: {alpha: 1.5}", r"mask\.alpha: .*less than or equal to 1 \(given: 1\.5\)"),
        ("name: x\nmask: {alpha: 'half'}", r"mask\.alpha: .*valid number"),
        ("name: x\nmodel: {dim: '256'}", r"model\.dim: .*valid integer"),
        ("name: x\nmodel: {dim: 100, heads: 3}", "dim 100 must be a multiple of twice the heads"),
        ("name: x\nmodel: {conv_kernel: 8}", "conv_kernel 8 must be odd"),
        ("name: x\ndecoding: {steps: [16, 1]}", "decoding.steps has 2 entries for a codec of 8 layers"),
        ("name: x\ndecoding: {steps: [16, 0, 1, 1, 1, 1, 1, 1]}", "must be one positive pass count"),
        ("name: x\nmask: {p_rank: cubic}", "p_rank: .*'uniform', 'lead', 'linear'"),
        ("- a\n- b", "valid dictionary"),
        ("name: [", "cannot be read"),
    ],
)
def test_a_wrong_preset_names_the_key_and_the_rule(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_preset(path)
    assert str(path) in str(caught.value)


def test_unreadable_presets(tmp_path) -> None:
    with pytest.raises(ConfigError, match="unknown preset 'maxi': choose one of smoke, mini, paper"):
        load_preset("maxi")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_preset(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_preset(tmp_path / "binary.yaml")


def test_override_replaces_dotted_keys_and_validates() -> None:
    changed = override(PRESET, {"mask.alpha": 0.5, "model.prefix": False, "decoding.steps": [2, 1, 1]})
    assert (changed.mask.alpha, changed.model.prefix, changed.decoding.steps) == (0.5, False, (2, 1, 1))
    assert PRESET.mask.alpha == 0.75  # the original stays
    assert override(changed, {"mask.alpha": 0.75, "model.prefix": True, "decoding.steps": [4, 1, 1]}) == PRESET
    for key in ("mask.aplha", "masks.alpha", "alpha", "mask.alpha.deep"):
        with pytest.raises(ConfigError, match=f"unknown key '{key}' in preset tiny"):
            override(PRESET, {key: 1})
    with pytest.raises(ConfigError, match=r"mask\.alpha"):
        override(PRESET, {"mask.alpha": -1})


def test_configs_are_frozen_and_their_digest_follows_the_values() -> None:
    with pytest.raises(ValidationError):
        PRESET.mask.alpha = 0.1
    a, b = MaskConfig(alpha=0.5), MaskConfig(alpha=0.25)
    assert a.digest() == MaskConfig(alpha=0.5).digest() != b.digest()
    assert len(a.digest()) == 12


def test_frame_rates_of_the_two_codecs() -> None:
    assert CodecConfig().frame_rate == 50
    assert CodecConfig(kind="encodec", sample_rate=24_000).frame_rate == 75


def test_laws_of_p_rank() -> None:
    # paper.md, section 2, to three digits
    lead = [0.139, 0.135, 0.131, 0.127, 0.123, 0.119, 0.115, 0.111]
    linear = [0.222, 0.194, 0.167, 0.139, 0.111, 0.083, 0.056, 0.028]
    assert MaskConfig(p_rank="lead").rank_probabilities(8) == pytest.approx(lead, abs=6e-4)
    assert MaskConfig(p_rank="linear").rank_probabilities(8) == pytest.approx(linear, abs=6e-4)
    assert MaskConfig(p_rank="uniform").rank_probabilities(8) == [1 / 8] * 8
    harmonic = MaskConfig(p_rank="harmonic").rank_probabilities(8)
    assert harmonic == pytest.approx([harmonic[0] / j for j in range(1, 9)])
    for law in ("uniform", "lead", "linear", "harmonic"):
        for n_q in (1, 2, 5, 32):
            assert math.fsum(MaskConfig(p_rank=law).rank_probabilities(n_q)) == pytest.approx(1)


def test_defaults_agree_with_each_other() -> None:
    assert len(DecodingConfig().steps) == CodecConfig().n_q
    assert Preset(name="x").model == ModelConfig()


@pytest.mark.parametrize("name", ["../../elsewhere", "/tmp/x", "", ".hidden", "a/b"])
def test_a_name_that_would_leave_the_runs_folder_is_refused(name):
    values = {**load_preset("smoke").model_dump(mode="json"), "name": name}
    with pytest.raises(ConfigError, match="name: String should match pattern"):
        parse(Preset, values, "a preset")
