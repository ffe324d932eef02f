"""The command line: `ms-core synth | voice | data | train | evaluate | bench | cost | export | report | reproduce`.

What a person did wrong ends in one line on stderr and exit code 2; only a fault of ours shows a traceback. Whatever
writes a file writes it whole or not at all. Heavy libraries are imported inside the commands: `--help` must be quick.
"""

import functools
import json
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.metadata import requires, version
from pathlib import Path
from typing import Annotated

import typer

from ms_core import paths

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
WRONG_INPUT = 2  # exit code, as for a wrong option


class UsageError(ValueError):
    """Options that do not go together, or a value that an option cannot take."""


class Part(StrEnum):
    """What `train` trains."""

    codec = "codec"
    model = "model"
    ablations = "ablations"


class Runtime(StrEnum):
    """What `export` exports to."""

    onnx = "onnx"
    executorch = "executorch"


class Corpus(StrEnum):
    """What `data` can fetch."""

    librispeech = "librispeech"
    libritts = "libritts"
    speechocean762 = "speechocean762"


class Conditions(StrEnum):
    """Under which conditions `evaluate` lets a model speak; most are experiments of `conditions.py`."""

    plain = "plain"
    hard_texts = "hard-texts"
    noisy_prompts = "noisy-prompts"
    prompt_lengths = "prompt-lengths"
    exports = "exports"
    authors_clips = "authors-clips"


PRESET_OF = {Corpus.librispeech: "mini", Corpus.libritts: "paper", Corpus.speechocean762: "mini"}

Model = Annotated[str, typer.Option(help="A shipped model's name, or a folder with codec/ and model/.")]
PresetName = Annotated[str, typer.Option(help="smoke, mini, paper, or a .yaml file of the same form.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a config key, as in mask.alpha=0.5.")
]
Processes = Annotated[
    int, typer.Option(min=1, max=64, help="Of a training, on this machine; on a CPU of one thread each.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same speech.")]
Steps = Annotated[
    str | None, typer.Option(metavar="S,1,...", help="Decoding passes for each codec layer; default: the model's own.")
]
Prompt = Annotated[Path | None, typer.Option(help="Recording to take the voice from, 1 to 30 s.")]
PromptText = Annotated[str | None, typer.Option(help="What is said in it.")]
PromptSeconds = Annotated[
    float, typer.Option(min=0, help="Use the prompt's first words of about this length, s; 0 takes all of it.")
]
PartMb = Annotated[
    int | None, typer.Option(min=1, help="With --pack: also write what is made in numbered parts of so many MiB.")
]
Device = Annotated[str, typer.Option(help="cpu, or cuda for a GPU.")]


def extra_of(module: str, requirements: Iterable[str]) -> str | None:
    """The extra that brings a module, by a distribution's requirements; None for a module that no extra brings."""
    top = module.partition(".")[0].replace("_", "-").lower()
    for requirement in requirements if top != "ms-core" else ():
        name = re.match(r"[\w-]+", requirement)[0].replace("_", "-").lower()
        if name in (top, f"{top}-prebuilt") and (extra := re.search(r"""extra == ['"](\w+)""", requirement)):
            return extra[1]
    return None


def _said(error: Exception) -> str | None:
    """What to tell a person of an error, in one line; None for a fault of ours, which shall show its traceback."""
    from safetensors import SafetensorError  # what a full disk raises in its writer

    if isinstance(error, ImportError) and error.name:
        extra = extra_of(error.name, requires("ms-core") or ())
        return extra and f"{error.name} is not installed: run `pip install 'ms-core[{extra}]'`"
    ours = type(error).__module__.partition(".")[0] == "ms_core" or type(error).__module__ == __name__
    if not ours and not isinstance(error, OSError | SafetensorError):
        return None
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())


@contextmanager
def reported() -> Iterator[None]:
    """Turn errors that a person can mend into one line and exit code 2; show our warnings plainly, and all once."""

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        if Path(filename).is_relative_to(paths.PACKAGE):
            typer.echo(f"warning: {message}", err=True)
        else:
            typer.echo(warnings.formatwarning(message, category, filename, lineno, line), err=True, nl=False)

    with warnings.catch_warnings():
        warnings.simplefilter("once", UserWarning)
        warnings.showwarning = show
        try:
            yield
        except Exception as error:
            if (text := _said(error)) is None:
                raise
            typer.echo(f"error: {text}", err=True)
            raise typer.Exit(WRONG_INPUT) from None


