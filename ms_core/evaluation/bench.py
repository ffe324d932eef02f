"""Speed and memory of a synthesiser, by component: RTF (compute seconds / audio seconds) and peak resident memory.

The paper reports one RTF (0.09 on an A100) without saying what it includes. Ours names its parts: text and durations,
the passes of the speech mask decoder, and the codec decoder; enrolling a voice happens once a voice and is apart.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ms_core.checkpoint import total_training_hours
from ms_core.evaluation.eval_set import PROMPT_SECONDS
from ms_core.evaluation.records import Interval, Provenance, Record, bootstrap, unit_of

PASSAGE = (  # ours
    "the old bridge over the river was built of grey stone and every spring the water rose almost to the road "
    "people from the village came to watch it in the evening and the children threw small sticks from one side "
    "and ran across to see them come out on the other while the miller counted the days until the flood would pass"
)
PHONES_PER_SECOND = 13.0  # of the speech of this package: 160 phones take about 12 s
FIRST_WORDS = 12  # of the run that measures how many seconds a word takes


def reset_peak_rss() -> bool:
    """Set the kernel's record of this process's peak memory back to what it holds now; False where that cannot be."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Within it torch has so many threads; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def passage(words: int) -> str:
    """A text of so many words: the passage, from its start again where it ends."""
    known = PASSAGE.split()
    return " ".join(known[i % len(known)] for i in range(max(1, words)))


def text_of_length(tts, voice, seconds: float, seed: int = 0) -> str:
    """A text that takes a synthesiser about `seconds` to say with a voice."""
    first = tts.synthesize(passage(FIRST_WORDS), voice, seed=seed)
    return passage(round(FIRST_WORDS * seconds * tts.sample_rate / len(first)))


