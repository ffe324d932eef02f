"""Speed of training: seconds of speech a second, and how long a step's parts take.

It is the product's own loop that runs: data, optimiser, average and log are counted, evaluations and saves are not.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from ms_core.codec.mini import MiniCodec
from ms_core.config import Preset, override
from ms_core.text import PHONES, phone_ids
from ms_core.training.acoustic import AcousticTask, PackTask, training_device
from ms_core.training.loop import Meter, Run
from ms_core.training.pack import Pack, Utterances

PARTS = ("data", "forward", "backward", "optimiser")
WARM_UP = 3  # steps that are not counted: the CPU compiles its products
WORD_PHONES, PHONE_FRAMES, WORDS = 4, 4, 45  # of random speech: utterances of some 15 s at 50 frames a second


def random_pack(preset: Preset, utterances: int = 64, speakers: int = 8, seed: int = 0) -> Pack:
    """Random tokens of a codec with random tables, as much of them as batches of the preset's sizes need."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    codec = MiniCodec(preset.codec).eval()
    for table in (codec.mean, codec.components, codec.books):
        table.copy_(torch.randn(table.shape, generator=generator) * 0.1)
    word = [*phone_ids(["_"]), *([0] * WORD_PHONES)]

    def one(index: int) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
        phones = np.array([*(word * WORDS), word[0]])
        phones[phones == 0] = rng.integers(4, len(PHONES), (phones == 0).sum())
        durations = rng.integers(1, 2 * PHONE_FRAMES, len(phones))
        codes = rng.integers(0, preset.codec.bins, (preset.codec.n_q, durations.sum()))
        return f"s{index % speakers}", phones, durations, codes

    speech, dev = (Utterances.of(one(i) for i in range(n)) for n in (utterances, 2 * speakers))
    hours = round(speech.codes.shape[1] / codec.config.frame_rate / 3600, 3)
    return Pack(speech, dev, codec, {"speech_hours": hours})


class TimedRun(Run):
    """A run that measures the parts of its steps."""

    def __init__(self, task: AcousticTask, accelerator: Accelerator, folder: Path):
        super().__init__(task, accelerator, folder)
        self.spent = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        before = self._now()
        yield
        self.spent[part] += self._now() - before

    def _now(self) -> float:
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _forward(self, *arguments: Any) -> Any:
        with self.clock("forward"):
            return super()._forward(*arguments)

    def _backward(self, loss: torch.Tensor) -> None:
        with self.clock("backward"):
            super()._backward(loss)


def measure(task: PackTask, steps: int) -> dict[str, list[float]]:
    """Of each of `steps` steps: seconds `total` and of each of `PARTS`, and seconds of speech `audio` of all processes.

    `optimiser` is all that is not another part: clipping, step, average and log. On a GPU the parts are not held in one
    CUDA graph, as they are in a training. Raises ValueError for less than one step.
    """
    if steps < 1:
        raise ValueError(f"steps {steps}: give at least 1")
    bf16 = "bf16" if task.config.bf16 else "no"
    accelerator = Accelerator(mixed_precision=bf16, cpu=task.device.type == "cpu")
    timings: dict[str, list[float]] = {name: [] for name in ("total", *PARTS, "audio")}
    with tempfile.TemporaryDirectory() as folder:
        run, meter = TimedRun(task, accelerator, Path(folder)), Meter()
        run.graphs = None
        run.start()
        stream = task.batches(0, accelerator.process_index, accelerator.num_processes)
        for step in range(WARM_UP + steps):
            run.spent = dict.fromkeys(PARTS, 0.0)
            begun = run._now()
            with run.clock("data"):
                _, batch = next(stream)
            meter.add(run.step(batch, step))
            if (step + 1) % task.config.log_every == 0:
                run.log({"step": step + 1, **meter.flush()})
            total = run._now() - begun
            audio = accelerator.reduce(batch.durations.sum().float(), "sum").item() / task.codec.config.frame_rate
            if step >= WARM_UP:
                run.spent["optimiser"] = total - sum(run.spent.values())
                for name, value in (("total", total), *run.spent.items(), ("audio", audio)):
                    timings[name].append(value)
        accelerator.wait_for_everyone()
    return timings


def measure_preset(preset: Preset, packs: list[Path], steps: int, seed: int = 0) -> tuple[dict[str, list[float]], str]:
    """`measure` of a preset's training, on a GPU where there is one, beside the processes that were started with this
    one; and in words what speech it heard.

    packs: of real speech; without them random tokens are drawn.
    """
    preset = override(preset, {"train_model.seed": seed})
    pack = Pack.read_all(packs) if packs else random_pack(preset, seed=seed)
    timings = measure(PackTask(preset, pack, training_device()), steps)
    kind = "packs" if packs else "random tokens"
    return timings, f"{pack.about['speech_hours']} h of {kind}, batches of {preset.train_model.batch_seconds:g} s"