def command(name: str) -> Callable:
    """Register a function as a command whose errors are reported."""

    def register(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            with reported():
                return function(*args, **kwargs)

        return app.command(name)(wrapped)

    return register


def parse_steps(text: str | None) -> tuple[int, ...] | None:
    """ "16,1,1" as (16, 1, 1). Raises UsageError for what is no list of positive whole numbers."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--steps {text!r}: give positive pass counts with commas, one for each codec layer")
    return tuple(int(part) for part in parts)


def parse_numbers(text: str | None, option: str, kind: type) -> tuple:
    """ "2,5,10" as numbers; none for None. Raises UsageError for what is no list of them."""
    try:
        return () if text is None else tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text!r}: give numbers with commas") from None


def check_out(path: Path, suffix: str, option: str = "--out") -> None:
    """Raises UsageError, before any work is done, for an output file that cannot be written."""
    if path.suffix.lower() != suffix:
        raise UsageError(f"{option} {path}: give a name that ends in {suffix}")
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder: give a file's name")
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {path.parent}")


def check_device(name: str) -> str:
    """Raises UsageError for a device that is not there: nothing falls back to another one silently."""
    import torch

    if name != "cpu" and not (name.partition(":")[0] == "cuda" and torch.cuda.is_available()):
        raise UsageError(f"--device {name}: this machine has cpu{' and cuda' * torch.cuda.is_available()}")
    return name


def load_config(name: str, changes: list[str] | None = None):
    """A preset with `--set` changes. Raises ConfigError for an unknown name or key, UsageError for no KEY=VALUE."""
    from ms_core.config import load_preset, override

    return override(load_preset(name), parse_changes(changes))


def parse_changes(changes: list[str] | None) -> dict[str, object]:
    """{key: value} of KEY=VALUE, the value read as YAML; raises UsageError."""
    import yaml

    values = {}
    for change in changes or []:
        key, sign, value = change.partition("=")
        if not sign:
            raise UsageError(f"--set {change!r}: give KEY=VALUE")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"--set {change!r}: {value!r} is not a YAML value") from None
    return values


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ms-core {version('ms-core')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """MobileSpeech, replicated: zero-shot text-to-speech by masked filling of codec tokens."""


@command("synth")
def synth(
    text: Annotated[str, typer.Option(help="What to say, in English.")],
    out: Annotated[Path, typer.Option(help="WAV file to write.")],
    prompt: Prompt = None,
    prompt_text: PromptText = None,
    voice: Annotated[str | None, typer.Option(help="A shipped voice's name or a voice file; no prompt then.")] = None,
    model: Model = "mini",
    seed: Seed = 0,
    steps: Steps = None,
    prompt_seconds: PromptSeconds = 3.0,
    device: Device = "cpu",
) -> None:
    """Say a text with the voice of a recording."""
    from ms_core.text import phonemise

    if (voice is None) == (prompt is None) or (prompt is None) != (prompt_text is None):
        raise UsageError("give either --voice, or --prompt with --prompt-text")
    check_out(out, ".wav")
    passes = parse_steps(steps)
    phonemise(text)  # a text that cannot be read fails before the model is loaded

    import torch

    from ms_core.files import write_wav
    from ms_core.synthesis import MobileSpeech

    tts = MobileSpeech.from_pretrained(model, check_device(device))
    kept = prompt_seconds or None
    speaker = tts.load_voice(voice) if voice is not None else tts.voice(prompt, text=prompt_text, seconds=kept)
    start = time.perf_counter()
    wav = tts.synthesize(text, speaker, seed=seed, steps=passes)
    spent = time.perf_counter() - start
    write_wav(out, wav, tts.sample_rate)
    seconds = len(wav) / tts.sample_rate
    typer.echo(f"{out}: {seconds:.2f} s of speech, RTF {spent / seconds:.3f} on {torch.get_num_threads()} threads")


@command("voice")
def voice(
    prompt: Annotated[Path, typer.Option(help="Recording to take the voice from, 1 to 30 s.")],
    prompt_text: Annotated[str, typer.Option(help="What is said in it.")],
    out: Annotated[Path, typer.Option(help="Voice file (.safetensors) to write.")],
    model: Model = "mini",
    prompt_seconds: PromptSeconds = 3.0,
) -> None:
    """Enrol a speaker: keep a recording's tokens, phones and durations in a file for `synth --voice`."""
    check_out(out, ".safetensors")
    from ms_core.synthesis import MobileSpeech

    tts = MobileSpeech.from_pretrained(model)
    made = tts.voice(prompt, text=prompt_text, seconds=prompt_seconds or None)
    made.save(out)
    seconds = made.codes.shape[1] / tts.codec.config.frame_rate
    typer.echo(f"{out}: {len(made.phones)} phones, {made.codes.shape[1]} frames, {seconds:.2f} s of the prompt")


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
    part_mb: PartMb = None,
    join: Annotated[Path | None, typer.Option(help="Instead: make this file of its numbered parts.")] = None,
    changes: Changes = None,
) -> None:
    """Align and tokenise a preset's speech, or fetch it into the data folder ($MS_DATA, else data/)."""
    if join:
        if pack or download or shards:
            raise UsageError("--join goes without --pack, --download and --shards")
        from ms_core.training.pack import join_file

        typer.echo(f"{join_file(join)}: joined")
        return
    config = load_config(preset or PRESET_OF.get(download, "mini"), changes)
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

        source = config.data.model_copy(update={"corpus": download.value})
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
        made = write_shards(ready, shards / name, codec, shard_size)
        found = f"{len(made.manifests)} shards, {made.utterances} utterances, {made.hours:.2f} h"
        typer.echo(f"{shards / name}: {found}")

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
    check_out(file, ".pack", "--pack")
    from ms_core.codec import load_codec
    from ms_core.training.assemble import assemble
    from ms_core.training.pack import split_file
    from ms_core.training.runs import codec_folder

    made = assemble(config, load_codec(codec_folder(config)), voices, workers)
    made.write(file)
    about = made.about
    said = f"{about['utterances']} utterances, {about['speech_hours']:.2f} h of {about['speakers']} speakers"
    typer.echo(f"{file}: {said}, {voices} virtual voices of each, {file.stat().st_size / 1e6:.1f} MB")
    for part in split_file(file, part_mb << 20) if part_mb else ():
        typer.echo(str(part))


