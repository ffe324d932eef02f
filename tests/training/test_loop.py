"""The training loop: the same bits whatever interrupts it."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import CODEC, MODEL, PRESET, TRAIN, fake_alignments, write_corpus
from safetensors.torch import load_file, save
from torch import nn

from ms_core import paths
from ms_core.checkpoint import CheckpointError, total_training_hours
from ms_core.codec import load_codec
from ms_core.codec.encodec import EncodecCodec
from ms_core.codec.mini import MiniCodec
from ms_core.config import Preset, load_preset, override
from ms_core.data import prepare
from ms_core.data.shards import Shards, synthetic_cuts, write_shards
from ms_core.files import sha256
from ms_core.model import MobileSpeechModel
from ms_core.training import loop as training
from ms_core.training import runs as training_runs
from ms_core.training.acoustic import PackTask
from ms_core.training.decoder import DecoderTask
from ms_core.training.loop import LOG, STATE, Meter, learning_rate, step_seed, train
from ms_core.training.pack import Pack, Utterances
from ms_core.training.sharded import ShardedSpeech, item

DROPOUT = PRESET.model_copy(update={"model": MODEL.model_copy(update={"dropout": 0.1})})
GAN = override(PRESET, {"train_codec.batch_seconds": 1.0, "train_codec.adversarial_from": 0.34})


class Killed(BaseException):
    """Stands for the end of the process."""


def killed_at(task, step: int):
    """The task, whose process dies when it asks for the batch of a step."""
    batches = task.batches

    def until(first: int, rank: int, world_size: int):
        for index, pair in enumerate(batches(first, rank, world_size), first):
            if index == step:
                raise Killed
            yield pair

    task.batches = until
    return task


def model_task(codec, cuts, preset: Preset = DROPOUT, start: Path | None = None) -> PackTask:
    shards = isinstance(cuts["train"], Shards)
    train_speech = ShardedSpeech(cuts["train"]) if shards else Utterances.of(map(item, cuts["train"]))
    hours = cuts["train"].hours if shards else sum(c.duration for c in cuts["train"]) / 3600
    pack = Pack(train_speech, Utterances.of(map(item, cuts["dev"])), codec, {"speech_hours": hours})
    return PackTask(preset, pack, "cpu", start)


def muon_task(codec, cuts) -> PackTask:
    return model_task(codec, cuts, override(DROPOUT, {"train_model.muon": True}))


def decoder_task(codec, cuts, preset: Preset = GAN) -> DecoderTask:
    own = MiniCodec(codec.config)
    own.load_state_dict(codec.state_dict())
    return DecoderTask(preset, own, cuts["train"], cuts["dev"])


def log(folder: Path) -> list[dict]:
    """The lines of the log without their times."""
    rows = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def same_state(a: Path, b: Path) -> bool:
    one, two = load_file(a / STATE), load_file(b / STATE)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("make", [model_task, muon_task, decoder_task])
def test_a_killed_and_resumed_run_ends_with_the_same_bits(codec, cuts, tmp_path, make) -> None:
    out = train(make(codec, cuts), tmp_path / "a")
    assert out == tmp_path / "a" / "export"
    with pytest.raises(Killed):
        train(killed_at(make(codec, cuts), 5), tmp_path / "b")
    with open(tmp_path / "b" / LOG, "a") as file:
        file.write('{"step": 6, "split": "tr')  # killed while it wrote
    torch.manual_seed(99)
    resumed = train(make(codec, cuts), tmp_path / "b", resume=True)
    assert same_state(tmp_path / "a", tmp_path / "b")
    assert log(tmp_path / "a") == log(tmp_path / "b")
    assert (out / "weights.safetensors").read_bytes() == (resumed / "weights.safetensors").read_bytes()
    rows = log(tmp_path / "a")
    assert [r["step"] for r in rows if r["split"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in rows if r["split"] == "dev"] == [3, 6]
    assert all(math.isfinite(v) for r in rows for v in r.values() if not isinstance(v, str))
    kinds = {key.split(".")[0] for key in load_file(tmp_path / "a" / STATE)}
    assert ("model-muon" in kinds) == (make is muon_task)
    if make is decoder_task:
        assert ["adversarial" in r for r in rows if r["split"] == "train"] == [False] * 2 + [True] * 4
        assert load_codec(out).token_digest == codec.token_digest


def test_a_run_killed_before_its_first_save_starts_anew(codec, cuts, tmp_path) -> None:
    with pytest.raises(Killed):
        train(killed_at(model_task(codec, cuts), 2), tmp_path / "b")
    train(model_task(codec, cuts), tmp_path / "b", resume=True)
    train(model_task(codec, cuts), tmp_path / "a")
    assert same_state(tmp_path / "a", tmp_path / "b")
    assert log(tmp_path / "a") == log(tmp_path / "b")


def test_the_time_limit_ends_a_run_that_can_go_on(codec, cuts, tmp_path) -> None:
    train(model_task(codec, cuts), tmp_path / "a", minutes=0.0)
    assert [r["step"] for r in log(tmp_path / "a")] == [1, 1]  # one step, and the dev set
    train(model_task(codec, cuts), tmp_path / "a", resume=True)
    train(model_task(codec, cuts), tmp_path / "b")
    assert same_state(tmp_path / "a", tmp_path / "b")


def test_the_export_is_a_model_that_names_its_run(codec, cuts, tmp_path) -> None:
    preset = override(DROPOUT, {"train_model.bf16": True, "train_model.ema": 0.0})
    out = train(model_task(codec, cuts, preset), tmp_path / "a")
    model = MobileSpeechModel.load(out, codec)
    assert model.decoding == preset.decoding
    state = load_file(tmp_path / "a" / STATE)
    for name, value in model.state_dict().items():
        assert torch.equal(state[f"averaged.{name}"], state[f"model.{name}"])  # no averaging
        assert torch.equal(value, state[f"model.{name}"].half().float())
    provenance = json.loads((out / "config.json").read_text())["provenance"]
    assert (provenance["steps_done"], provenance["token_digest"]) == (6, codec.token_digest)
    assert provenance["train_model"]["seed"] == 0
    assert provenance["speech_hours"] == pytest.approx(sum(c.duration for c in cuts["train"]) / 3600, abs=1e-3)
    again = train(model_task(codec, cuts, preset), tmp_path / "a", resume=True)  # done: only exports
    assert again == out


def test_runs_are_not_lost_and_not_mixed(codec, cuts, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(model_task(codec, cuts), tmp_path / "a", resume=True)
    with pytest.raises(Killed):
        train(killed_at(model_task(codec, cuts), 4), tmp_path / "a")
    with pytest.raises(CheckpointError, match="already holds a run: resume it, or choose another folder"):
        train(model_task(codec, cuts), tmp_path / "a")
    other = override(DROPOUT, {"train_model.lr": 0.5, "mask.alpha": 0.1})
    before = (tmp_path / "a" / STATE).read_bytes(), (tmp_path / "a" / LOG).read_bytes()
    with pytest.raises(CheckpointError, match="differs in mask, train_model; it cannot be resumed"):
        train(model_task(codec, cuts, other), tmp_path / "a", resume=True)
    assert before == ((tmp_path / "a" / STATE).read_bytes(), (tmp_path / "a" / LOG).read_bytes())
    for broken in (before[0][:-9], b"", save({"model.x": torch.zeros(1)})):
        (tmp_path / "a" / STATE).write_bytes(broken)
        with pytest.raises(CheckpointError, match="damaged, or of another version"):
            train(model_task(codec, cuts), tmp_path / "a", resume=True)
        assert (tmp_path / "a" / STATE).read_bytes() == broken


def test_a_full_disk_keeps_the_last_state(codec, cuts, tmp_path, monkeypatch) -> None:
    save, calls = training.save_file, []

    def second_fails(tensors, path, metadata=None) -> None:
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half")
            raise OSError("No space left on device")
        save(tensors, path, metadata=metadata)

    monkeypatch.setattr(training, "save_file", second_fails)
    with pytest.raises(OSError, match="No space left"):
        train(model_task(codec, cuts), tmp_path / "a")
    monkeypatch.undo()
    train(model_task(codec, cuts), tmp_path / "a", resume=True)
    train(model_task(codec, cuts), tmp_path / "b")
    assert same_state(tmp_path / "a", tmp_path / "b")


# -- steps, on a task small enough to compute by hand -----------------------------------------------------------------


class Toy:
    """A generator and a discriminator of one layer each; the generator's loss leaves gradients in both."""

    config = TRAIN.model_copy(update={"steps": 4, "lr": 0.1, "warmup": 0, "weight_decay": 0.1, "grad_clip": 0.5})

    def __init__(self, broken: int | None = None):
        torch.manual_seed(0)
        self.networks = {"g": nn.Linear(3, 2), "d": nn.Linear(2, 1)}
        self.broken = broken

    def describe(self) -> dict:
        return {"toy": True}

    def batches(self, first: int, rank: int, world_size: int):
        for step in range(first, self.config.steps):
            yield 0, torch.randn(5, 3, generator=torch.Generator().manual_seed(step))

    def phases(self, step: int) -> list[str]:
        return ["d", "g"]

    def inputs(self, batch, step: int, rank: int):
        return batch

    def loss(self, networks, name: str, batch, step: int, rank: int):
        score = networks["d"](networks["g"](batch) if name == "g" else networks["g"](batch).detach())
        loss = (score if name == "d" else -score).square().mean() + score.mean() * (1 if name == "d" else -1)
        if step == self.broken and name == "g":
            loss = loss * float("nan")
        return loss, {"loss": loss.item()}

    def evaluate(self, network) -> dict:
        return {}

    def export(self, network, folder, provenance) -> None:
        pass


