"""Shared fixtures: a codec, a model and a speech corpus small enough that the whole set runs in minutes."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from accelerate.state import AcceleratorState
from jaxtyping import config, install_import_hook
from lhotse import CutSet
from shapes import CHECKED

install_import_hook([f"ms_core.{name}" for name in CHECKED], "shapes.checked")

from ms_core.codec.mini import MiniCodec
from ms_core.config import CodecConfig, DataConfig, DecodingConfig, ModelConfig, Preset, TrainConfig
from ms_core.data import prepare
from ms_core.model import MobileSpeechModel
from ms_core.text import phone_ids
from ms_core.tokens import PAD_TO, Batch, Tokens

torch.set_num_threads(1)

CODEC = CodecConfig(n_q=3, bins=32, n_mels=20, latent_dim=8, decoder_dim=16, decoder_layers=1)
MODEL = ModelConfig(
    dim=32, heads=2, text_layers=1, prompt_layers=1, smd_layers=2, duration_layers=1, conv_kernel=5, dropout=0.0
)
TRAIN = TrainConfig(
    steps=6, batch_seconds=6.0, lr=1e-3, warmup=2, bf16=False, log_every=1, eval_every=3, save_every=3, ema=0.9,
    latent_weight=0.5, prompt_seconds=0.5, max_seconds=1.5, crop_seconds=0.5,
)  # fmt: skip
PRESET = Preset(
    name="tiny",
    data=DataConfig(train="train", dev="dev", test="dev", min_seconds=0.5, max_seconds=5.0),
    codec=CODEC,
    model=MODEL,
    decoding=DecodingConfig(steps=(4, 1, 1)),
    train_codec=TRAIN,
    train_model=TRAIN,
)


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch) -> Path:
    """Training runs and caches go to a folder of the test's own."""
    monkeypatch.setenv("MS_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture(autouse=True)
def accelerate_forgets() -> Iterator[None]:
    """accelerate keeps the precision of a process's first run and refuses another; a test process has many."""
    yield
    AcceleratorState._reset_state()


@pytest.fixture
def any_shape() -> Iterator[None]:
    """Shapes and types are not checked here (`shapes.py`)."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@contextmanager
def global_rng_untouched() -> Iterator[None]:
    """Asserts that none of the three global random generators was drawn from."""
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    yield
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (str(np.random.get_state()), random.getstate())  # noqa: NPY002


def speech(seconds: float, seed: int, rate: int = 16_000) -> np.ndarray:
    """Something like speech: harmonics of a gliding pitch, syllables, and noise; float32 (L,)."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = rng.uniform(90, 220) * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voiced = sum(rng.uniform(0.2, 1) / k * np.sin(k * phase + rng.uniform(0, 6)) for k in range(1, 12))
    syllables = 0.5 * (1 + np.sin(2 * np.pi * rng.uniform(2, 5) * time + rng.uniform(0, 6)))
    noise = rng.normal(size=len(time)) * (1 - syllables) * 0.3
    return (0.15 * (voiced * syllables + noise)).astype(np.float32)


def utterance(seed: int, words: int = 4, n_q: int = CODEC.n_q, bins: int = CODEC.bins) -> Tokens:
    """Random words of 1 to 4 phones, each of 1 to 4 frames; boundaries of 0 to 3 frames; random codes."""
    rng = np.random.default_rng(seed)
    phones, frames = phone_ids(["_"]), [int(rng.integers(4))]
    for _ in range(words):
        count = int(rng.integers(1, 5))
        phones += [int(p) for p in rng.integers(4, 73, count)] + phone_ids(["_"])
        frames += [int(f) for f in rng.integers(1, 5, count)] + [int(rng.integers(4))]
    return Tokens(np.array(phones), np.array(frames), rng.integers(0, bins, (n_q, sum(frames))))


def batch_of(*pairs: tuple[Tokens, Tokens]) -> Batch:
    """A padded batch of (prompt, target) pairs."""

    def pad(arrays: list[np.ndarray]) -> torch.Tensor:
        longest = -(-max(a.shape[-1] for a in arrays) // PAD_TO) * PAD_TO
        padded = [np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, longest - a.shape[-1])]) for a in arrays]
        return torch.from_numpy(np.stack(padded)).long()

    fields = ("phones", "durations", "codes")
    return Batch(*(pad([getattr(pair[i], name) for pair in pairs]) for i in (1, 0) for name in fields))


def unpadded(prompt: Tokens, target: Tokens) -> Batch:
    """The same for one pair, at its own lengths."""
    arrays = [getattr(part, name) for part in (target, prompt) for name in ("phones", "durations", "codes")]
    return Batch(*(torch.from_numpy(array)[None] for array in arrays))


def stir(module: torch.nn.Module, seed: int, scale: float = 0.1) -> None:
    """Move all weights away from their initial zeros and ones, so that a test sees every part at work."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)


def new_model(codec: MiniCodec, seed: int = 0, **changes: object) -> MobileSpeechModel:
    """A tiny model, in evaluation mode, with the given switches of its config."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MobileSpeechModel(MODEL.model_copy(update=changes), codec.config, codec.codebooks())
    stir(model, seed)
    return model.eval()


@pytest.fixture(scope="session")
def codec() -> MiniCodec:
    """A codec whose codebooks are fitted to 6 s of artificial speech; its decoder is untrained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = MiniCodec(CODEC)
    codec.fit([torch.from_numpy(speech(2.0, seed)) for seed in range(3)])
    return codec.eval()


@pytest.fixture(scope="session")
def model(codec) -> MobileSpeechModel:
    return new_model(codec)


def write_corpus(root: Path) -> None:
    """16 recordings of two speakers with a manifest, as a data folder has it: 12 of set train, 4 of set dev."""
    rows = ["set\tutt\tspeaker\tsex\tseconds\tpath\ttext"]
    for index in range(16):
        wave = speech(1.5 + 0.1 * (index % 8), index)
        name = f"{index % 2}-{index:02}"
        soundfile.write(root / f"{name}.flac", wave, 16_000)
        part = "train" if index < 12 else "dev"
        rows.append(f"{part}\t{name}\t{index % 2}\tF\t{len(wave) / 16_000}\t{name}.flac\tA TEXT")
    (root / "manifest.tsv").write_text("\n".join(rows) + "\n")


def fake_alignments(items, out: Path, workers: int) -> Path:
    """Stands in for `align_corpus`: random words at even distances; the forced aligner has tests of its own."""
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, path, _, *part in items:
        seconds = part[1] if part else soundfile.info(path).duration
        phones = ["_"]
        for word in range(5):
            phones += [["AA1", "B"], ["T", "IY0", "N"], ["S", "OW1"]][(word + len(lines)) % 3] + ["_"]
        ends = [seconds * (i + 1) / len(phones) for i in range(len(phones))]
        row = {"id": name, "phones": phones, "starts": [0.0, *ends[:-1]], "ends": ends}
        lines.append(json.dumps(row))
    out.write_text("\n".join(lines) + "\n")
    return out


@pytest.fixture(scope="session")
def cuts(codec, tmp_path_factory) -> dict[str, CutSet]:
    """The corpus of `write_corpus`, prepared by the package's own code: {"train": ..., "dev": ...}."""
    root = tmp_path_factory.mktemp("corpus")
    write_corpus(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MS_DATA", str(root))
        patch.setenv("MS_RUNS", str(root / "runs"))
        patch.setattr(prepare, "align_corpus", fake_alignments)
        return {split: prepare.prepare(PRESET, split, codec).to_eager() for split in ("train", "dev")}