@command("train")
def train(
    part: Annotated[Part, typer.Argument(help="The codec first, then the model; or the ablation study's variants.")],
    preset: PresetName = "mini",
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
    part_mb: PartMb = None,
    processes: Processes = 1,
    changes: Changes = None,
) -> None:
    """Train the codec or the model of a preset; a run that was stopped goes on with --resume.

    Ablations (presets/ablations.yaml) are trained from a pack one after another, each into a folder of its own: what is
    finished there is left alone, and the same command goes on where it was stopped. --minutes are of each.
    """
    if part is Part.ablations:
        if not pack or resume or replace or start or part_mb or processes != 1:
            raise UsageError(
                "ablations take --pack, --only, --minutes, --out, --preset and --set alone; --pack is needed"
            )
        _train_ablations(preset, pack, out, only, minutes, changes)
        return
    if only:
        raise UsageError(f"--only {only} is of ablations alone")
    config = load_config(preset, changes)
    if part_mb and not pack:
        raise UsageError("--part-mb is of --pack: give it too")
    from ms_core.training.launch import is_first, relaunched

    if relaunched(processes):
        return
    if pack:
        if part is Part.codec or replace:
            raise UsageError("--pack trains a model, in a new folder or with --resume")
        from ms_core.training.acoustic import train_from_packs

        folder = out or paths.run(config.name) / "model"
        parts = part_mb << 20 if part_mb else None
        export = train_from_packs(config, pack, folder, minutes, resume, start, parts)
        if is_first():
            typer.echo(f"{export}: model")
        return
    from ms_core.training import runs as training_runs

    if part is Part.codec:
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

    variants = load_variants().presets(load_preset(preset), parse_changes(changes))
    names = only.split(",") if only else list(variants)
    if unknown := [name for name in names if name not in variants]:
        raise UsageError(f"--only {','.join(unknown)}: choose among {', '.join(variants)}")
    train_variants({n: variants[n] for n in names}, packs, out or paths.runs() / "ablations", minutes, typer.echo)


