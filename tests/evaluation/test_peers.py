"""Peers: networks at the published sizes, steps with a cache, counts of units, records and their tables."""

import pytest
import torch
from conftest import global_rng_untouched, new_model

from ms_core import paths
from ms_core.config import DecodingConfig
from ms_core.evaluation.peers import (
    PEERS,
    Comparison,
    Peer,
    SoundStormShape,
    ValleShape,
    ZipVoiceShape,
    compare,
    comparison_records,
    soundstorm_plan,
    valle_plan,
    zipvoice_plan,
)
from ms_core.evaluation.records import Provenance, Record, write_records
from ms_core.report import figures, speed
from ms_core.report.tables import Results, main_markdown
from ms_core.synthesis import MobileSpeech

PROMPT = paths.ASSETS / "smoke" / "audio" / "test" / "445-06.opus"
PROMPT_TEXT = "I would rather walk home tonight, since the moon is so bright and the air is finally cool."
TINY = {
    "vall-e": lambda: ValleShape(dim=16, layers=2, heads=2, ffn=32, n_q=3, bins=8, phones=5),
    "soundstorm": lambda: SoundStormShape(dim=16, layers=1, heads=2, levels=3, bins=8),
    "zipvoice": lambda: ZipVoiceShape(dim=16, heads=2, ffn=32, layers=(1, 1, 1), factors=(1, 3, 1), kernels=(3, 3, 3)),
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("name", "published", "tolerance"),
    [("vall-e", 2 * 150e6, 0.08), ("soundstorm", 350e6, 0.02), ("zipvoice", 123e6, 0.05)],
)  # what is left out (parts for text and time) or rounded (150 M, of an open version) explains the difference
def test_parameters_of_the_published_shapes(name, published, tolerance):
    with torch.device("meta"):
        model = PEERS[name].build()
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(published, rel=tolerance)


@torch.inference_mode()
def test_a_step_with_the_cache_is_the_full_forward():
    model = TINY["vall-e"]().eval()
    phones, codes = torch.tensor([[1, 4, 2]]), torch.randint(0, 8, (1, 7))
    whole = model.prefill(phones, codes)  # (1, 10, 9)
    cache = model.new_cache(10)
    cache.fill_(torch.nan)  # what has not been written must not be read
    given = model.prefill(phones, codes[:, :3], cache)
    assert torch.allclose(given, whole[:, :6], atol=1e-5)
    for place in range(3, 7):
        step = model.step(codes[:, place : place + 1], cache, 3 + place)
        assert torch.allclose(step[:, 0], whole[:, 3 + place], atol=1e-5)
    other = codes.clone()
    other[0, 3] = (codes[0, 3] + 1) % 8
    changed = (model.prefill(phones, other) - whole).abs().amax(-1)[0] > 1e-6
    assert not changed[:6].any() and changed[6:].all()  # causal


@torch.inference_mode()
def test_passes_see_the_whole_utterance():
    codes = torch.randint(0, 8, (1, 3, 6))
    valle = TINY["vall-e"]().eval()
    phones, prompt = torch.tensor([[1, 2]]), torch.randint(0, 8, (1, 3, 4))
    fills = [valle.fill(phones, prompt, codes[:, :known]) for known in (1, 2)]
    assert [tuple(fill.shape) for fill in fills] == [(1, 6, 8)] * 2
    storm = TINY["soundstorm"]().eval()
    assert storm(codes[:, 0], codes, 2).shape == (1, 6, 8)
    model = TINY["zipvoice"]().eval()
    mels, text = torch.randn(1, 7, 100), torch.randn(1, 7, 100)
    one = model(mels, mels, text)
    assert one.shape == (1, 7, 100) and one.isfinite().all()
    late = text.clone()
    late[:, -1] += 1
    assert ((model(mels, mels, late) - one).abs().amax(-1) > 0).all()


def test_counts_of_units():
    valle = valle_plan(TINY["vall-e"](), 3.0, 10.0).counts["vall-e-shape"]
    assert valle == {"prefill": 1, "step": 750, "pass": 2}  # of three layers
    with torch.device("meta"):
        storm = SoundStormShape()
    assert soundstorm_plan(storm, 3.0, 10.0).counts == {"soundstorm-shape": {"pass": 27}}
    assert {s: c["pass"] for s, c in zipvoice_plan(TINY["zipvoice"](), 3.0, 1.0).counts.items()} == {
        "zipvoice-shape-16nfe": 32,
        "zipvoice-distill-shape-8nfe": 8,
        "zipvoice-distill-shape-4nfe": 4,
    }


def test_compare_times_every_peer_in_turns(codec):
    tts = MobileSpeech(codec, new_model(codec), DecodingConfig(steps=(2, 1, 1)))
    tiny = {name: Peer(build, PEERS[name].plan, PEERS[name].left_out) for name, build in TINY.items()}
    with global_rng_untouched():
        found = compare(tts, PROMPT, PROMPT_TEXT, seconds=0.5, repeats=2, peers=tiny)
    assert len(found) == 5 and all(len(one.theirs) == len(one.ours) == 2 for one in found)
    by_name = {one.system: one for one in found}
    wide, narrow = by_name["zipvoice-distill-shape-8nfe"], by_name["zipvoice-distill-shape-4nfe"]
    assert wide.theirs == pytest.approx([2 * value for value in narrow.theirs])  # the same passes
    assert min(min(one.theirs) for one in found) > 0 and all(one.audio_seconds > 0 for one in found)
    for wrong in ({"seconds": 0}, {"threads": 0}, {"repeats": 0}):
        with pytest.raises(ValueError, match="all must be positive"):
            compare(tts, PROMPT, PROMPT_TEXT, peers=tiny, **wrong)


def test_records_and_their_tables(tmp_path):
    steps = {"prefill": 1, "step": 75, "pass": 7}
    one = Comparison("vall-e-shape", [20.0, 30.0], [0.5, 0.5], 5.0, 1234, steps, "EnCodec")
    provenance = Provenance.of("mini", None, 0, "0123456789ab", 1)
    records = {r.metric: r for r in comparison_records([one], provenance, "mobilespeech-mini", 10)}
    rtf, ratio, params = records["rtf_total"], records["time_ratio"], records["params"]
    assert (rtf.value, rtf.ci_low, rtf.ci_high) == (5.0, 4.0, 6.0) and rtf.system == "peer/vall-e-shape"
    assert (ratio.value, ratio.unit, ratio.n) == (50.0, "ratio", 2) and "between 40.0 and 60.0" in ratio.protocol
    assert (params.value, params.study) == (1234, "model") and params.config_hash is None
    for words in (
        "random weights",
        "timed 2 times each: prefill, counted 1, step, counted 75, pass, counted 7",
    ):
        assert words in rtf.protocol
    assert "not counted: EnCodec" in rtf.protocol
    own = Record(**{**rtf.model_dump(), "system": "mobilespeech-mini", "value": 0.05, "ci_low": None, "ci_high": None})
    everything = [own, *records.values()]
    write_records(tmp_path / "bench.json", everything)
    table = main_markdown(Results("mini", tmp_path)).split("## Speed")[1]
    assert "| RTF ↓ | time / ours |" in table and "random weights" in table
    assert "| [5.0000](bench.json) (4.0000 to 6.0000) | [50.0](bench.json) (40.0 to 60.0) |" in table
    written = figures.draw("mini", (), "png", tmp_path, tmp_path / "figures")
    assert {path.stem for path in written} == {"peer-speed"}
    with pytest.raises(ValueError, match="--peers"):
        speed.peer_speed([own])
