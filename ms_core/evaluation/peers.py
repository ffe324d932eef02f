"""Speed beside peers: networks of their published shapes (`peer_shapes`), random weights, in turns with ours.

A peer is timed by a few units (one step, one pass), each of which its published decoding runs so and so many times.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ms_core.evaluation.bench import PHONES_PER_SECOND, text_of_length, torch_threads
from ms_core.evaluation.peer_shapes import MEL_RATE, MELS, SoundStormShape, ValleShape, ZipVoiceShape
from ms_core.evaluation.records import Provenance, Record, bootstrap, unit_of
from ms_core.synthesis import PROMPT_SECONDS


class PeerError(ValueError):
    """A comparison that cannot be made; the message says what was given and what is allowed."""


@dataclass(frozen=True)
class Plan:
    """What one utterance costs: units that can be run alone, and how often each system runs each of them."""

    units: dict[str, Callable[[], object]]
    counts: dict[str, dict[str, float]]  # system without peer/ -> unit -> times


CONTEXTS = 5  # lengths of the cache at which a step is timed; between them its cost is interpolated


def valle_plan(model: ValleShape, prompt: float, seconds: float) -> Plan:
    """One pass over phones and prompt, a step for every frame of output, and a pass for each layer above the first."""
    frames, given = max(2, round(model.rate * seconds)), max(1, round(model.rate * prompt))
    phones = torch.zeros(1, max(1, round(PHONES_PER_SECOND * (prompt + seconds))), dtype=torch.long)
    start = phones.shape[1] + given
    cache = model.new_cache(start + frames)
    codes = torch.zeros(1, model.n_q, given + frames, dtype=torch.long)
    positions = np.arange(start, start + frames)
    contexts = np.unique(np.linspace(start, start + frames - 1, CONTEXTS).round().astype(int))
    share = [np.interp(positions, contexts, row).sum() for row in np.eye(len(contexts))]  # of the steps, by context
    units = {"prefill": lambda: model.prefill(phones, codes[:, 0, :given], cache)}
    units |= {f"step at {c}": lambda c=int(c): model.step(codes[:, 0, :1], cache, c) for c in contexts}
    middle = max(1, model.n_q // 2)  # layers that are known in the pass that is timed
    units["pass"] = lambda: model.fill(phones, codes[..., :given], codes[:, :middle, given:])
    counts = {"prefill": 1.0, **{f"step at {c}": float(s) for c, s in zip(contexts, share, strict=True)}}
    return Plan(units, {"vall-e-shape": {**counts, "pass": float(model.n_q - 1)}})


def soundstorm_plan(model: SoundStormShape, prompt: float, seconds: float) -> Plan:
    """16 passes for the first level and one for each other, over prompt and output."""
    frames = max(1, round(model.rate * (prompt + seconds)))
    codes = torch.zeros(1, model.levels, frames, dtype=torch.long)
    return Plan({"pass": lambda: model(codes[:, 0], codes, 0)}, {"soundstorm-shape": {"pass": 16.0 + model.levels - 1}})


def _flow_plan(model: nn.Module, prompt: float, seconds: float, counts: dict[str, int]) -> Plan:
    frames = max(1, round(MEL_RATE * (prompt + seconds)))
    mels, text = torch.zeros(1, frames, MELS), torch.zeros(1, frames, model.text_dim)
    moment = torch.full((1,), 0.5)
    return Plan(
        {"pass": lambda: model(mels, mels, text, moment)},
        {system: {"pass": float(count)} for system, count in counts.items()},
    )


def zipvoice_plan(model: ZipVoiceShape, prompt: float, seconds: float) -> Plan:
    """16 function evaluations of two passes; 8 or 4 of one where guidance is distilled."""
    counts = {"zipvoice-shape-16nfe": 32, "zipvoice-distill-shape-8nfe": 8, "zipvoice-distill-shape-4nfe": 4}
    return _flow_plan(model, prompt, seconds, counts)


class Peer(NamedTuple):
    """A network of a published shape, how it decodes, and what of the system is not counted."""

    build: Callable[[], nn.Module]
    plan: Callable[[nn.Module, float, float], Plan]
    left_out: str


PEERS = {
    "vall-e": Peer(ValleShape, valle_plan, "phonemiser, sampling and EnCodec"),
    "soundstorm": Peer(SoundStormShape, soundstorm_plan, "the model of semantic tokens, sampling and SoundStream"),
    "zipvoice": Peer(ZipVoiceShape, zipvoice_plan, "text encoder, mel analysis of the prompt and Vocos"),
}


def count_params(model: nn.Module) -> int:
    """Parameters of a module, which may lie on the meta device."""
    return sum(parameter.numel() for parameter in model.parameters())


@dataclass(frozen=True)
class Comparison:
    """One system beside ours: compute seconds of an utterance in every turn, by each."""

    system: str
    theirs: list[float]
    ours: list[float]
    audio_seconds: float
    params: int
    counts: dict[str, float]
    left_out: str


def compare(
    tts,
    prompt: np.ndarray | Path,
    prompt_text: str,
    seconds: float = 10.0,
    threads: int = 1,
    repeats: int = 5,
    seed: int = 0,
    peers: dict[str, Peer] | None = None,
) -> list[Comparison]:
    """Time our synthesiser and every peer in turns: ours, peer, ours, peer, ...; text, prompt and voice as in `bench`.

    Every turn runs ours whole and each unit of the peer once; the peer speaks as many seconds as ours did. One network
    is in memory at a time (up to 1.4 GB). Raises PeerError for a length, thread or repeat count below one.
    """
    if seconds <= 0 or threads < 1 or repeats < 1:
        raise PeerError(f"seconds {seconds}, threads {threads}, repeats {repeats}: all must be positive")
    with torch_threads(threads):
        voice = tts.voice(prompt, text=prompt_text)
        text = text_of_length(tts, voice, seconds, seed)
        found = []
        for peer in (PEERS if peers is None else peers).values():
            audio_seconds = len(tts.synthesize(text, voice, seed=seed)) / tts.sample_rate  # warm-up, too
            with torch.random.fork_rng(devices=[]), torch.inference_mode():
                torch.manual_seed(seed)
                model = peer.build().eval()
                found += _turns(tts, voice, text, seed, repeats, audio_seconds, model, peer)
            del model
        return found


def _turns(tts, voice, text, seed, repeats, audio_seconds, model, peer) -> list[Comparison]:
    plan = peer.plan(model, PROMPT_SECONDS, audio_seconds)
    for unit in plan.units.values():
        unit()  # warm-up
    ours, units = [], {name: [] for name in plan.units}
    for _ in range(repeats):
        start = time.perf_counter()
        tts.synthesize(text, voice, seed=seed)
        ours.append(time.perf_counter() - start)
        for name, unit in plan.units.items():
            start = time.perf_counter()
            unit()
            units[name].append(time.perf_counter() - start)
    found = []
    for system, counts in plan.counts.items():
        theirs = [sum(count * units[name][turn] for name, count in counts.items()) for turn in range(repeats)]
        params = count_params(model)
        found.append(Comparison(system, theirs, ours, audio_seconds, params, counts, peer.left_out))
    return found


def _units_in_words(counts: dict[str, float], repeats: int) -> str:
    steps = {name: count for name, count in counts.items() if name.startswith("step at ")}
    plural = {"pass": "passes", "prefill": "passes over text and prompt"}
    words = [f"{repeats} {plural[name]} timed, {n:g} counted" for name, n in counts.items() if name not in steps]
    if steps:
        contexts = ", ".join(name.removeprefix("step at ") for name in steps)
        words.append(
            f"{repeats * len(steps)} steps timed, {repeats} each at {contexts} positions, {sum(steps.values()):.0f} "
            "counted, interpolated between"
        )
    return "; ".join(words)


def comparison_records(found: Sequence[Comparison], provenance: Provenance, ours: str, seconds: float) -> list[Record]:
    """Records of `compare`: rtf_total, time_ratio and params of `peer/<system>`.

    provenance: of the run with ours, the system that the ratio divides by; the peers' records name no checkpoint.
    """
    apart = provenance.model_dump() | {"config_hash": None, "checkpoint_sha256": None, "codec_sha256": None}
    records = []
    for one in found:
        repeats, system = len(one.theirs), f"peer/{one.system}"
        how = (
            f"random weights at the published sizes ({one.params / 1e6:.0f} M parameters); "
            f"{one.audio_seconds:.2f} s of speech, prompt of {PROMPT_SECONDS:g} s; "
            f"{_units_in_words(one.counts, repeats)}; not counted: {one.left_out}"
        )
        ratios = [theirs / ours for theirs, ours in zip(one.theirs, one.ours, strict=True)]
        ratio_how = (
            f"compute time over that of {ours} (text to waveform, voice enrolled), in turns in one run; "
            f"interval over {repeats} turns, which lie between {min(ratios):.1f} and {max(ratios):.1f}; {how}"
        )
        measured = {
            "rtf_total": ([seconds / one.audio_seconds for seconds in one.theirs], f"{how}; interval over repeats"),
            "time_ratio": (ratios, ratio_how),
        }
        for metric, (values, protocol) in measured.items():
            value = bootstrap(values, seed=0)
            records.append(
                Record(**apart, study="bench", system=system, seconds=seconds, metric=metric, unit=unit_of(metric),
                       **value.fields(), n=repeats, protocol=protocol)
            )  # fmt: skip
        counted = f"counted from the network that was timed; not in it: {one.left_out}"
        records.append(
            Record(**apart, study="model", system=system, metric="params", unit=unit_of("params"), value=one.params,
                   n=1, protocol=counted)
        )  # fmt: skip
    return records