@command("evaluate")
def evaluate(
    out: Annotated[Path, typer.Option(help="Folder for the records and the scores of each utterance.")],
    model: Model = "mini",
    split: Annotated[str, typer.Option(help="A split of the model's corpus, or paper-demo.")] = "test-clean-24spk",
    conditions: Annotated[
        Conditions, typer.Option(help="Also: hard texts, noisy prompts, prompts of 1 to 8 s, exports, authors' clips.")
    ] = Conditions.plain,
    limit: Annotated[
        int | None, typer.Option(min=1, help="So many utterances only; of hard texts, so many of each kind.")
    ] = None,
    voices: Annotated[int | None, typer.Option(min=1, help="Speakers of hard texts. Default: 3.")] = None,
    exported: Annotated[
        list[Path] | None, typer.Option(help="With --conditions exports: a folder that `export` wrote.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="M,...", help="Default: all, or wer,cer,sim_campp,distillmos.")
    ] = None,
    seed: Seed = 0,
    steps: Steps = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Also score the recordings and the codec.")
    ] = True,
    keep_audio: Annotated[bool, typer.Option("--keep-audio", help="Keep what was spoken as WAV.")] = False,
    milestone: Annotated[
        str | None, typer.Option(metavar="NOTE", help="Add a row that says NOTE to results/<preset>/runs.json.")
    ] = None,
    device: Device = "cpu",
) -> None:
    """Speak a split and let the judges score it beside the recordings, or under conditions beside a control."""
    passes = parse_steps(steps)
    plain = conditions is Conditions.plain
    if voices is not None and conditions is not Conditions.hard_texts:
        raise UsageError(f"--voices {voices} is of --conditions hard-texts alone")
    if bool(exported) is not (conditions is Conditions.exports):
        raise UsageError("--exported and --conditions exports go together: give both or neither")
    if not (baselines or plain):
        raise UsageError("--no-baselines is of plain evaluations: conditions have no baselines")
    if conditions is Conditions.authors_clips:
        _authors_clips(out, metrics, limit)
        return
    if milestone is not None and (not plain or passes):
        raise UsageError("--milestone is of plain evaluations with the model's own passes")
    from ms_core.evaluation.scoring import ALIGNED, SPOKEN

    possible = (*SPOKEN, *ALIGNED) if plain else SPOKEN
    chosen = metrics.split(",") if metrics else None
    if unknown := [name for name in chosen or () if name not in possible]:
        raise UsageError(f"--metrics: unknown {', '.join(unknown)}; choose among {', '.join(possible)}")
    import torch

    from ms_core.checkpoint import checkpoint_folder, read_provenance
    from ms_core.config import DataConfig, DecodingConfig, parse
    from ms_core.evaluation import run_history
    from ms_core.evaluation.conditions import EXPERIMENTS, METRICS, evaluate_experiment
    from ms_core.evaluation.eval_set import EvalSet
    from ms_core.evaluation.evaluate import evaluate as run
    from ms_core.evaluation.records import MILESTONES, Provenance
    from ms_core.synthesis import MobileSpeech

    tts, folder = MobileSpeech.from_pretrained(model, check_device(device)), checkpoint_folder(model)
    made = read_provenance(folder)
    system = f"mobilespeech-{made['name']}"
    if passes:
        if len(passes) != tts.codec.config.n_q:
            raise UsageError(f"--steps {steps}: give {tts.codec.config.n_q} pass counts, one for each codec layer")
        tts.decoding = parse(DecodingConfig, {**tts.decoding.model_dump(), "steps": passes}, "--steps")
    source = parse(DataConfig, made["data"], f"{folder}/model/config.json")
    made_by = {"threads": torch.get_num_threads(), "device": device, "steps": passes[0] if passes else None}
    provenance = Provenance.of(made["name"], folder, seed, tts.decoding.digest(), **made_by)
    if plain:
        trials = EvalSet.of_split(source, split, limit=limit)
        records = run(tts, system, trials, out, provenance, chosen or possible, baselines, keep_audio)
        if milestone is not None:
            run_history.add(paths.results(made["name"]) / MILESTONES, records, system, made, milestone)
    else:
        options = {} if voices is None else {"voices": voices}
        options |= {"folders": exported} if exported else {}
        study = EXPERIMENTS[conditions.value](EvalSet.of_split(source, split), limit, **options)
        records = evaluate_experiment(tts, system, study, out, provenance, chosen or METRICS, keep_audio)
    for record in records:
        if record.pair_with is None:
            name = record.name if plain else f"{record.place}\t{record.name}"
            typer.echo(f"{name}\t{record.metric}\t{record.value:g}")


