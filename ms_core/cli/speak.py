"""`synth`, `voice` and `detect`: texts in a voice, a voice out of a recording, and whether a sound is synthetic."""

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal

import typer

from ms_core import paths
from ms_core.cli import common as given
from ms_core.cli.common import UsageError, check_device, command, parse_numbers

SOME_FAILED = 1  # exit code where some lines of several were not spoken


@command("synth")
def synth(
    text: Annotated[str | None, typer.Option(help="What to say, in English; [pause:0.5], [voice:NAME], SSML.")] = None,
    text_file: Annotated[str | None, typer.Option(help="File of what to say; - is stdin.")] = None,
    jsonl: Annotated[
        str | None, typer.Option(help="File (- is stdin) of lines {text, voice, speed, variety, rhythm, seed, out}.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="WAV file to write, or a folder: a file for each line of a file.")
    ] = None,
    prompt: given.Prompt = None,
    prompt_text: given.PromptText = None,
    voice: Annotated[str | None, typer.Option(help="A shipped voice's name or a voice file; no prompt then.")] = None,
    model: given.Model = "mini",
    seed: given.Seed = 0,
    steps: given.Steps = None,
    prompt_seconds: given.PromptSeconds = 10.0,
    device: given.Device = "cpu",
    speed: Annotated[float, typer.Option(help="Tempo, 0.5 to 2; the pitch stays.")] = 1.0,
    variety: Annotated[float, typer.Option(help="0 to 1: how much seeds differ; 0 always says it the same.")] = 0.0,
    takes: Annotated[int, typer.Option(min=1, max=100, help="Say it so often, with one seed after the other.")] = 1,
    rhythm: Annotated[str | None, typer.Option(help="A second voice: its rhythm, the first one's timbre.")] = None,
    lexicon: Annotated[Path | None, typer.Option(help="File of pronunciations, one WORD PHONES... a line.")] = None,
    show_phones: Annotated[
        bool, typer.Option("--show-phones", help="Print words and phones; no --out needed.")
    ] = False,
    timestamps: Annotated[
        str | None,
        typer.Option(help="File for the times of words: .json, .srt or .vtt; for a folder the suffix alone."),
    ] = None,
    stream: Annotated[
        Literal["raw", "wav"] | None, typer.Option(help="Write to stdout while it speaks: 16-bit PCM, or WAV.")
    ] = None,
    watermark: Annotated[
        Literal["auto", "require", "off"],
        typer.Option(help="Mark the speech as synthetic: where the extra is installed, or else fail; or not."),
    ] = "auto",
) -> None:
    """Say texts with the voice of a recording. A WAV's comment says that it is synthetic, whatever --watermark."""
    options = SimpleNamespace(**locals())
    from ms_core.recordings.audio import read_audio
    from ms_core.speaking.lines import Request, shown_phones
    from ms_core.tokens import Voice

    if voice is not None and prompt is not None or prompt is None and prompt_text is not None:
        raise UsageError("give either --voice, or --prompt with --prompt-text")
    request = Request.of(options, parse_numbers(steps, "--steps"), prompt is not None)
    if show_phones:
        typer.echo(shown_phones(request.lines), err=stream is not None)
    if out is None and stream is None:
        return
    speaker = None if voice is None else Voice.load(voice)
    if prompt is not None:
        read_audio(prompt)  # what is no recording is refused before the model is loaded

    import torch

    from ms_core.synthesis import MobileSpeech

    tts = MobileSpeech.from_pretrained(model, check_device(device))
    if prompt is not None:
        speaker = enrolled(tts, prompt, prompt_text, prompt_seconds)
    threads = f" on {torch.get_num_threads()} threads"
    failures = request.speak(
        tts, speaker, lambda said: typer.echo(said + threads), lambda said: typer.echo(f"error: {said}", err=True)
    )
    if failures:
        raise typer.Exit(SOME_FAILED)


def enrolled(tts, prompt: Path, text: str | None, seconds: float):
    """The voice of a prompt; what was heard in it is told where its words were not given."""
    made = tts.voice(prompt, text=text, seconds=seconds or None)
    if text is None:
        typer.echo(f"heard in {prompt}: {made.meta['text']}", err=True)
    return made


@command("voice")
def voice(
    prompt: given.Prompt = None,
    prompt_text: given.PromptText = None,
    out: Annotated[Path | None, typer.Option(help="Voice file (.safetensors) to write.")] = None,
    model: given.Model = "mini",
    prompt_seconds: given.PromptSeconds = 10.0,
    adapt: Annotated[
        int,
        typer.Option(min=0, max=400, help="Also adapt to it by so many gradient steps, say 80."),
    ] = 0,
    listed: Annotated[bool, typer.Option("--list", help="Instead: list the voices that the package has.")] = False,
) -> None:
    """Enrol a speaker: keep a recording's tokens, phones and durations in a file for `synth --voice`."""
    if listed:
        from ms_core.tokens import Voice, shipped_voices

        for name in shipped_voices():
            meta = Voice.load(name).meta
            credit = ", ".join(meta[key] for key in ("source", "attribution", "licence") if key in meta)
            typer.echo(f"{name}\t{meta.get('sex', '')}\t{credit}")
        return
    if prompt is None or out is None:
        raise UsageError("give --prompt and --out, or --list")
    paths.check_out(out, ".safetensors")
    from ms_core.recordings.audio import read_audio

    read_audio(prompt)
    from ms_core.synthesis import MobileSpeech

    tts = MobileSpeech.from_pretrained(model)
    speaker = enrolled(tts, prompt, prompt_text, prompt_seconds)
    if adapt:
        from ms_core.training.adapt import adapt as adapted

        speaker = adapted(tts, speaker, adapt)
    speaker.save(out)
    seconds = speaker.codes.shape[1] / tts.codec.config.frame_rate
    typer.echo(f"{out}: {len(speaker.phones)} phones, {speaker.codes.shape[1]} frames, {seconds:.2f} s of the prompt")


@command("detect")
def detect(files: Annotated[list[Path], typer.Argument(help="Recordings, at least half a second each.")]) -> None:
    """Say of recordings how probably this package's models spoke them, and whether they bear a watermark."""
    from ms_core.detect import detect as run
    from ms_core.detect.watermark import PRESENT, WatermarkError, read
    from ms_core.recordings.audio import read_audio

    for file in files:
        wav, rate = read_audio(file)
        found = run(wav, rate)
        verdict = "synthetic" if found.synthetic else "not found to be synthetic"
        try:
            marked = "watermark Perth" if read(wav, rate) >= PRESENT else "no watermark"
        except WatermarkError as error:
            marked = f"watermark not looked for ({error})"
        alarms = f"threshold at {found.false_alarms:.1%} false alarms"
        typer.echo(f"{file}: {found.probability:.3f}, {verdict} ({alarms}), {found.seconds:.2f} s looked at, {marked}")
