"""The three mask regimes, and iterative parallel decoding."""

import math
from copy import deepcopy

import pytest
import torch
from conftest import MODEL, global_rng_untouched, stir
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_core.additions import GAIN, CodebookPrior, PromptCopy
from ms_core.config import MaskConfig
from ms_core.layers import lengths_to_mask
from ms_core.prompt import Condition, PromptStates
from ms_core.smd import SpeechMaskDecoder, apply_mask, draw_masks

N, BINS, DIM = 3, 32, MODEL.dim
MASK = BINS


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture(scope="module")
def decoder() -> SpeechMaskDecoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = SpeechMaskDecoder(MODEL, N, BINS, noise(N, BINS, 8)).eval()
    stir(decoder, 1)
    return decoder


def prompt_of(decoder: SpeechMaskDecoder, *lengths: int, seed: int = 5) -> PromptStates:
    """Prompt states of the given lengths, with a prefix for every layer of the decoder and codes to copy from."""
    longest = max(lengths)
    states = torch.cat(
        [torch.cat([noise(1, s, DIM, seed=s), torch.full((1, longest - s, DIM), 9.0)], 1) for s in lengths]
    )
    mask = lengths_to_mask(torch.tensor(lengths), longest)
    prefix = tuple(block.attention.prompt_cache(states, torch.tensor(lengths)) for block in decoder.blocks)
    codes = torch.cat([(noise(1, N, 64, seed=s)[..., :longest].abs() * BINS / 4).long() for s in lengths])
    codes = codes.clamp_max(BINS - 1)
    copy = decoder.copy.keys(states), decoder.prior.partial_sums(codes)
    return PromptStates(mask, torch.zeros(len(lengths), DIM), None, prefix, copy)


# -- masks ------------------------------------------------------------------------------------------------------------


def draws(config: MaskConfig, count: int = 4000, frames: int = 200, seed: int = 0):
    real = torch.ones(count, frames, dtype=torch.bool)
    return draw_masks(real, 8, config, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("law", ["uniform", "lead", "linear", "harmonic"])
def test_layers_are_drawn_by_p_rank(law: str) -> None:
    config = MaskConfig(p_rank=law)
    layer, _ = draws(config)
    share = torch.bincount(layer, minlength=8) / len(layer)
    expected = torch.tensor(config.rank_probabilities(8))
    sigma = (expected * (1 - expected) / len(layer)).sqrt()
    assert ((share - expected).abs() < 4 * sigma).all()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.75, 1.0])
def test_layer_1_is_wholly_masked_with_probability_1_minus_alpha(alpha: float) -> None:
    layer, masked = draws(MaskConfig(alpha=alpha))
    whole = masked.all(1)
    first = layer == 0
    # cos(u) > 1 - 1/200 for u < 0.1: at 200 frames a partial mask is hardly ever full (about 3 %)
    chance = (1 - alpha) + alpha * whole[~first].float().mean()
    assert float(whole[first].float().mean()) == pytest.approx(float(chance), abs=0.06)
    assert whole[~first].float().mean() < 0.1  # a higher layer is always partly masked


def test_partial_masks_have_the_ratio_cos_u() -> None:
    layer, masked = draws(MaskConfig(alpha=1.0))
    ratio = masked.float().mean(1)
    # u ~ U[0, pi/2]: the mean of cos(u) is 2/pi, and P(cos(u) < r) = 1 - arccos(r) / (pi/2)
    for chosen in (layer == 0, layer > 0):
        assert float(ratio[chosen].mean()) == pytest.approx(2 / math.pi, abs=0.03)
        for r in (0.25, 0.5, 0.75, 0.9):
            below = float((ratio[chosen] < r).float().mean())
            assert below == pytest.approx(1 - math.acos(r) / (math.pi / 2), abs=0.05)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(0, 999), st.floats(0, 1))
def test_at_least_one_real_frame_is_masked_and_no_padding(lengths: list[int], seed: int, alpha: float) -> None:
    frames = lengths_to_mask(torch.tensor(lengths), max(lengths))
    with global_rng_untouched():
        layer, masked = draw_masks(frames, N, MaskConfig(alpha=alpha), torch.Generator().manual_seed(seed))
    assert not (masked & ~frames).any()
    assert masked.any(1).all()
    assert layer.shape == (len(lengths),)
    assert 0 <= int(layer.min()) <= int(layer.max()) < N
    again = draw_masks(frames, N, MaskConfig(alpha=alpha), torch.Generator().manual_seed(seed))
    assert torch.equal(layer, again[0])
    assert torch.equal(masked, again[1])