def _authors_clips(out: Path, metrics: str | None, limit: int | None) -> None:
    """Score the clips that the authors published (the rows `authors/...` of the tables); no model speaks."""
    from ms_core.evaluation.evaluate import demo_evaluate
    from ms_core.evaluation.records import Provenance
    from ms_core.evaluation.scoring import SPOKEN

    chosen = metrics.split(",") if metrics else SPOKEN
    if unknown := [name for name in chosen if name not in SPOKEN]:
        raise UsageError(f"--metrics: unknown {', '.join(unknown)}; choose among {', '.join(SPOKEN)}")
    items = range(1, limit + 1) if limit else None
    file = out / "paper-demo.json"
    for record in demo_evaluate(file, Provenance.of("mini"), chosen, items, file.with_suffix(".jsonl")):
        if record.pair_with is None:
            typer.echo(f"{record.system}\t{record.metric}\t{record.value:g}")


@command("bench")
def bench(
    model: Model = "mini",
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.5, max=60, help="Length of the speech, about.")] = 10.0,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    peers: Annotated[
        bool, typer.Option("--peers", help="Also time networks of other systems' shapes, in turns with ours.")
    ] = False,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="All lengths on 1 and 2 threads in fp32 and bf16, and passes.")
    ] = False,
    lengths: Annotated[str | None, typer.Option(metavar="L,...", help="Of a sweep, s. Default: 2,5,10,20,30.")] = None,
    passes: Annotated[
        str | None, typer.Option(metavar="S,...", help="Of a sweep, in layer 1. Default: 1,2,4,8,16,32.")
    ] = None,
    training: Annotated[
        bool, typer.Option("--training", help="Instead: seconds of speech a second in the training of --preset.")
    ] = False,
    preset: PresetName = "mini",
    pack: Annotated[list[Path] | None, typer.Option(help="Of --training: its speech. Default: random tokens.")] = None,
    processes: Processes = 1,
    steps: Annotated[int, typer.Option(min=1, help="Of --training: steps that are timed.")] = 20,
    changes: Changes = None,
    prompt: Prompt = None,
    prompt_text: PromptText = None,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print records as JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file for the records.")] = None,
    device: Device = "cpu",
) -> None:
    """Measure speed (RTF by component) and peak memory; the default prompt is a recording that the package ships.

    A sweep times its passes, and the peers, at the length of --seconds; passes on one thread. --training times the
    parts of a training step.
    """
    if training:
        if sweep or peers:
            raise UsageError("--training goes with neither --sweep nor --peers")
        _bench_training(preset, changes, pack, processes, threads, steps, seed, as_json, out)
        return
    if pack or processes > 1 or changes:
        raise UsageError("--pack, --processes and --set are of --training: give it too")
    if not sweep and (lengths or passes):
        raise UsageError("--lengths and --passes are of --sweep: give it too, or use --seconds")
    if sweep and threads != 1:
        raise UsageError(f"--threads {threads}: a sweep runs on 1 and 2 threads, leave it out")
    if (sweep or peers) and device != "cpu":
        raise UsageError(f"--device {device}: --sweep and --peers compare speeds on cpu, leave it out")
    swept = parse_numbers(lengths, "--lengths", float), parse_numbers(passes, "--passes", int)
    if (prompt is None) != (prompt_text is None):
        raise UsageError("--prompt and --prompt-text go together: give both or neither")
    if out is not None:
        check_out(out, ".json")
    from ms_core.checkpoint import checkpoint_folder, read_provenance
    from ms_core.config import load_preset
    from ms_core.data.corpora import read_cuts
    from ms_core.evaluation.bench import bench as run
    from ms_core.evaluation.bench import bench_records, footprint_records, training_records
    from ms_core.evaluation.records import Provenance, write_records
    from ms_core.synthesis import MobileSpeech

    tts, folder = MobileSpeech.from_pretrained(model, check_device(device)), checkpoint_folder(model)
    made = read_provenance(folder)
    if prompt is None:
        smoke = load_preset("smoke").data
        cut = next(iter(read_cuts(smoke, smoke.test)))
        prompt, prompt_text = Path(cut.recording.sources[0].source), cut.supervisions[0].text
    provenance = Provenance.of(made["name"], folder, seed, tts.decoding.digest(), threads, device)
    system = f"mobilespeech-{made['name']}"
    if sweep:
        from ms_core.evaluation import sweep as study

        cells = study.plan(swept[0] or study.SECONDS, swept[1] or study.PASSES, seconds, tts.decoding.steps)
        found = study.sweep(tts, prompt, prompt_text, cells, repeats, seed)
        records = study.sweep_records(tts, found, provenance, system)
        records += study.agreement_records(tts, tts.voice(prompt, text=prompt_text), provenance, system)
    else:
        result = run(tts, prompt, prompt_text, seconds, threads, repeats, seed)
        records = bench_records(result, provenance, system, seconds)
    records += footprint_records(folder / "model" / "weights.safetensors", provenance, system)
    records += training_records(made, provenance, system)
    if peers:
        from ms_core.evaluation.peers import compare, comparison_records

        found = compare(tts, prompt, prompt_text, seconds, threads, repeats, seed)
        records += comparison_records(found, provenance, system, seconds)
    if out is not None:
        write_records(out, records)
    if as_json:
        typer.echo(json.dumps([record.model_dump(mode="json") for record in records], indent=1))
        return
    for record in records:
        peer = f"{record.name}\t" * (record.name != system)
        peer = f"{record.place}\t{record.threads}\t{peer}" if sweep else peer
        typer.echo(f"{peer}{record.metric}\t{record.value:g}\t{record.unit}")


