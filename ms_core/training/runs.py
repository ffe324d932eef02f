"""A preset from speech to a trained pair of codec and model; the command line and the notebooks call these.

Everything lies in the preset's own folder `<runs>/<preset>`: `codec-fit/` (principal components and codebooks, set once
from speech), `codec/` and `model/` (training runs, each with its `export/`), `tokens/` (prepared speech) and `pair/`
(the two exports side by side, which `MobileSpeech.from_pretrained` loads).
"""

import random
import shutil
from pathlib import Path

import torch
from accelerate import PartialState
from lhotse import CutSet

from ms_core import paths
from ms_core.checkpoint import CheckpointError
from ms_core.codec import Codec, load_codec
from ms_core.codec.mini import MiniCodec
from ms_core.config import ConfigError, Preset
from ms_core.data.corpora import DataError, read_cuts
from ms_core.data.prepare import prepare
from ms_core.files import sha256, write_atomic
from ms_core.model import MobileSpeechModel
from ms_core.training.acoustic import PackTask, training_device
from ms_core.training.assemble import assemble
from ms_core.training.decoder import DecoderTask
from ms_core.training.loop import LOG, RUN, STATE, train
from ms_core.training.pack import Pack

FIT_SECONDS = 1.7 * 3600  # speech from which codebooks are set, at most: 300 frames an entry. Our choice


def _state() -> PartialState:
    return PartialState(cpu=not torch.cuda.is_available())


def is_main() -> bool:
    """Whether this is the main one of the processes that `accelerate launch` started, or the only process."""
    return _state().is_main_process


def _one_first():
    """Within it the main process goes first and the others follow, so that what it wrote is there for them."""
    return _state().main_process_first()


def _need_mini(preset: Preset) -> None:
    if preset.codec.kind != "mini":
        raise ConfigError(
            f"preset {preset.name}: codec.kind is {preset.codec.kind!r}, which comes trained; only 'mini' is trained"
        )


def fit_codec(preset: Preset, replace: bool = False) -> Path:
    """Set the mini codec's principal components and codebooks from train speech, unless that was done before.

    Returns `<runs>/<preset>/codec-fit`. Raises ConfigError for a codec that comes trained, CheckpointError where
    another configuration's fit lies there (`replace` fits anew), DataError for speech that is missing or too little.
    """
    _need_mini(preset)
    folder = paths.run(preset.name) / "codec-fit"
    with _one_first():
        if (folder / "config.json").is_file() and not replace:
            if MiniCodec.load(folder).config != preset.codec:
                raise CheckpointError(f"{folder} was fitted for another codec config: replace it, or rename the preset")
            return folder
        codec, waves, seconds = MiniCodec(preset.codec), [], 0.0
        cuts = list(read_cuts(preset.data, preset.data.train))
        random.Random(preset.train_codec.seed).shuffle(cuts)  # all speakers, where not all of the speech is used
        for cut in cuts:
            waves.append(torch.from_numpy(cut.resample(preset.codec.sample_rate).load_audio()[0]))  # (l,)
            seconds += cut.duration
            if seconds > FIT_SECONDS:
                break
        try:
            left = codec.fit(waves, preset.train_codec.seed)
        except ValueError as error:
            raise DataError(f"split {preset.data.train!r}: {error}") from None
        provenance = {"name": preset.name, "data": preset.data.model_dump(mode="json"), "seed": preset.train_codec.seed}
        shares = [round(share, 4) for share in left]
        codec.save(folder, {**provenance, "speech_hours": round(seconds / 3600, 3), "variance_left": shares})
    return folder


def train_codec(
    preset: Preset,
    minutes: float | None = None,
    resume: bool = False,
    out: Path | None = None,
    replace: bool = False,
) -> Path:
    """Train the mini codec's decoder, after `fit_codec`; returns the folder of the export.

    minutes: stop after so many and export what there is. resume: go on with the run in `out` (by default
    `<runs>/<preset>/codec`); replace: discard that run and its fit first. Raises as `fit_codec` and `loop.train`.
    """
    _one_of(replace, resume)
    folder = Path(out or paths.run(preset.name) / "codec")
    codec = MiniCodec.load(fit_codec(preset, replace))
    _discard(folder, replace)
    train_cuts, dev_cuts = (read_cuts(preset.data, split) for split in (preset.data.train, preset.data.dev))
    try:
        task = DecoderTask(preset, codec, train_cuts, dev_cuts)
    except ValueError as error:
        raise DataError(f"preset {preset.name}: {error}") from None
    return train(task, folder, minutes, resume)


