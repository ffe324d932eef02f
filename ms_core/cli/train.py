"""`data` and `train`: speech made ready, a codec and a model of it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ms_core import paths
from ms_core.cli import common as given
from ms_core.cli.common import UsageError, command, load_config, parse_changes

Corpus = Literal["librispeech", "libritts", "speechocean762"]


@command("data")
def data(
    preset: Annotated[str | None, typer.Option(help="Default: mini, or the one of the corpus to fetch.")] = None,
    download: Annotated[Corpus | None, typer.Option(help="Fetch this corpus instead of preparing it.")] = None,
    split: Annotated[str | None, typer.Option(help="One split; default: all three of the preset.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that align.")] = 2,
    shards: Annotated[
        Path | None, typer.Option(help="Also write each split as lhotse Shar to FOLDER/<split>, for --set data.train.")
    ] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Utterances a shard.")] = 1000,
    synthetic: Annotated[
        int | None, typer.Option(min=20, help="Instead: so many random utterances as FOLDER/train, a tenth as /dev.")
    ] = None,
    pack: Annotated[
        Path | None, typer.Option(help="Write train and dev to this file (.pack), for `train model --pack`.")
    ] = None,
    voices: Annotated[int, typer.Option(min=0, help="Also pack so many virtual voices (WORLD) of each reader.")] = 0,
    part_mb: given.PartMb = None,
    join: Annotated[Path | None, typer.Option(help="Instead: make this file of its numbered parts.")] = None,
    changes: given.Changes = None,
) -> None:
    """Align and tokenise a preset's speech, or fetch it into the data folder ($MS_DATA, else data/)."""
    if join:
        if pack or download or shards:
            raise UsageError("--join goes without --pack, --download and --shards")
        from ms_core.training.pack import join_file

        typer.echo(f"{join_file(join)}: joined")
        return
    config = load_config(preset or ("paper" if download == "libritts" else "mini"), changes)
    if (voices or part_mb) and not pack:
        raise UsageError("--voices and --part-mb are of --pack: give it too")
    if pack:
        if split or download or shards:
            raise UsageError("--pack takes the preset's train and dev: it goes without --split, --download, --shards")
        _pack(config, pack, voices, part_mb, workers)
        return
    if (synthetic and not shards) or (download and shards):
        raise UsageError("--synthetic needs --shards, and --download goes without it")
    if download:
        from ms_core.data.corpora import download as fetch

        source = config.data.model_copy(update={"corpus": download})
        typer.echo(f"{paths.data()}: {', '.join(fetch(source, split))}")
        return
    from ms_core.checkpoint import CheckpointError
    from ms_core.codec import load_codec
    from ms_core.data.corpora import read_cuts
    from ms_core.data.prepare import aligned
    from ms_core.data.shards import synthetic_cuts, write_shards
    from ms_core.training.runs import codec_folder, prepared

    made_up = {"train": synthetic, "dev": synthetic // 10} if synthetic else {}
    names = made_up or ([split] if split else dict.fromkeys([config.data.train, config.data.dev, config.data.test]))
    if shards and (there := [str(shards / name) for name in names if (shards / name).exists()]):
        raise UsageError(f"--shards: {', '.join(there)} is there already: remove it, or give another folder")
    try:
        codec = load_codec(codec_folder(config))
    except CheckpointError:
        if shards:
            raise
        codec = None

    def write(ready, name: str) -> None:
        written = write_shards(ready, shards / name, codec, shard_size)
        contents = f"{len(written.manifests)} shards, {written.utterances} utterances, {written.hours:.2f} h"
        typer.echo(f"{shards / name}: {contents}")

    for seed, (name, utterances) in enumerate(made_up.items()):
        write(synthetic_cuts(config, utterances, seed), name)
    for name in () if made_up else names:
        cuts = list(read_cuts(config.data, name))
        if codec is None:  # the codec is trained from this very speech; alignments serve every codec
            kept, what = len(aligned(config.data, name, cuts, workers)), "aligned, no codec to tokenise with yet"
        else:
            ready = prepared(config, name, codec, workers)
            kept, what = len(ready), f"aligned and tokenised for {codec.token_digest}"
        hours = sum(cut.duration for cut in cuts) / 3600
        typer.echo(f"{name}: {len(cuts)} utterances, {hours:.2f} h; {kept} {what}")
        if shards:
            write(ready, name)


def _pack(config, file: Path, voices: int, part_mb: int | None, workers: int) -> None:
    """Write a preset's pack and, where asked for, its parts."""
    paths.check_out(file, ".pack", option="--pack")
    if config.codec.kind != "mini":
        raise UsageError(f"--pack: preset {config.name} has codec {config.codec.kind!r}, a pack holds tokens of 'mini'")
    if "/" in config.data.train:
        raise UsageError(f"--pack: preset {config.name} trains on shards, {config.data.train}: no pack is needed")
    from ms_core.codec import load_codec
    from ms_core.training.assemble import assemble
    from ms_core.training.pack import split_file
    from ms_core.training.runs import codec_folder

    speech = assemble(config, load_codec(codec_folder(config)), voices, workers)
    speech.write(file)
    about = speech.about
    contents = f"{about['utterances']} utterances, {about['speech_hours']:.2f} h of {about['speakers']} speakers"
    typer.echo(f"{file}: {contents}, {voices} virtual voices of each, {file.stat().st_size / 1e6:.1f} MB")
    for part in split_file(file, part_mb << 20) if part_mb else ():
        typer.echo(str(part))


@command("train")
def train(
    part: Annotated[
        Literal["codec", "model", "ablations", "detector"],
        typer.Argument(help="The codec first, then the model; or the ablation study's variants; or the detector."),
    ],
    preset: given.PresetName = "mini",
    minutes: Annotated[float | None, typer.Option(min=0, help="Stop after so many minutes and export.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that is there.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Discard the run that is there.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: <runs>/<preset>/<part>.")] = None,
    start: Annotated[Path | None, typer.Option(help="Begin with the weights of this checkpoint (model only).")] = None,
    pack: Annotated[
        list[Path] | None, typer.Option(help="Train the model from this pack of `data --pack`; more than once: all.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Of the ablations, these alone, in this order.")
    ] = None,
    part_mb: given.PartMb = None,
    processes: given.Processes = 1,
    changes: given.Changes = None,
) -> None:
    """Train the codec or the model of a preset; a run that was stopped goes on with --resume.

    Ablations (presets/ablations.yaml) are trained from a pack one after another, each into a folder of its own: what is
    finished there is left alone, and the same command goes on where it was stopped. --minutes are of each. The detector
    is fitted to recordings of the preset's training speakers; what it knows of our speech needs no training.
    """
    if part == "ablations":
        if not pack or resume or replace or start or part_mb or processes != 1:
            raise UsageError("ablations need --pack, and take --only, --minutes, --out, --preset and --set beside it")
        _train_ablations(preset, pack, out, only, minutes, changes)
        return
    if only:
        raise UsageError(f"--only {only} is of ablations alone")
    config = load_config(preset, changes)
    if part == "detector":
        if pack or minutes or resume or replace or start or part_mb or processes != 1:
            raise UsageError("the detector takes --preset, --out and --set alone")
        from ms_core.training.detector import train_detector

        file = (out or paths.run(config.name) / "detector") / "config.json"
        typer.echo(f"{file}: detector, of {train_detector(config, file)} recordings")
        return
    if part_mb and not pack:
        raise UsageError("--part-mb is of --pack: give it too")
    from ms_core.training.launch import is_first, relaunched

    if relaunched(processes):
        return
    if pack:
        if part == "codec" or replace:
            raise UsageError("--pack trains a model, in a new folder or with --resume")
        from ms_core.training.acoustic import train_from_packs

        folder = out or paths.run(config.name) / "model"
        parts = part_mb << 20 if part_mb else None
        export = train_from_packs(config, pack, folder, minutes, resume, start, parts)
        if is_first():
            typer.echo(f"{export}: model")
        return
    from ms_core.training import runs as training_runs

    if part == "codec":
        export = training_runs.train_codec(config, minutes, resume, out, replace)
        done = f"{export}: codec"
    else:
        export = training_runs.train_model(config, minutes, resume, out, replace, start=start)
        pair = training_runs.trained_checkpoint(config, export)
        done = f"{export}: model; {pair}: codec and model, speak with `ms-core synth --model {pair}`"
    if training_runs.is_main():
        typer.echo(done)


def _train_ablations(
    preset: str, packs: list[Path], out: Path | None, only: str | None, minutes: float | None, changes: list[str] | None
) -> None:
    """Train the ablation study's variants, or those that are named."""
    from ms_core.config import load_preset, load_variants
    from ms_core.training.ablations import train_variants
    from ms_core.training.pack import Pack

    study = load_variants()
    variants = study.presets(load_preset(preset), parse_changes(changes))
    networks = {name: variant.network for name, variant in study.variants.items()}
    names = only.split(",") if only else list(variants)
    if unknown := [name for name in names if name not in variants]:
        raise UsageError(f"--only {','.join(unknown)}: choose among {', '.join(variants)}")
    chosen = {name: variants[name] for name in names}
    train_variants(chosen, Pack.read_all(packs), out or paths.runs() / "ablations", minutes, networks, typer.echo)