@pytest.mark.parametrize("broken", [None, 1])
def test_each_network_learns_from_its_own_loss_alone(tmp_path, broken: int | None) -> None:
    train(Toy(broken), tmp_path / "a")
    toy = Toy(broken)
    nets, config = toy.networks, toy.config
    adamw = {
        name: torch.optim.AdamW(
            [{"params": [net.weight], "weight_decay": 0.1}, {"params": [net.bias], "weight_decay": 0.0}],
            betas=config.betas,
        )
        for name, net in nets.items()
    }
    mean = {k: v.clone() for k, v in nets["g"].state_dict().items()}
    for step, (_, batch) in enumerate(toy.batches(0, 0, 1)):
        for name in ("d", "g"):
            for group in adamw[name].param_groups:
                group["lr"] = learning_rate(config, step)
            loss, _ = toy.loss(nets, name, batch, step, 0)
            parameters = list(nets[name].parameters())
            gradients = torch.autograd.grad(loss, parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            norm = nn.utils.clip_grad_norm_(parameters, config.grad_clip)
            if torch.isfinite(norm):
                adamw[name].step()
        decay = min(config.ema, (step + 1) / (step + 10))
        for key, value in nets["g"].state_dict().items():
            mean[key].lerp_(value, 1 - decay)
    state = load_file(tmp_path / "a" / STATE)
    for name, net in nets.items():
        for key, value in net.state_dict().items():
            assert torch.allclose(state[f"{name}.{key}"], value, atol=1e-6), (name, key)
    for key, value in mean.items():
        assert torch.allclose(state[f"averaged.{key}"], value, atol=1e-6)
    skipped = [row["skipped"] for row in log(tmp_path / "a") if row["split"] == "train"]
    assert skipped == [float(step == broken) for step in range(4)]


def test_learning_rate_rises_and_falls() -> None:
    config = TRAIN.model_copy(update={"steps": 100, "warmup": 10, "lr": 1.0})
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.55)  # half way between 1 and a tenth
    assert rates[100] == pytest.approx(0.1)