@contextmanager
def counting_flops() -> Iterator[Any]:
    """torch's counter of floating-point operations, of which a multiply-add is two: `.get_total_flops()`.

    Products, convolutions and attention count, which is not fused within: the counter does not know the CPU's. Its
    formula for a convolution's gradients forgets groups, so a depthwise one has one of ours.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

    def gradients(grad, x, weight, bias, stride, padding, dilation, transposed, added, groups, needs, **_) -> int:
        return sum(needs[:2]) * conv_flop_count(x, weight, grad, transposed)  # each as dear as the way forward

    ours = {torch.ops.aten.convolution_backward: gradients}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=ours) as counter:
        yield counter


def multiply_adds(tts, seconds: float = 10.0) -> dict[str, float]:
    """Multiply-adds for one second of speech in each exported graph (`ms_core.export.graphs`), by torch's flop counter.

    seconds: length of the utterance; attention makes long ones dearer. `smd` is counted once for each decoding pass of
    the model's steps, with logits at every frame: an upper bound for a layer of several passes. `prompt`, which runs
    once a voice, is spread over the utterance too. Products, convolutions and attention count; norms, tables and the
    Fourier transforms after the codec's network do not. Raises ValueError for a length that is not positive.
    """
    from ms_core.export.graphs import graphs

    if seconds <= 0:
        raise ValueError(f"seconds {seconds}: give a positive length")
    rate = tts.codec.config.frame_rate
    axes = {
        "p": round(PHONES_PER_SECOND * seconds), "q": round(PHONES_PER_SECOND * PROMPT_SECONDS),
        "s": round(rate * PROMPT_SECONDS), "t": round(rate * seconds), "r": round(rate * seconds),
    }  # fmt: skip
    axes = {name: max(length, 2) for name, length in axes.items()}
    counts = {}
    for name, graph in graphs(tts.model, tts.codec, tts.decoding.copy_sharpness).items():
        inputs = {}
        for key, example in graph.inputs.items():
            shape = [axes.get(graph.axes[key].get(axis), length) for axis, length in enumerate(example.shape)]
            inputs[key] = example.new_ones(shape)
        with counting_flops() as counter, torch.inference_mode():
            graph.module(**inputs)
        runs = sum(tts.decoding.steps) if name == "smd" else 1
        counts[name] = runs * counter.get_total_flops() / 2 / seconds  # a multiply-add is two operations
    return counts


def multiply_add_records(counts: dict[str, float], provenance: Provenance, system: str, seconds: float) -> list[Record]:
    """Records of `multiply_adds`, in millions: `multiply_adds_<graph>` and `_total`."""
    return [
        Record(**provenance.model_dump(), study="bench", system=system, seconds=seconds, n=1,
               metric=f"multiply_adds_{name}", value=value / 1e6, unit="million a second of speech",
               protocol="counted, not timed: products, convolutions and attention of the exported graphs")
        for name, value in {**counts, "total": sum(counts.values())}.items()
    ]  # fmt: skip


def bench_records(
    result: dict[str, object], provenance: Provenance, system: str, seconds: float, precision: str | None = None
) -> list[Record]:
    """Records of a condition that `sweep.sweep` timed, of about `seconds` of speech.

    rtf_total, rtf_<part>, rtf_smd_pass, audio_seconds and peak_rss_mb.
    """
    audio, peaks = result["audio_seconds"], result["peak_rss_mb"]
    note = "conditions in turns; peak memory apart from the time, what was free given back before"
    note += f"; torch's autocast to {precision}" if precision else ""
    about = (
        f"about {seconds:g} s of speech ({audio:.2f} s) after a warm-up; rtf_total is text to waveform with the voice "
        f"enrolled; rtf_voice is enrolment over the same audio; interval over repeats; {note}"
    )
    series = {
        f"rtf_{name}": values for name, values in result.items() if isinstance(values, list) and values is not peaks
    }
    if result.get("passes") and "smd" in result:
        series["rtf_smd_pass"] = [value / result["passes"] for value in result["smd"]]
    whole = "peak resident memory of the whole process" + (" since the start of the bench" * result["rss_was_reset"])
    rows = [
        (name, bootstrap([v / audio for v in values], seed=0), len(values), about) for name, values in series.items()
    ]
    rows.append(("audio_seconds", Interval(audio, None, None), 1, f"of the text that was spoken; {note}"))
    rows.append(("peak_rss_mb", bootstrap(peaks, seed=0), len(peaks), f"{whole}; {note}"))
    common = {**provenance.model_dump(), "study": "bench", "system": system, "seconds": seconds, "precision": precision}
    return [
        Record(**common, **interval.fields(), metric=metric, unit=unit_of(metric), n=n, protocol=how)
        for metric, interval, n, how in rows
    ]


def footprint(weights: Path) -> dict[str, float]:
    """`params` and `size_mb` (10^6 bytes) of a safetensors file, from its header alone."""
    with safe_open(weights, "np") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    return {"params": sum(math.prod(shape) for shape in shapes), "size_mb": Path(weights).stat().st_size / 1e6}


def footprint_records(weights: Path, provenance: Provenance, system: str) -> list[Record]:
    """Records of `footprint`."""
    return [
        Record(
            **provenance.model_dump(),
            metric=metric,
            value=value,
            unit=unit_of(metric),
            n=1,
            study="model",
            system=system,
            protocol=f"counted from {Path(weights).name}, buffers included",
        )
        for metric, value in footprint(weights).items()
    ]


def training_records(trained: Mapping[str, object], provenance: Provenance, system: str) -> list[Record]:
    """The record `training_hours`; none where the checkpoint does not say.

    trained: what a checkpoint says of its training, see `checkpoint.read_provenance`.
    """
    if "training_hours" not in trained:
        return []
    how = "wall time told by the checkpoint, with that of the checkpoints it started from; the codec's is apart"
    return [
        Record(**provenance.model_dump(), metric="training_hours", value=total_training_hours(trained), system=system,
               unit=unit_of("training_hours"), n=1, study="model", protocol=how)
    ]  # fmt: skip