def test_apply_mask_shows_what_figure_1_shows() -> None:
    codes = torch.arange(3 * 4 * 5).reshape(3, 4, 5) % BINS
    masked = torch.tensor([[True] * 5, [True, False, True, False, False], [False, False, False, False, True]])
    grid = apply_mask(codes, torch.tensor([0, 2, 3]), masked, MASK)
    assert (grid[0] == MASK).all()  # P_{1-alpha}: nothing is known
    assert torch.equal(grid[1, :2], codes[1, :2])  # below the chosen layer: all
    assert torch.equal(grid[1, 2] == MASK, masked[1])
    assert torch.equal(grid[1, 2][~masked[1]], codes[1, 2][~masked[1]])
    assert (grid[1, 3] == MASK).all()  # above it: nothing
    assert (grid == MASK)[2].sum() == 1


# -- the decoder ------------------------------------------------------------------------------------------------------


def test_mask_has_an_embedding_of_its_own_in_every_layer(decoder) -> None:
    grid = torch.full((1, N, 1), MASK)
    all_masked = decoder.embed(grid)
    for layer in range(N):
        one = grid.clone()
        one[:, layer] = 0
        assert not torch.allclose(decoder.embed(one), all_masked)
    assert torch.allclose(
        all_masked[0, 0] - decoder.prior.in_proj.bias,
        sum(decoder.embedding.weight[layer * (BINS + 1) + MASK] for layer in range(N)),
        atol=1e-5,
    )


def test_logits_see_neither_padding_nor_batch_mates(decoder) -> None:
    text, codes = noise(2, 7, DIM), torch.randint(0, BINS + 1, (2, N, 7), generator=torch.Generator().manual_seed(0))
    mask = lengths_to_mask(torch.tensor([4, 7]), 7)
    layer = torch.tensor([2, 0])
    text[0, 4:] = 50.0
    logits, residual = decoder(Condition(text, prompt_of(decoder, 3, 6)), codes, layer, mask)
    for b, (t, s) in enumerate(((4, 3), (7, 6))):
        part = slice(b, b + 1)
        alone = decoder(
            Condition(text[part, :t], prompt_of(decoder, s)), codes[part, :, :t], layer[part], mask[part, :t]
        )
        assert torch.allclose(logits[part, :t], alone[0], atol=2e-4)
        assert torch.allclose(residual[part, :t], alone[1], atol=2e-4)


def test_the_prior_is_a_gaussian_around_the_predicted_residual() -> None:
    books = noise(N, BINS, 4)
    prior = CodebookPrior(8, books)
    with torch.no_grad():
        prior.norm_weight.fill_(1 / GAIN)
        prior.log_precision.zero_()
    x, layer = noise(2, 5, 8, seed=1), torch.tensor([0, 2])
    logits, residual = prior(x, layer)
    for b in range(2):
        scaled = (residual[b, :, None] - books[layer[b]]) / prior.scale[layer[b]]  # (t, bins, c)
        expected = -scaled.square().sum(-1) / 2
        gap = logits[b] - expected
        assert torch.allclose(gap, gap[:, :1].expand(-1, BINS), atol=1e-4)  # equal up to a constant of each frame
    codes = torch.tensor([[[1], [MASK], [3]]])
    assert torch.allclose(prior.known(codes)[0, 0], books[0, 1] + books[2, 3])


# -- copying from the prompt ------------------------------------------------------------------------------------------


def test_a_frame_copies_what_its_twin_in_the_prompt_has(decoder) -> None:
    """With content switched off and nearness made sharp, the found frame is the one with the same lower layers."""
    copy, prior = PromptCopy(DIM, 2, decoder.prior.scale), decoder.prior
    with torch.no_grad():
        copy.query.weight.zero_()
        copy.query.bias.zero_()
        copy.bandwidth.fill_(1e-4)
        copy.gate[:, :, 0] = 1 / 2  # two heads that find the same
        copy.gate[:, :, 1] = 0.0
    codes = torch.arange(N * 10).reshape(1, N, 10) % BINS  # no two frames share a layer's code
    sums = prior.partial_sums(codes)
    keys = copy.keys(noise(1, 10, DIM))
    order = torch.tensor([3, 9, 0, 5])
    for layer in range(1, N):
        known = sums[:, layer, order]
        x, copied = copy(
            noise(1, 4, DIM), known, torch.tensor([layer]), keys, sums, torch.ones(1, 10, dtype=torch.bool)
        )
        above = (sums[:, -1] - sums[:, layer])[:, order] / prior.scale[layer]
        assert torch.allclose(copied, above, atol=1e-4)
        assert torch.equal(x, noise(1, 4, DIM))  # the way into the states starts closed
    with torch.no_grad():
        copy.gate[:, :, 0] = 0.0
        copy.gate[:, :, 1] = 1 / 2
    wrong = (
        known + 0.01 * prior.scale[0]
    )  # the same frames are found, and what is lacking to reach them is more than above
    _, copied = copy(noise(1, 4, DIM), wrong, torch.tensor([N - 1]), keys, sums, None)
    assert torch.allclose(copied * prior.scale[N - 1] + wrong, sums[:, -1, order], atol=1e-4)