def test_step_seeds_differ() -> None:
    seeds = {step_seed(seed, step, rank) for seed in (0, 1) for step in range(1000) for rank in range(8)}
    assert len(seeds) == 2 * 1000 * 8


def test_the_meter_weighs_by_count() -> None:
    meter = Meter()
    meter.add({"loss": 1.0, "ce_1": (10.0, 4)})
    meter.add({"loss": 3.0, "ce_1": (2.0, 2), "ce_2": (5.0, 1), "ce_3": (0.0, 0)})
    assert meter.flush() == {"loss": 2.0, "ce_1": 2.0, "ce_2": 5.0}
    assert meter.flush() == {}
    meter.add({"acc_": (torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0])), "loss": torch.tensor(3.0)})
    meter.add({"acc_": (torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0])), "loss": torch.tensor(5.0)})
    assert meter.flush() == {"acc_1": 0.5, "acc_2": 0.75, "loss": 4.0}


def test_the_rate_can_fall_by_the_clock() -> None:
    config = TRAIN.model_copy(update={"steps": 10_000, "warmup": 10, "lr": 1.0})
    assert learning_rate(config, 5, 0.9) == 0.6  # warm-up first
    assert learning_rate(config, 20, 0.5) == pytest.approx(0.55)
    assert learning_rate(config, 20, 1.0) == pytest.approx(0.1)
    assert learning_rate(config, 9_999, 0.0) == pytest.approx(0.1, abs=1e-3)  # whichever comes first


