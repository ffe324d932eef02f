"""Operations of a training step against counts by hand, and the arithmetic of notebook 3's table."""

import pytest
import torch
from conftest import CODEC, MODEL, PRESET, global_rng_untouched
from torch import nn

from ms_core import paths
from ms_core.config import ConfigError, load_preset, override
from ms_core.data.shards import synthetic_cuts
from ms_core.evaluation.bench import counting_flops
from ms_core.evaluation.costs import cost_records, shard_bytes, training_flops
from ms_core.evaluation.records import read_records


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_gradients_of_a_convolution_are_as_dear_as_the_way_forward(groups: int) -> None:
    layer, x = nn.Conv1d(8, 8, 5, padding=2, groups=groups), torch.zeros(3, 8, 20, requires_grad=True)
    with counting_flops() as counter:
        loss = layer(x).sum()
        forward = counter.get_total_flops()
        loss.backward()
    assert forward == 2 * 3 * 20 * 5 * 8 * 8 / groups
    assert counter.get_total_flops() == 3 * forward


def test_attention_and_products_are_counted_both_ways() -> None:
    x = torch.zeros(1, 2, 6, 4, requires_grad=True)
    with counting_flops() as counter:
        y = nn.functional.scaled_dot_product_attention(x, x, x)
        forward = counter.get_total_flops()
        y.sum().backward()
    assert forward == 2 * 2 * 2 * 6 * 6 * 4 and counter.get_total_flops() == 3 * forward


def test_a_training_step_costs_three_times_the_way_forward() -> None:
    with global_rng_untouched():
        found = training_flops(PRESET, 2.0)
    assert found["backward"] == pytest.approx(2 * found["forward"], rel=0.1)  # gradients of states and of weights
    deeper = training_flops(override(PRESET, {"model.smd_layers": MODEL.smd_layers + 2}), 2.0)
    deepest = training_flops(override(PRESET, {"model.smd_layers": MODEL.smd_layers + 4}), 2.0)
    for key in found:
        assert deepest[key] - deeper[key] == pytest.approx(deeper[key] - found[key]) and deeper[key] > found[key]
    per_weight = (deeper["forward"] - found["forward"]) / (deeper["params"] - found["params"])
    assert 1.5 * CODEC.frame_rate < per_weight < 5 * CODEC.frame_rate  # two for each weight and frame, and attention
    with pytest.raises(ValueError, match="seconds 0"):
        training_flops(PRESET, 0)
    with pytest.raises(ConfigError, match="mini codec alone"):
        training_flops(override(load_preset("paper"), {"model.codebook_prior": True}))


def test_shards_weigh_their_codes_and_somewhat_more() -> None:
    codes = CODEC.n_q * 2 * CODEC.frame_rate
    cuts = list(synthetic_cuts(PRESET, 20))
    headers = 2 * 1024 * len(cuts) / sum(cut.duration for cut in cuts)
    assert codes < shard_bytes(PRESET, 20) < codes + 2.5 * headers


def test_records_hold_what_was_counted() -> None:
    found = {r.metric: r for r in cost_records(PRESET, 1.0)}
    assert set(found) == {"train_gflop_forward", "train_gflop_backward", "params", "shard_bytes"}
    assert found["train_gflop_forward"].value == pytest.approx(training_flops(PRESET, 1.0)["forward"] / 1e9, abs=1e-6)
    assert {r.study for r in found.values()} == {"cost"} and {r.seconds for r in found.values()} == {1.0}


def test_both_presets_of_notebook_3_are_committed() -> None:
    records = read_records(paths.results("paper") / "cost.json")
    assert {r.preset for r in records} == {"paper", "mini"} and len(records) == 8
