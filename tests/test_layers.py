"""Attention, rotary positions, Conformer blocks: what padding must not do, what a cache must."""

import pytest
import torch
from conftest import stir
from jaxtyping import TypeCheckError

from ms_core.layers import Attention, ChannelDropout, ConformerBlock, ConvModule, lengths_to_mask, rotary


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def block(prefix: bool = False) -> ConformerBlock:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = ConformerBlock(16, 2, 2, 5, 0.1, prefix).eval()
    stir(module, 1)
    return module


def test_lengths_to_mask() -> None:
    expected = [[True, True, False], [False, False, False], [True, True, True]]
    assert lengths_to_mask(torch.tensor([2, 0, 3]), 3).tolist() == expected


def test_rotary_turns_by_position_alone() -> None:
    x = noise(1, 2, 6, 8)
    assert torch.equal(rotary(x[:, :, :1], 0), x[:, :, :1])
    assert torch.allclose(rotary(x, 5).norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    # scores depend on the distance of two positions, not on where they are
    query, key = x[:, :, :1], x[:, :, 1:2]
    near = (rotary(query, 3) * rotary(key, 1)).sum(-1)
    assert torch.allclose((rotary(query, 1003) * rotary(key, 1001)).sum(-1), near, atol=1e-3)
    assert not torch.allclose((rotary(query, 3) * rotary(key, 0)).sum(-1), near, atol=1e-3)
    assert torch.allclose(rotary(x, 0)[:, :, 2:], rotary(x[:, :, 2:], 2), atol=1e-6)


def test_rotary_with_a_start_for_each_example() -> None:
    x = noise(2, 2, 4, 8)
    each = torch.cat([rotary(x[:1], -4), rotary(x[1:], 7)])
    assert torch.equal(rotary(x, torch.tensor([-4, 7])), each)


def test_a_block_computes_the_same_in_training() -> None:
    """The faster operators of a training on a CPU are the ordinary ones, in fp32 and up to the rounding of bf16."""
    module, x, mask = block(True), noise(2, 9, 16), lengths_to_mask(torch.tensor([9, 6]), 9)
    module.add.rate = 0.0
    cache = module.attention.prompt_cache(noise(2, 4, 16, seed=1), torch.tensor([4, 2]))
    real = lengths_to_mask(torch.tensor([4, 2]), 4)
    expected = module(x, mask, cache, real)[mask]
    module.train()
    assert torch.allclose(module(x, mask, cache, real)[mask], expected, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        cache = module.attention.prompt_cache(noise(2, 4, 16, seed=1), torch.tensor([4, 2]))
        assert torch.allclose(module(x, mask, cache, real)[mask].float(), expected, atol=0.05)


def test_whole_channels_of_a_branch_are_dropped() -> None:
    add, x, branch = ChannelDropout(0.25), torch.zeros(64, 5, 32), torch.ones(64, 5, 32)
    torch.manual_seed(0)
    kept = add(x, branch, 0.5)
    assert torch.equal(kept, kept[:, :1].expand_as(kept))  # all frames of an example alike
    assert set(kept.unique().tolist()) == {0.0, torch.tensor(0.5 / 0.75).item()}
    assert kept.mean().item() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(add.eval()(x, branch, 0.5), branch / 2)


@pytest.mark.parametrize("prefix", [False, True])
def test_a_block_sees_neither_padding_nor_batch_mates(prefix: bool) -> None:
    module = block(prefix)
    a, b = noise(1, 4, 16, seed=1), noise(1, 7, 16, seed=2)
    mask = lengths_to_mask(torch.tensor([4, 7]), 7)
    for filling in (0.0, 100.0):
        both = torch.cat([torch.cat([a, torch.full((1, 3, 16), filling)], 1), b])
        caches = [(None, None)] * 3
        if prefix:
            p, q = noise(1, 3, 16, seed=3), noise(1, 5, 16, seed=4)
            padded = torch.cat([torch.cat([p, torch.full((1, 2, 16), filling)], 1), q])
            lengths = torch.tensor([3, 5])
            caches = [
                (module.attention.prompt_cache(padded, lengths), lengths_to_mask(lengths, 5)),
                (module.attention.prompt_cache(p), torch.ones(1, 3, dtype=torch.bool)),
                (module.attention.prompt_cache(q), torch.ones(1, 5, dtype=torch.bool)),
            ]
        y = module(both, mask, *caches[0])
        assert torch.allclose(y[:1, :4], module(a, mask[:1, :4], *caches[1]), atol=1e-5)
        assert torch.allclose(y[1:], module(b, mask[1:], *caches[2]), atol=1e-5)


def test_no_mask_means_that_all_is_real() -> None:
    module = block(prefix=True)
    x, prompt = noise(2, 5, 16), noise(2, 3, 16, seed=1)
    cache = module.attention.prompt_cache(prompt)
    masked = module(x, torch.ones(2, 5, dtype=torch.bool), cache, torch.ones(2, 3, dtype=torch.bool))
    assert torch.allclose(module(x, None, cache), masked, atol=1e-6)


def test_the_convolution_reaches_half_its_kernel() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = ConvModule(8, 5).eval()
    x = noise(1, 9, 8)
    changed = x.clone()
    changed[:, 4] = noise(8, seed=1)
    differs = (module(x, None) - module(changed, None)).abs().amax(-1)[0] > 1e-5
    assert differs.tolist() == [2 <= t <= 6 for t in range(9)]


def test_a_prefix_is_attention_over_prompt_and_sequence() -> None:
    """Against the formula, with the prompt at positions -3, -2, -1."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Attention(8, 1, prefix=True)
    x, prompt = noise(1, 4, 8), noise(1, 3, 8, seed=1)
    out = module(x, torch.ones(1, 4, dtype=torch.bool), module.prompt_cache(prompt), torch.ones(1, 3, dtype=torch.bool))
    key, value = torch.cat([module.prompt_key_value(prompt), module.key_value(x)], 1).chunk(2, -1)
    key, query = rotary(key[:, None], -3)[0, 0], rotary(module.query(x)[:, None], 0)[0, 0]
    weight = (query @ key.T / 8**0.5).softmax(-1)
    assert torch.allclose(out[0], module.out(weight @ value[0]), atol=1e-5)


def test_cross_attention_has_no_positions_and_ignores_the_masked() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Attention(16, 2)
    x, context = noise(1, 4, 16), noise(1, 5, 16, seed=1)
    mask = torch.tensor([[True, True, True, False, False]])
    out = module.cross(x, module.keys_values(context), mask)
    assert torch.allclose(out, module.cross(x, module.keys_values(context[:, :3]), mask[:, :3]), atol=1e-6)
    turned = context[:, [2, 0, 1, 4, 3]]
    assert torch.allclose(out, module.cross(x, module.keys_values(turned), mask), atol=1e-6)
    assert module.prompt_key_value is None


def test_shapes_are_checked_while_the_tests_run() -> None:
    with pytest.raises(TypeCheckError, match="x"):
        rotary(torch.zeros(2, 3, 4), 0)
