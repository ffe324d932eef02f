"""Adaptation at enrolment: a few gradient steps on the prompt alone, kept with the voice as low-rank changes.

Not the paper's, and no longer zero-shot: an option, reported in rows of its own. The prompt is cut into pairs of a
shorter prompt and a target, again and again, beside shipped voices, so that the words are kept. What changes are the
matrices of the SMD's blocks, by products of rank `RANK` (LoRA, Hu et al. 2021); text and durations stay.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from ms_core.config import MaskConfig, TrainConfig
from ms_core.layers import lengths_to_mask
from ms_core.smd import draw_masks
from ms_core.synthesis import MobileSpeech
from ms_core.text import phone_ids
from ms_core.tokens import Batch, Voice, VoiceError, shipped_voices
from ms_core.training.pack import Utterances
from ms_core.training.resident import TokenBatches

STEPS, RANK, RATE = 80, 8, 5e-3  # gradient steps, rank of a change, AdamW's learning rate. Chosen on dev-other
EXAMPLES, REHEARSED = 4, 2  # a step: cuts of the prompt, and cuts of shipped voices
SHORTEST = 4.0  # seconds of prompt, of which a part must stay for the target
CUTS = TrainConfig(prompt_seconds=3.0, max_seconds=5.0, other_utterance=0.0, own_prompt=0.0, phrases=0.0)
MASKS = MaskConfig(alpha=0.5, p_rank="linear")


class LowRank(nn.Module):
    """Adds b a to a weight; b begins at zero."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator):
        super().__init__()
        rows, columns = weight.shape
        self.a = nn.Parameter(torch.randn(rank, columns, generator=generator).to(weight.device) * columns**-0.5)
        self.b = nn.Parameter(torch.zeros(rows, rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


def adapt(tts: MobileSpeech, voice: Voice, steps: int = STEPS, seed: int = 0) -> Voice:
    """The same voice with low-rank changes of the decoder that were learnt from its prompt.

    voice: enrolled with some 10 s of prompt. The seed fixes the result. Raises VoiceError for a prompt that is shorter
    than `SHORTEST`, or has fewer than four words to cut between.
    """
    seconds = voice.codes.shape[1] / tts.codec.config.frame_rate
    utterance = ("", np.array(phone_ids(voice.phones)), np.array(voice.durations), voice.codes)
    words = sum(phone in ("_", ",", ".") for phone in voice.phones) - 1
    if seconds < SHORTEST or words < 4:
        raise VoiceError(
            f"a prompt of {seconds:.1f} s and {words} words is too short to adapt to: enrol one of at least "
            f"{SHORTEST:.0f} s and 4 words, and keep up to 10 s of it"
        )
    tts.encode_voice(voice)  # refuses what is not for this model
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(tts.model).requires_grad_(False)
    changes = {}
    for name, layer in model.smd.blocks.named_modules():
        if isinstance(layer, nn.Linear):
            changes[name] = LowRank(layer.weight, RANK, generator)
    for name, change in changes.items():
        register_parametrization(model.smd.blocks.get_submodule(name), "weight", change)
    model.train()  # its dropout, and a CPU's faster attention
    parameters = [p for change in changes.values() for p in change.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: min(1, (k + 1) / 5) * (1 - 0.9 * k / steps))
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        for batch in _batches(tts, utterance, steps, seed):
            real = lengths_to_mask(batch.durations.sum(1), batch.codes.shape[-1])
            with torch.autocast(tts.device.type, torch.bfloat16):
                out = model(batch, *draw_masks(real, tts.n_q, MASKS, generator), latent_weight=1.0)
            optimiser.zero_grad()
            (out["ce"] + out["latent"]).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
    adapter = {
        f"{name}.{part}": getattr(change, part).detach().cpu().numpy().astype(np.float16)
        for name, change in changes.items()
        for part in ("a", "b")
    }
    return Voice(
        voice.codes,
        voice.phones,
        voice.durations,
        voice.token_digest,
        {**voice.meta, "adapted_to": tts.checkpoint, "adapted_steps": str(steps)},
        adapter,
    )


def _batches(tts: MobileSpeech, utterance: tuple, steps: int, seed: int) -> Iterator[Batch]:
    """Cuts of the utterance, and of shipped voices of the same tokens."""
    others = [tts.load_voice(name) for name in shipped_voices()]
    rehearsed = [
        (str(index), np.array(phone_ids(v.phones)), np.array(v.durations), v.codes)
        for index, v in enumerate(others, 1)
        if v.token_digest == tts.token_digest
    ]
    batches = TokenBatches(Utterances.of([utterance, *rehearsed]), tts.codec, CUTS, tts.device)
    generator = torch.Generator(tts.device).manual_seed(seed)
    chosen = torch.zeros(EXAMPLES + REHEARSED, dtype=torch.long, device=tts.device)
    for _ in range(steps):
        if rehearsed:
            chosen[EXAMPLES:] = torch.randint(
                1, len(rehearsed) + 1, (REHEARSED,), generator=generator, device=tts.device
            )
        yield batches.draw(batches.shapes[0], generator, chosen)
