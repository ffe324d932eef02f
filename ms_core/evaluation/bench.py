"""What benches share: texts of a length, turns, threads, counts of operations and sizes; records of what is counted.

The paper reports one RTF (0.09 on an A100) without saying what it includes. Ours names its parts: text and durations,
the passes of the speech mask decoder, and the codec decoder; enrolling a voice happens once a voice and is apart.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open

from ms_core.checkpoint import total_training_hours
from ms_core.evaluation.eval_set import PROMPT_SECONDS
from ms_core.evaluation.records import Provenance, Record, bootstrap

PASSAGE = (  # ours
    "the old bridge over the river was built of grey stone and every spring the water rose almost to the road "
    "people from the village came to watch it in the evening and the children threw small sticks from one side "
    "and ran across to see them come out on the other while the miller counted the days until the flood would pass"
)
PHONES_PER_SECOND = 13.0  # of the speech of this package: 160 phones take about 12 s
FIRST_WORDS = 12  # of the run that measures how many seconds a word takes
Key = TypeVar("Key")
Value = TypeVar("Value")


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Within it torch has so many threads; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_turns(runs: Mapping[Key, Callable[[], Value]], repeats: int, threads: int = 1) -> dict[Key, list[Value]]:
    """What each run returns in `repeats` rounds, in which all take turns, so that a busy machine slows all alike.

    A round before, in which all warm up, is not counted. threads: of torch.
    """
    with torch_threads(threads):
        rounds = [{key: run() for key, run in runs.items()} for _ in range(1 + repeats)][1:]
    return {key: [values[key] for values in rounds] for key in runs}


def seconds_of(run: Callable[[], object]) -> float:
    """How long something takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


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
    frames, counts = tts.codec.config.frame_rate, {}
    axes = {"p": PHONES_PER_SECOND * seconds, "q": PHONES_PER_SECOND * PROMPT_SECONDS, "s": frames * PROMPT_SECONDS}
    axes |= {"t": frames * seconds, "r": frames * seconds}
    lengths = {name: max(2, round(length)) for name, length in axes.items()}
    for name, graph in graphs(tts.model, tts.codec, tts.decoding.copy_sharpness).items():
        inputs = {key: example.new_ones(graph.shape(key, lengths)) for key, example in graph.inputs.items()}
        with counting_flops() as counter, torch.inference_mode():
            graph.module(**inputs)
        runs = sum(tts.decoding.steps) if name == "smd" else 1
        counts[name] = runs * counter.get_total_flops() / 2 / seconds  # a multiply-add is two operations
    return counts


def multiply_add_records(counts: dict[str, float], provenance: Provenance, system: str, seconds: float) -> list[Record]:
    """Records of `multiply_adds`, in millions: `multiply_adds_<graph>` and `_total`."""
    about = {"study": "bench", "system": system, "seconds": seconds, "n": 1, "unit": "million a second of speech"}
    about["protocol"] = "counted, not timed: products, convolutions and attention of the exported graphs"
    counts = {**counts, "total": sum(counts.values())}
    return [provenance.record(n / 1e6, **about, metric=f"multiply_adds_{name}") for name, n in counts.items()]


def footprint(weights: Path) -> dict[str, float]:
    """`params` and `size_mb` (10^6 bytes) of a safetensors file, from its header alone."""
    with safe_open(weights, "np") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    return {"params": sum(math.prod(shape) for shape in shapes), "size_mb": Path(weights).stat().st_size / 1e6}


def footprint_records(weights: Path, provenance: Provenance, system: str) -> list[Record]:
    """Records of `footprint`."""
    about = {"study": "model", "system": system, "n": 1}
    about["protocol"] = f"counted from {Path(weights).name}, buffers included"
    return [provenance.record(value, **about, metric=metric) for metric, value in footprint(weights).items()]


def training_records(trained: Mapping[str, object], provenance: Provenance, system: str) -> list[Record]:
    """The record `training_hours`; none where the checkpoint does not say.

    trained: what a checkpoint says of its training, see `checkpoint.read_provenance`.
    """
    if "training_hours" not in trained:
        return []
    how = "wall time told by the checkpoint, with that of the checkpoints it started from; the codec's is apart"
    about = {"metric": "training_hours", "system": system, "n": 1, "study": "model", "protocol": how}
    return [provenance.record(total_training_hours(trained), **about)]


def speed_records(timings: dict[str, list[float]], provenance: Provenance, processes: int, speech: str) -> list[Record]:
    """Records of `training.speed.measure`: `training_speed` in seconds of speech a second, and each part of a step."""
    how = f"{processes} process(es), {provenance.threads} thread(s) each, {speech}; evaluations and saves left out"
    about = {"study": "cost", "system": f"mobilespeech-{provenance.preset}", "processes": processes, "protocol": how}
    about["n"] = len(timings["total"])
    speed = bootstrap(timings["audio"], timings["total"])
    return [provenance.record(speed, **about, metric="training_speed", unit="s/s")] + [
        provenance.record(bootstrap(values), **about, metric=f"training_step_{name}", unit="s")
        for name, values in timings.items()
    ]
