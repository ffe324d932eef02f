"""Operations of a training step against counts by hand, and the arithmetic of notebook 3's table."""

import pytest
import torch
from conftest import CODEC, MODEL, PRESET, global_rng_untouched
from torch import nn

from ms_core import paths
from ms_core.config import ConfigError, load_preset, override
from ms_core.data.shards import synthetic_cuts
from ms_core.evaluation.bench import counting_flops
from ms_core.evaluation.costs import A100_PEAK, cost_records, cost_table, gpu_hours, shard_bytes, training_flops
from ms_core.evaluation.records import RecordError, read_records


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


def test_the_table_is_the_arithmetic_of_its_records() -> None:
    assert gpu_hours(580, A100_PEAK / 10, 0.4) == pytest.approx(580 / 4)
    records = [r for name in ("smoke", "tiny") for r in cost_records(PRESET.model_copy(update={"name": name}), 1.0)]
    lines = [line.split("|")[1:-1] for line in cost_table(records, "smoke", "tiny").splitlines()]
    rows = {line[0].strip(): line[1:] for line in lines}
    found = {r.metric: r.value for r in records if r.preset == "smoke"}
    flops = 1e9 * (found["train_gflop_forward"] + found["train_gflop_backward"])
    wanted = [40_000 * flops / (312e12 * share) for share in (0.4, 0.3)]
    assert [float(x) for x in rows["one pass, A100 hours"][1].split(" to ")] == pytest.approx(wanted, rel=0.05)
    assert rows["codes as int16, 6.4 kb/s"][0].strip() == "1.7 GB"  # 8 x 2 bytes at 50 Hz for 580 h: smoke's grid
    with pytest.raises(RecordError, match="no record of mini train_gflop_forward: count it with `ms-core cost`"):
        cost_table(records, "smoke", "mini")


def test_the_committed_records_make_a_table() -> None:
    records = read_records(paths.results("paper") / "cost.json")
    assert {r.preset for r in records} == {"paper", "mini"}
    assert "| one pass, A100 hours |" in cost_table(records)
