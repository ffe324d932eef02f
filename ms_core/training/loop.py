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

    def loss(self, networks: dict[str, nn.Module], name: str, batch: Any, step: int, rank: int) -> tuple[Tensor, dict]:
        """The loss for one network and plain values for the log."""

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Values on the dev split of the averaged network."""

    def export(self, network: nn.Module, folder: Path, provenance: dict[str, Any]) -> None:
        """Write the checkpoint that users load."""


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then cosine decay to a tenth at the last step."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    return config.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def step_seed(seed: int, step: int, rank: int) -> int:
    """A seed for everything random in one step of one process."""
    return (seed * 1_000_003 + step) * 64 + rank


def train(task: Task, folder: Path, minutes: float | None = None, resume: bool = False) -> Path:
    """Train until `task.config.steps`, or until `minutes` have passed; returns the folder of the export.

    Without `resume` a folder that already holds a run is refused, so that none is lost by a slip. Raises
    CheckpointError when the state to resume from is missing or belongs to another configuration.
    """
    config = task.config
    accelerator = Accelerator(mixed_precision="bf16" if config.bf16 else "no", cpu=not torch.cuda.is_available())
    run = Run(task, accelerator, Path(folder))
    step = run.resume() if resume else run.start()
    if step >= config.steps:
        return run.finish(step)
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    rank, world = accelerator.process_index, accelerator.num_processes
    meter = Meter()
    silent = not accelerator.is_main_process or None
    progress = tqdm(total=config.steps, initial=step, desc=str(folder), disable=silent, mininterval=5)
    for epoch, batch in task.batches(step, rank, world):
        logs = run.step(batch, step)
        step += 1
        progress.update()
        meter.add(logs)
        last = step >= config.steps or _late(deadline, accelerator)
        if step % config.log_every == 0 or last:
            values = meter.flush()
            progress.set_postfix({k: f"{values[k]:.3f}" for k in ("loss", "ce") if k in values})
            run.log({"step": step, "split": "train", "epoch": epoch, "lr": learning_rate(config, step - 1), **values})
        if step % config.eval_every == 0 or last:
            run.log({"step": step, "split": "dev", **task.evaluate(run.averaged)})
        if step % config.save_every == 0 or last:
            run.save(step)
        if last:
            break
    progress.close()
    return run.finish(step)


def _late(deadline: float | None, accelerator: Accelerator) -> bool:
    """True on every process once the first has passed the deadline: all must leave the loop at the same step."""
    if deadline is None:
        return False
    late = torch.tensor(float(time.monotonic() > deadline), device=accelerator.device)
    return bool(accelerator.reduce(late, "sum").item() > 0)


class Run:
    """Networks, optimisers, average, log and state of one training run in one folder."""

    def __init__(self, task: Task, accelerator: Accelerator, folder: Path):
        self.task, self.accelerator, self.folder = task, accelerator, folder
        self.config = task.config
        self.main = next(iter(task.networks))
        self.averaged = _copy(task.networks[self.main]).to(accelerator.device)
        self.optimisers, self.networks = {}, {}  # optimisers[name][kind]
        for name, network in task.networks.items():
            self.networks[name] = accelerator.prepare(network)
            self.optimisers[name] = {k: accelerator.prepare(o) for k, o in optimisers(network, self.config).items()}
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
            found, wanted = json.loads((self.folder / RUN).read_text()), json.loads(json.dumps(self.task.describe()))
            if found != wanted:
                differs = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
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

    def step(self, batch: Any, step: int) -> dict[str, Any]:
        """Update each network once; returns values for the log."""
        rank = self.accelerator.process_index
        torch.manual_seed(step_seed(self.config.seed, step, rank))  # dropout
        rate = learning_rate(self.config, step)
        logs = {}
        for name in self.task.phases(step):
            network = self.networks[name]
            with self.accelerator.autocast():
                loss, values = self.task.loss(self.networks, name, batch, step, rank)
            for other in self.networks.values():  # an adversarial loss leaves gradients in both networks
                other.zero_grad()
            self.accelerator.backward(loss)
            norm = self.accelerator.clip_grad_norm_(network.parameters(), self.config.grad_clip)
            if torch.isfinite(norm):
                for optimiser in self.optimisers[name].values():
                    for group in optimiser.param_groups:
                        group["lr"] = rate
                    optimiser.step()
            logs.update(values, skipped=float(not torch.isfinite(norm)))
        self._average(step)
        return logs

    @torch.no_grad()
    def _average(self, step: int) -> None:
        decay = min(self.config.ema, (step + 1) / (step + 10))
        network = self.accelerator.unwrap_model(self.networks[self.main])
        pairs = list(zip(self.averaged.state_dict().values(), network.state_dict().values(), strict=True))
        moving = [(mean, value) for mean, value in pairs if mean.is_floating_point()]
        torch._foreach_lerp_([mean for mean, _ in moving], [value for _, value in moving], 1 - decay)
        for mean, value in pairs:
            if not mean.is_floating_point():
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


class Meter:
    """Means of logged values over the steps between two lines of the log; per-layer sums become ce_j and acc_j."""

    def __init__(self):
        self.sums: dict[str, float] = {}
        self.counts: dict[str, float] = {}

    def add(self, logs: dict[str, Any]) -> None:
        """A value is a number, or (sum, weight)."""
        for key, value in logs.items():
            total, weight = value if isinstance(value, tuple) else (value, 1.0)
            self.sums[key] = self.sums.get(key, 0.0) + float(total)
            self.counts[key] = self.counts.get(key, 0.0) + float(weight)

    def flush(self) -> dict[str, float]:
        means = {k: self.sums[k] / self.counts[k] for k in self.sums if self.counts[k]}
        self.sums, self.counts = {}, {}
        return means


def _copy(network: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(network).eval().requires_grad_(False)


def optimisers(network: nn.Module, config: TrainConfig) -> dict[str, torch.optim.Optimizer]:
    """AdamW, with weight decay on matrices only; with `config.muon`, the matrices of linear layers by Muon instead.

    Muon (Jordan et al. 2024) steps along the orthogonalised momentum. Its steps are scaled to the root mean square of
    AdamW's, so that one learning rate serves both (Liu et al. 2025). Our choice.
    """
    hidden = []
    if config.muon:
        linear = [m.weight for m in network.modules() if isinstance(m, nn.Linear)]
        hidden = [w for w in linear if w.requires_grad and min(w.shape) > 1]
    left = {id(w) for w in hidden}
    others = [p for p in network.parameters() if p.requires_grad and id(p) not in left]
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    found = {"adamw": torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)}
    if hidden:
        scale = "match_rms_adamw"
        found["muon"] = torch.optim.Muon(hidden, config.lr, config.weight_decay, adjust_lr_fn=scale)
    return found


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
