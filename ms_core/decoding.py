"""Iterative parallel decoding, with the schedule of MaskGIT and SoundStorm (paper.md, section 3)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ms_core.prompt import Condition
from ms_core.smd import SpeechMaskDecoder

Generators = Sequence[torch.Generator]


def still_masked(frames: int, step: int, steps: int) -> int:
    """How many of `frames` stay masked after pass `step` (1-based) of `steps`: the cosine schedule."""
    if step >= steps:
        return 0
    return min(math.floor(frames * math.cos(math.pi / 2 * step / steps)), max(frames - step, 0))


def gumbel(shape: Sequence[int], lengths: Sequence[int], generators: Generators, device: torch.device) -> Tensor:
    """Standard Gumbel noise (b, t, ...), each example from its own generator.

    It is drawn on the CPU, so that every device draws the same, and for real frames alone, so that padding is free.
    """
    uniform = torch.full(tuple(shape), 0.5)
    for row, frames, generator in zip(uniform, lengths, generators, strict=True):
        row[:frames] = torch.rand((frames, *shape[2:]), generator=generator)
    return -torch.log(-torch.log(uniform.clamp(1e-10, 1 - 1e-7))).to(device)


@torch.inference_mode()
def fill_grid(
    decoder: SpeechMaskDecoder,
    condition: Condition,
    mask: Bool[Tensor, "b t"],
    steps: Sequence[int],
    generators: Generators,
    temperature: float = 1.0,
    choice_temperature: float = 1.0,
    known: Int[Tensor, "b n t"] | None = None,
    on_pass=None,
) -> Int[Tensor, "b n t"]:
    """Iterative parallel decoding, layer by layer from the lowest.

    In a layer of S > 1 passes each pass draws a token for every masked frame and keeps the surest: the log probability
    of the drawn token plus Gumbel noise, annealed to zero, is ranked; the cosine schedule says how many stay masked.
    A token once kept stays and is fed back. The last pass of a layer, so the only pass of most layers, is greedy.

    Args:
        known: codes (b, n_known, t) of the lowest layers, not to be predicted (true layers for a diagnosis, say).
        on_pass: called as on_pass(layer, step, codes) after every pass, for a picture or a progress bar.
    """
    batch, frames = mask.shape
    codes = torch.full((batch, decoder.n_q, frames), decoder.mask_id, device=mask.device)
    first = 0
    if known is not None:
        first = known.shape[1]
        codes[:, :first] = known
    lengths = mask.sum(1).tolist()
    for layer in range(first, decoder.n_q):
        index = torch.full((batch,), layer, device=mask.device)
        for step in range(1, steps[layer] + 1):
            unknown = (codes[:, layer] == decoder.mask_id) & mask  # (b, t)
            logits, _ = decoder(condition, codes, index, mask)
            logp = logits.float().log_softmax(-1)
            if step == steps[layer]:
                codes[:, layer] = torch.where(unknown, logp.argmax(-1), codes[:, layer])
            else:
                noisy = logp
                if temperature > 0:
                    noisy = logp + temperature * gumbel(logp.shape, lengths, generators, mask.device)
                token = noisy.argmax(-1)  # (b, t): Gumbel-max draws from softmax(logp / temperature)
                confidence = logp.gather(-1, token[..., None])[..., 0]
                noise = choice_temperature * (1 - step / steps[layer])
                if noise > 0:
                    confidence = confidence + noise * gumbel(confidence.shape, lengths, generators, mask.device)
                confidence = confidence.masked_fill(~unknown, torch.inf)
                keep_masked = [still_masked(n, step, steps[layer]) for n in lengths]
                rank = confidence.argsort(dim=1, stable=True).argsort(1)  # 0 is the least sure
                masked = rank < torch.tensor(keep_masked, device=mask.device)[:, None]
                codes[:, layer] = torch.where(unknown & ~masked, token, codes[:, layer])
            if on_pass is not None:
                on_pass(layer, step, codes)
        codes[:, layer] = codes[:, layer].masked_fill(~mask, 0)
    return codes