def _bench_training(preset, changes, pack, processes, threads, steps, seed, as_json, out) -> None:
    config = load_config(preset, changes)
    if out is not None:
        check_out(out, ".json")
    from ms_core.training.launch import is_first, relaunched

    if relaunched(processes):
        return
    from ms_core.evaluation.bench import torch_threads
    from ms_core.evaluation.bench_training import speed_records
    from ms_core.evaluation.records import Provenance, write_records
    from ms_core.training.speed import measure_preset

    with torch_threads(threads):
        found, speech = measure_preset(config, pack or [], steps, seed)
    if not is_first():
        return
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    provenance = Provenance.of(config.name, None, seed, config.digest(), threads, device)
    records = speed_records(found, provenance, processes, speech)
    if out is not None:
        write_records(out, records)
    if as_json:
        typer.echo(json.dumps([record.model_dump(mode="json") for record in records], indent=1))
        return
    for record in records:
        typer.echo(f"{record.metric}\t{record.value:g}\t{record.unit}")


@command("cost")
def cost(
    seconds: Annotated[float, typer.Option(min=0.5, max=60, help="Length of the speech of one training step.")] = 10.0,
    out: Annotated[Path | None, typer.Option(help="JSON file for the records.")] = None,
) -> None:
    """Count the operations of training of presets paper and mini, and work out what large corpora would cost."""
    if out is not None:
        check_out(out, ".json")
    from ms_core.evaluation.costs import cost_records, cost_table
    from ms_core.evaluation.records import write_records

    records = [record for name in ("paper", "mini") for record in cost_records(load_config(name), seconds)]
    if out is not None:
        write_records(out, records)
    for record in records:
        typer.echo(f"{record.system}\t{record.metric}\t{record.value:g}\t{record.unit}")
    typer.echo("\n" + cost_table(records), nl=False)