TWO = """
import json, sys
from pathlib import Path
import torch
from lhotse import CutSet
sys.path[:0] = [{tests!r}, {tests!r} + "/training"]
from conftest import PRESET
from test_loop import decoder_task, model_task
from ms_core.codec import load_codec
from ms_core.data.shards import Shards
from ms_core.training.loop import train

root = Path({root!r})
codec = load_codec(root / "codec")
cuts = {{split: CutSet.from_file(root / f"{{split}}.jsonl") for split in ("train", "dev")}}
for name, make in (("model", model_task), ("decoder", decoder_task), ("shards", model_task)):
    speech = {{**cuts, "train": Shards.open(root / "made-up", codec)}} if name == "shards" else cuts
    task = make(codec, speech)
    seen, batches = [], task.batches

    def watched(first, rank, world):
        for epoch, batch in batches(first, rank, world):
            codes = batch[0] if isinstance(batch, tuple) else batch.codes
            seen.append(float(codes.double().sum()))
            yield epoch, batch

    task.batches = watched
    train(task, root / name)
    from accelerate import PartialState
    state = PartialState()
    weights = {{k: [float(v.double().sum()), float(v.double().square().sum())]
               for net in task.networks.values() for k, v in net.state_dict().items()}}
    out = {{"world": state.num_processes, "seen": seen, "weights": weights}}
    (root / f"{{name}}-{{state.process_index}}.json").write_text(json.dumps(out))
"""