def test_where_nothing_is_known_a_frame_copies_what_its_words_have(decoder) -> None:
    """With the states off and scores of content made sharp, the found frame is the one in which the same is said."""
    copy = PromptCopy(DIM, 2, decoder.prior.scale)
    with torch.no_grad():
        copy.query.weight.zero_()
        copy.query.bias.zero_()
        copy.content_weight.fill_(1e3 / GAIN)
        copy.gate[:, :, 0] = 1 / 2
        copy.gate[:, :, 1] = 0.0
    sums = decoder.prior.partial_sums(torch.arange(N * 10).reshape(1, N, 10) % BINS)
    text, order = noise(1, 10, DIM), torch.tensor([3, 9, 0, 5])
    content_scores = copy.content_scores(text[:, order], copy.content_keys(text))
    given = torch.zeros(1, 4, 8), torch.tensor([0]), copy.keys(noise(1, 10, DIM, seed=1)), sums, None
    _, copied = copy(noise(1, 4, DIM), *given, content_scores)
    assert torch.allclose(copied * decoder.prior.scale[0], sums[:, -1, order], atol=1e-4)
    assert not torch.allclose(copy(noise(1, 4, DIM), *given)[1], copied, atol=0.1)


def test_what_a_frame_does_not_trust_is_not_copied(decoder) -> None:
    """Trust is a factor from 0 to 2 for each head and kind; the peak of the weights has a part in it."""
    copy = PromptCopy(DIM, 2, decoder.prior.scale)
    sums = decoder.prior.partial_sums(torch.arange(N * 10).reshape(1, N, 10) % BINS)  # no two frames share a code
    keys = copy.keys(noise(1, 10, DIM))

    def copied() -> torch.Tensor:
        return copy(noise(1, 5, DIM), sums[:, 1, :5], torch.tensor([1]), keys, sums, None)[1]

    plain = copied()
    with torch.no_grad():
        copy.copy_gate.bias.fill_(-50.0)
        assert copied().abs().max() < 1e-6 < plain.abs().max()
        copy.copy_gate.bias.fill_(50.0)
        assert torch.allclose(copied(), 2 * plain, atol=1e-5)
        copy.copy_gate.bias.zero_()
        copy.bandwidth.fill_(1e-6)  # each head finds the one frame that is the same: its peak is 1
        found = copied()
        copy.copy_gate.weight[:, DIM:] = 5.0
        assert torch.allclose(copied(), 2 * torch.sigmoid(torch.tensor(10.0)) * found, atol=1e-5)


def test_padding_of_the_prompt_is_never_copied(decoder) -> None:
    prompt = prompt_of(decoder, 4, 9)
    arguments = noise(2, 5, DIM), noise(2, 5, 8), torch.tensor([1, 2])
    _, copied = decoder.copy(*arguments, *prompt.copy, prompt.mask)
    keys, latents = (x.clone() for x in prompt.copy)
    keys[0, :, 4:], latents[0, :, 4:] = 50.0, 50.0
    _, again = decoder.copy(*arguments, keys, latents, prompt.mask)
    assert torch.equal(copied, again)


def test_partial_sums_are_the_code_vectors_layer_by_layer(decoder) -> None:
    codes = torch.randint(BINS, (2, N, 6), generator=torch.Generator().manual_seed(0))
    sums = decoder.prior.partial_sums(codes)
    assert sums.shape == (2, N + 1, 6, 8) and not sums[:, 0].any()
    for layer in range(N):
        added = sums[:, layer + 1] - sums[:, layer]
        assert torch.allclose(added, decoder.prior.codebooks[layer, codes[:, layer]], atol=1e-5)
    assert torch.allclose(sums[:, -1], decoder.prior.known(codes), atol=1e-5)


def test_sharpness_narrows_what_is_copied(decoder) -> None:
    copy, prompt = deepcopy(decoder.copy), prompt_of(decoder, 9)
    known = prompt.copy[1][:, 2, [2]]  # of layers 1 and 2 in frame 2 of the prompt

    def distance(sharpness: float) -> float:
        _, copied = copy(noise(1, 1, DIM), known, torch.tensor([2]), *prompt.copy, prompt.mask, None, sharpness)
        exact = (prompt.copy[1][:, -1] - prompt.copy[1][:, 2])[:, [2]] / copy.scale[2]
        return float((copied - copy.gate[2].sum(0)[0] * exact).detach().norm())

    with torch.no_grad():
        copy.gate[2, :, 1] = 0.0
        copy.copy_gate.weight.zero_()
        copy.copy_gate.bias.zero_()
    assert distance(1000.0) < 1e-2 < distance(0.01)