@command("export")
def export(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    to: Annotated[Runtime, typer.Option(help="The runtime that shall run it.")] = Runtime.onnx,
    model: Model = "mini",
    int8: Annotated[bool, typer.Option("--int8", help="8-bit weights.")] = False,
) -> None:
    """Export a model for a phone; `python -m ms_core.export.runtime` speaks with an ONNX export, without torch."""
    from ms_core.checkpoint import checkpoint_folder, read_provenance
    from ms_core.synthesis import MobileSpeech

    if to is Runtime.executorch:
        from ms_core.export.executorch import export_executorch, need_executorch

        need_executorch()
        tts = MobileSpeech.from_pretrained(model)
        folder = export_executorch(tts, out, read_provenance(checkpoint_folder(model)), int8=int8)
    else:
        from ms_core.export.onnx import export as run

        made = read_provenance(checkpoint_folder(model))
        folder = run(MobileSpeech.from_pretrained(model), out, int8, made)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    typer.echo(f"{folder}: {size:.1f} MB")


@command("report")
def report(
    preset: Annotated[str, typer.Option(help="Whose results.")] = "mini",
    check: Annotated[bool, typer.Option("--check", help="Only check the tables that are there.")] = False,
    sounds: Annotated[Path | None, typer.Option("--html", help="Write a page of sounds to this file instead.")] = None,
    test: Annotated[
        Path | None, typer.Option("--listening-test", help="Write a blind test to this file, and its key beside it.")
    ] = None,
    audio: Annotated[Path | None, typer.Option(help="What `evaluate --keep-audio` wrote, for the pages.")] = None,
    split: Annotated[str, typer.Option(help="Split of the pages.")] = "test-clean-24spk",
    limit: Annotated[int, typer.Option(min=1, help="Utterances of the pages.")] = 12,
    authors_clips: Annotated[
        bool, typer.Option("--authors-clips", help="Put the authors' clips in, of unclear licence (paper-demo).")
    ] = False,
) -> None:
    """Write the tables of results/<preset> out of its records, or check them; or write pages to hear and rate."""
    if sounds or test:
        if audio is None or check:
            raise UsageError("--html and --listening-test need --audio, and go without --check")
        for option, path in (("--html", sounds), ("--listening-test", test)):
            if path:
                check_out(path, ".html", option)
        if sounds and test and sounds.resolve() == test.resolve():
            raise UsageError(f"--html and --listening-test are both {sounds}: give two names")
        from ms_core.report import sounds as pages

        study = pages.read_study(audio, split, limit, authors_clips)
        written = [pages.write_sound_page(sounds, study)] if sounds else []
        for path in written + (pages.write_listening_test(test, study) if test else []):
            typer.echo(f"{path}: {len(study.utterances)} utterances, {path.stat().st_size / 1e6:.1f} MB")
        return
    if audio or authors_clips:
        raise UsageError("--audio and --authors-clips are for --html or --listening-test: give one of them")
    name = load_config(preset).name
    from ms_core.report import tables

    if check:
        tables.check(name)
        typer.echo(f"{paths.results(name)}: the tables say what the records say")
        return
    for path in tables.write_tables(name):
        typer.echo(str(path))


@command("reproduce")
def reproduce(
    preset: PresetName = "smoke",
    first: Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Run it and all after it.")] = None,
    only: Annotated[str | None, typer.Option(metavar="STAGE", help="Run this stage alone.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run.")] = False,
    parameter: Annotated[list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="Of the notebooks.")] = None,
) -> None:
    """Run the notebooks in order; a stage that nothing changed for is skipped."""
    from ms_core import pipeline
    from ms_core.config import PRESET_NAMES

    if preset not in PRESET_NAMES:
        raise UsageError(f"--preset {preset!r}: the notebooks run one of {', '.join(PRESET_NAMES)}")
    values = pipeline.parse_parameters(parameter or [])
    ran = pipeline.reproduce(preset, values, first, only, dry_run, echo=lambda text: typer.echo(text, err=True))
    if not dry_run:
        typer.echo(f"{paths.run(preset) / 'notebooks'}: {len(ran)} stages ran")


if __name__ == "__main__":
    sys.exit(app())