def test_two_processes_end_with_equal_weights(codec, cuts, tmp_path) -> None:
    """Over gloo, as `torchrun` starts them. The slowest test of the file."""
    codec.save(tmp_path / "codec", {})
    for split, part in cuts.items():
        part.to_file(tmp_path / f"{split}.jsonl")
    write_shards(synthetic_cuts(PRESET, 40), tmp_path / "made-up", codec, 10)
    script = tmp_path / "two.py"
    script.write_text(TWO.format(tests=str(Path(__file__).parents[1]), root=str(tmp_path)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("model", "decoder", "shards"):
        one, two = (json.loads((tmp_path / f"{name}-{rank}.json").read_text()) for rank in (0, 1))
        assert one["world"] == two["world"] == 2
        assert one["weights"] == two["weights"]
        assert one["seen"] != two["seen"]  # each process has data of its own
        rows = log(tmp_path / name)
        assert [r["step"] for r in rows if r["split"] == "train"] == [1, 2, 3, 4, 5, 6]
        assert all(math.isfinite(v) for r in rows for v in r.values() if not isinstance(v, str))
    assert MobileSpeechModel.load(tmp_path / "model" / "export", codec)


def test_a_run_may_start_from_an_earlier_model(codec, cuts, tmp_path) -> None:
    first = train(model_task(codec, cuts), tmp_path / "a")
    made = json.loads((first / "config.json").read_text())["provenance"]

    def again(preset: Preset = DROPOUT) -> PackTask:
        return model_task(codec, cuts, preset, start=first)

    task = again(override(DROPOUT, {"model.dropout": 0.2}))
    kept = MobileSpeechModel.load(first, codec).state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in task.networks["model"].state_dict().items())
    second = train(again(), tmp_path / "b")
    told = json.loads((second / "config.json").read_text())["provenance"]
    assert told["started_from"] == sha256(first / "weights.safetensors")
    assert told["hours_before"] == made["training_hours"] and "hours_before" not in made
    assert total_training_hours(told) == pytest.approx(made["training_hours"] + told["training_hours"])
    with pytest.raises(CheckpointError, match="its sizes differ"):
        again(override(DROPOUT, {"model.smd_layers": DROPOUT.model.smd_layers + 1}))


def test_preset_paper_trains_on_shards_of_encodec_tokens(tmp_path) -> None:
    """Its own recipe for two steps: the whole configuration on the grid of EnCodec, but 64 channels for 512."""
    preset = load_preset("paper")
    assert (preset.codec.n_q, preset.codec.bins, preset.codec.frame_rate) == (8, 1024, 75)
    small = {"model.dim": 64, "train_model.steps": 2, "train_model.batch_seconds": 30.0, "train_model.log_every": 1}
    small |= {"data.max_seconds": 8.0, "data.train": f"{tmp_path}/shards/train", "data.dev": f"{tmp_path}/shards/dev"}
    preset = override(preset, {**small, "codec.vocoder": "encodec"})  # Vocos is a package of its own
    with torch.random.fork_rng():
        EncodecCodec(preset.codec).save(paths.run("paper") / "codec" / "export", {"origin": "random weights"})
    codec = load_codec(training_runs.codec_folder(preset))
    for split, count in (("train", 40), ("dev", 4)):
        write_shards(synthetic_cuts(preset, count), tmp_path / "shards" / split, codec, 10)
    export = training_runs.train_model(preset)
    rows = log(export.parent)
    assert [(row["step"], row["split"]) for row in rows] == [(1, "train"), (2, "train"), (2, "dev")]
    assert rows[0]["skipped"] == rows[1]["skipped"] == 0
    assert 0.5 * math.log(1024) < rows[2]["ce"] < 2 * math.log(1024)
    assert len(MobileSpeechModel.load(training_runs.trained_checkpoint(preset) / "model", codec).smd.blocks) == 12


def test_what_is_prepared_for_a_training_is_what_its_task_takes(codec, tmp_path, monkeypatch) -> None:
    """With varied speech, too, as preset mini has it."""
    write_corpus(tmp_path)
    monkeypatch.setenv("MS_DATA", str(tmp_path))
    monkeypatch.setattr(prepare, "align_corpus", fake_alignments)
    for changes in ({}, {"train_model.timbre_db": 3.0, "train_model.virtual_voices": 0.5}):
        preset = override(PRESET, changes)
        task = PackTask(preset, training_runs.training_pack(preset, codec, 1), "cpu")
        _, batch = next(iter(task.batches(0, 0, 1)))
        assert batch.codes.shape[1] == codec.config.n_q and 0 <= batch.codes.min() <= batch.codes.max() < CODEC.bins