def codec_folder(preset: Preset) -> Path:
    """Where the codec lies that this preset's model speaks: the trained export, else the shipped one.

    EnCodec's published weights are fetched at the first call. Raises CheckpointError where there is none.
    """
    export = paths.run(preset.name) / "codec" / "export"
    if (export / "config.json").is_file():
        return export
    if preset.codec.kind == "encodec":
        from ms_core.codec.encodec import EncodecCodec

        with _one_first():
            if not (export / "config.json").is_file():
                EncodecCodec.from_official(preset.codec).save(export, {"origin": "published EnCodec weights"})
        return export
    shipped = paths.shipped(preset.name) / "codec"
    if (shipped / "config.json").is_file():
        return shipped
    raise CheckpointError(
        f"no codec in {export}, and none is shipped: run `ms-core train codec --preset {preset.name}` first"
    )


def prepared(preset: Preset, split: str, codec: Codec, workers: int = 2) -> CutSet:
    """`data.prepare.prepare`, done by one process while the others wait."""
    with _one_first():
        return prepare(preset, split, codec, workers)


def train_model(
    preset: Preset,
    minutes: float | None = None,
    resume: bool = False,
    out: Path | None = None,
    replace: bool = False,
    workers: int = 2,
    start: Path | None = None,
) -> Path:
    """Prepare train and dev speech with the preset's codec and train MobileSpeech on it; returns the export's folder.

    Options as in `train_codec`; `out` is `<runs>/<preset>/model` by default. start: a model checkpoint of the same
    sizes whose weights a new run starts from. Raises CheckpointError without a codec, or for an unfit checkpoint.
    """
    _one_of(replace, resume)
    folder = Path(out or paths.run(preset.name) / "model")
    codec = _load_codec_for(preset)
    pack = training_pack(preset, codec, workers)
    _discard(folder, replace)
    return train(PackTask(preset, pack, training_device(), start), folder, minutes, resume)


def training_pack(preset: Preset, codec: Codec, workers: int = 2) -> Pack:
    """`assemble` of the preset's speech, done by one process while the others wait."""
    with _one_first():
        return assemble(preset, codec, workers=workers)


def _load_codec_for(preset: Preset) -> Codec:
    """The codec of `codec_folder`; raises CheckpointError when its token grid is not the preset's."""
    folder = codec_folder(preset)
    codec = load_codec(folder)
    for key in ("n_q", "bins", "sample_rate", "hop"):
        value, expected = getattr(codec.config, key), getattr(preset.codec, key)
        if value != expected:
            raise CheckpointError(f"{folder}: {key} is {value}, preset {preset.name} wants {expected}: train its codec")
    return codec


def _one_of(replace: bool, resume: bool) -> None:
    if replace and resume:
        raise ConfigError("replace and resume exclude each other: give one of them")


def _discard(folder: Path, replace: bool) -> None:
    """With `replace`, remove a run's state, log and description (its export stays until the next one is written)."""
    with _one_first():
        for name in (STATE, LOG, RUN) if replace else ():
            (folder / name).unlink(missing_ok=True)


def trained_checkpoint(preset: Preset, model: Path | None = None) -> Path:
    """`<runs>/<preset>/pair` with `codec/` and `model/`, copies of the preset's codec and of its trained model.

    model: the export to take, by default `<runs>/<preset>/model/export`. `MobileSpeech.from_pretrained` loads the
    result. Raises CheckpointError when the model is missing or was trained on other tokens than the codec's.
    """
    model = Path(model or paths.run(preset.name) / "model" / "export")
    codec = codec_folder(preset)
    with _one_first():
        MobileSpeechModel.load(model, load_codec(codec))  # whole, and the two belong together
        return join_checkpoint(codec, model, paths.run(preset.name) / "pair")


def join_checkpoint(codec: Path, model: Path, folder: Path) -> Path:
    """Copy the files of a codec and of a model side by side into `folder`; files that are there already stay."""
    for part, source in (("codec", codec), ("model", model)):
        for name in ("weights.safetensors", "config.json"):
            target = folder / part / name
            if target.is_file() and sha256(target) == sha256(source / name):
                continue
            write_atomic(target, lambda temporary, file=source / name: shutil.copyfile(file, temporary))
    return folder
