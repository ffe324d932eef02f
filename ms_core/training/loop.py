"""One training loop for codec and model, on accelerate: bf16, one or many processes, resumable, JSONL log.

Everything random in step k (batch, masks, dropout) is drawn from seeds that k alone decides, so a run that was killed
at any moment and resumed ends with the same bits as one that was not. State is one safetensors file, replaced by a
rename; nothing is pickled, which is why accelerate's own `save_state` is not used.
"""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from ms_core.checkpoint import CheckpointError, damaged
from ms_core.config import TrainConfig
from ms_core.files import write_atomic, write_json
from ms_core.training.launch import hold_memory
from ms_core.training.optimisers import optimisers

STATE, LOG, RUN = "state.safetensors", "log.jsonl", "run.json"


class Task(Protocol):
    """What is trained. The first of `networks` is averaged (EMA) and exported."""

    config: TrainConfig
    networks: dict[str, nn.Module]

    def describe(self) -> dict[str, Any]:
        """Plain values that identify the run: a run is only resumed by an equal description."""

    def batches(self, first: int, rank: int, world_size: int) -> Iterator[tuple[int, Any]]:
        """(epoch, batch) from batch `first` on."""

    def phases(self, step: int) -> list[str]:
        """Names of the networks that are updated in a step, in order."""

    def inputs(self, batch: Any, step: int, rank: int) -> Any:
        """What `loss` is given of a batch. A task whose `fixed_shapes` is true gives a tuple of tensors on the device,
        whose shapes come from a short list: then, on a GPU, a CUDA graph holds each step."""

    def loss(self, networks: dict[str, nn.Module], name: str, inputs: Any, step: int, rank: int) -> tuple[Tensor, dict]:
        """The loss for one network, and values for the log: see `Meter.add`."""

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Values on the dev split of the averaged network."""

    def export(self, network: nn.Module, folder: Path, provenance: dict[str, Any]) -> None:
        """Write the checkpoint that users load."""


def learning_rate(config: TrainConfig, step: int, passed: float = 0.0) -> float:
    """Linear warm-up, then cosine decay to a tenth at the last step, or when all of the time has passed.

    passed: share of the time that there is, from 0 to 1, where a training must end by the clock.
    """
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = min(1.0, max(passed, (step - config.warmup) / max(1, config.steps - config.warmup)))
    return config.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def step_seed(seed: int, step: int, rank: int) -> int:
    """A seed for everything random in one step of one process."""
    return (seed * 1_000_003 + step) * 64 + rank


def train(
    task: Task,
    folder: Path,
    minutes: float | None = None,
    resume: bool = False,
    export_minutes: float | None = None,
    by_clock: bool = False,
) -> Path:
    """Train until `task.config.steps`, or until `minutes` have passed; returns the folder of the export.

    export_minutes: also export whenever so many have passed, for a machine that may be taken away. by_clock: the
    learning rate falls with the `minutes` rather than with the steps, of which nobody knows how many there will be;
    such a run is not the same when it is done again.
    Without `resume` a folder that already holds a run is refused, so that none is lost by a slip. Raises
    CheckpointError when the state to resume from is missing or belongs to another configuration.
    """
    config = task.config
    accelerator = Accelerator(mixed_precision="bf16" if config.bf16 else "no", cpu=not torch.cuda.is_available())
    run = Run(task, accelerator, Path(folder))
    step = run.resume() if resume else run.start()
    if step >= config.steps:
        return run.finish(step)
    begun = time.monotonic()
    deadline = None if minutes is None else begun + 60 * minutes
    rank, world = accelerator.process_index, accelerator.num_processes
    exported = time.monotonic()
    meter = Meter()
    silent = not accelerator.is_main_process or None
    progress = tqdm(total=config.steps, initial=step, desc=str(folder), disable=silent, mininterval=5)
    for epoch, batch in task.batches(step, rank, world):
        passed = (time.monotonic() - begun) / (60 * minutes) if by_clock and minutes else 0.0
        logs = run.step(batch, step, passed)
        step += 1
        progress.update()
        meter.add(logs)
        last = step >= config.steps or _late(deadline, accelerator)
        if step % config.log_every == 0 or last:
            values = meter.flush()
            progress.set_postfix({k: f"{values[k]:.3f}" for k in ("loss", "ce") if k in values})
            rate = learning_rate(config, step - 1, passed)
            run.log({"step": step, "split": "train", "epoch": epoch, "lr": rate, **values})
        if step % config.eval_every == 0 or last:
            run.log({"step": step, "split": "dev", **task.evaluate(run.averaged)})
        if step % config.save_every == 0 or last:
            run.save(step)
        if last:
            break
        if export_minutes is not None and time.monotonic() - exported > 60 * export_minutes:
            run.finish(step)
            exported = time.monotonic()
    progress.close()
    return run.finish(step)


def _late(deadline: float | None, accelerator: Accelerator) -> bool:
    """True on every process once the first has passed the deadline: all must leave the loop at the same step."""
    if deadline is None:
        return False
    if accelerator.num_processes == 1:
        return time.monotonic() > deadline
    late = torch.tensor(float(time.monotonic() > deadline), device=accelerator.device)
    return bool(accelerator.reduce(late, "sum").item() > 0)


class Run:
    """Networks, optimisers, average, log and state of one training run in one folder."""

    def __init__(self, task: Task, accelerator: Accelerator, folder: Path):
        if accelerator.device.type == "cpu":
            hold_memory()
        self.task, self.accelerator, self.folder = task, accelerator, folder
        self.config = task.config
        self.main = next(iter(task.networks))
        self.averaged = _copy(task.networks[self.main]).to(accelerator.device)
        self.optimisers, self.networks = {}, {}  # optimisers[name][kind]
        for name, network in task.networks.items():
            self.networks[name] = accelerator.prepare(network)
            self.optimisers[name] = {k: accelerator.prepare(o) for k, o in optimisers(network, self.config).items()}
        network = self.accelerator.unwrap_model(self.networks[self.main])
        pairs = list(zip(self.averaged.state_dict().values(), network.state_dict().values(), strict=True))
        self.moving = [list(x) for x in zip(*((a, b) for a, b in pairs if a.is_floating_point()), strict=True)]
        self.copied = [(a, b) for a, b in pairs if not a.is_floating_point()]
        held = accelerator.device.type == "cuda" and accelerator.num_processes == 1
        self.graphs = Graphs(task.networks[self.main]) if held and getattr(task, "fixed_shapes", False) else None
        self.seconds, self.since = 0.0, time.monotonic()

    def start(self) -> int:
        if (self.folder / STATE).exists():
            raise CheckpointError(f"{self.folder} already holds a run: resume it, or choose another folder")
        if self.accelerator.is_main_process:
            write_json(self.folder / RUN, self.task.describe())
            (self.folder / LOG).write_text("")
        return 0

    def resume(self) -> int:
        state = self.folder / STATE
        if not state.is_file():
            if (self.folder / RUN).is_file():  # killed before the first save
                return self.start()
            raise CheckpointError(f"{self.folder}: nothing to resume, {STATE} is missing")
        with damaged(self.folder):
            earlier = json.loads((self.folder / RUN).read_text())
            described = json.loads(json.dumps(self.task.describe()))
            if earlier != described:
                differs = sorted(k for k in earlier.keys() | described.keys() if earlier.get(k) != described.get(k))
                keys = ", ".join(differs)
                raise CheckpointError(f"{self.folder}: the run there differs in {keys}; it cannot be resumed")
            with safe_open(state, "pt") as file:
                meta = file.metadata()
            tensors = load_file(state)
            for name, network in self.networks.items():
                self.accelerator.unwrap_model(network).load_state_dict(_under(tensors, f"{name}."))
                for kind, optimiser in self.optimisers[name].items():
                    _load_optimiser(optimiser, _under(tensors, f"{name}-{kind}."))
            self.averaged.load_state_dict(_under(tensors, "averaged."))
            step, self.seconds = int(meta["step"]), float(meta["seconds"])
        if self.accelerator.is_main_process:
            lines = (self.folder / LOG).read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            write_atomic(self.folder / LOG, lambda temporary: temporary.write_text("".join(kept)))
        return step

    def step(self, batch: Any, step: int, passed: float = 0.0) -> dict[str, Any]:
        """Update each network once; returns values for the log."""
        rank = self.accelerator.process_index
        torch.manual_seed(step_seed(self.config.seed, step, rank))  # dropout
        rate = learning_rate(self.config, step, passed)
        inputs = self.task.inputs(batch, step, rank)
        logs = {}
        for name in self.task.phases(step):
            network = self.networks[name]
            if self.graphs is None:
                values = self._gradients(name, inputs, step, rank)
            else:
                values = self.graphs(inputs, lambda held, name=name: self._gradients(name, held, step, rank))
            norm = self.accelerator.clip_grad_norm_(network.parameters(), self.config.grad_clip)
            wrong = (~torch.isfinite(norm)).float()
            for optimiser in self.optimisers[name].values():
                optimiser.optimizer.found_inf = wrong  # then nothing is changed; asked on the device, so none waits
                for group in optimiser.param_groups:
                    group["lr"] = rate
                optimiser.step()
            logs.update(values, skipped=wrong)
        self._average(step)
        return logs

    def _gradients(self, name: str, inputs: Any, step: int, rank: int) -> dict[str, Any]:
        """Forward and backward; returns values for the log."""
        loss, values = self._forward(name, inputs, step, rank)
        for other in self.networks.values():  # an adversarial loss leaves gradients in both networks
            other.zero_grad()
        self._backward(loss)
        return values

    def _forward(self, name: str, inputs: Any, step: int, rank: int) -> tuple[Tensor, dict[str, Any]]:
        with self.accelerator.autocast():
            return self.task.loss(self.networks, name, inputs, step, rank)

    def _backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    @torch.no_grad()
    def _average(self, step: int) -> None:
        decay = min(self.config.ema, (step + 1) / (step + 10))
        torch._foreach_lerp_(*self.moving, 1 - decay)
        for mean, value in self.copied:
            mean.copy_(value)

    def log(self, values: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()}
            with open(self.folder / LOG, "a") as file:
                file.write(json.dumps({**rounded, "seconds": round(self._elapsed(), 1)}) + "\n")

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.since

    def save(self, step: int) -> None:
        """Replace the state on disk; all or nothing."""
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        tensors = {f"averaged.{k}": v for k, v in self.averaged.state_dict().items()}
        for name, network in self.networks.items():
            tensors |= {f"{name}.{k}": v for k, v in self.accelerator.unwrap_model(network).state_dict().items()}
            for kind, optimiser in self.optimisers[name].items():
                tensors |= {f"{name}-{kind}.{k}": v for k, v in _optimiser_tensors(optimiser).items()}
        tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        meta = {"step": str(step), "seconds": repr(self._elapsed())}
        write_atomic(self.folder / STATE, lambda temporary: save_file(tensors, temporary, metadata=meta))

    def finish(self, step: int) -> Path:
        """Export the averaged network."""
        out = self.folder / "export"
        if self.accelerator.is_main_process:
            hours = round(self._elapsed() / 3600, 3)
            provenance = {**self.task.describe(), "steps_done": step, "training_hours": hours}
            self.task.export(self.averaged, out, provenance)
        self.accelerator.wait_for_everyone()
        return out


class Graphs:
    """Forward and backward of a step as CUDA graphs, one for each shape of its inputs: kernels are launched as one.

    Random numbers in them (dropout) follow `torch.manual_seed`, as they do without.
    """

    WARM_UP = 3  # calls before a graph is recorded, as CUDA asks for

    def __init__(self, network: nn.Module):
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.recorded: dict[tuple, tuple] = {}
        self.pool = None

    def __call__(self, inputs: tuple[Tensor, ...], gradients) -> dict[str, Any]:
        """`gradients(inputs)`, which sets the parameters' gradients and returns tensors."""
        shapes = tuple(x.shape for x in inputs)
        if shapes not in self.recorded:
            self.recorded[shapes] = self._record(inputs, gradients)
        graph, held, values, gradients = self.recorded[shapes]
        for mine, new in zip(held, inputs, strict=True):
            mine.copy_(new)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        graph.replay()
        return {k: tuple(x.clone() for x in v) if isinstance(v, tuple) else v.clone() for k, v in values.items()}

    def _record(self, inputs: tuple[Tensor, ...], gradients) -> tuple:
        held = [x.clone() for x in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(self.WARM_UP):
                gradients(held)
        torch.cuda.current_stream().wait_stream(side)
        for parameter in self.parameters:
            parameter.grad = None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            values = gradients(held)
        self.pool = self.pool or graph.pool()
        return graph, held, values, [p.grad for p in self.parameters]


class Meter:
    """Means of logged values over the steps between two lines of the log."""

    def __init__(self):
        self.sums: dict[str, Any] = {}
        self.counts: dict[str, Any] = {}

    def add(self, logs: dict[str, Any]) -> None:
        """A value is a number, or (sum, weight); either may be a tensor, which is read only by `flush`.

        Vectors (sums (n,), weights (n,)) under `name_` become `name_1`, ..., `name_n`.
        """
        for key, value in logs.items():
            total, weight = value if isinstance(value, tuple) else (value, 1.0)
            self.sums[key] = self.sums[key] + total if key in self.sums else total
            self.counts[key] = self.counts[key] + weight if key in self.counts else weight

    def flush(self) -> dict[str, float]:
        means = {}
        for key, total in self.sums.items():
            pair = (total, self.counts[key])
            totals, counts = (torch.as_tensor(x, dtype=torch.float64).cpu().reshape(-1) for x in pair)
            names = [f"{key}{j}" for j in range(1, len(totals) + 1)] if key.endswith("_") else [key]
            means |= {n: (t / c).item() for n, t, c in zip(names, totals, counts, strict=True) if c}
        self.sums, self.counts = {}, {}
        return means


def _copy(network: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(network).eval().requires_grad_(False)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _optimiser_tensors(optimiser) -> dict[str, Tensor]:
    state = optimiser.state_dict()["state"]
    return {f"{index}.{key}": value for index, entry in state.items() for key, value in entry.items()}


def _load_optimiser(optimiser, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
