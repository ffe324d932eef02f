"""`synth`, `voice` and `detect`: a text in a voice, a voice out of a recording, and whether a sound is synthetic."""

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ms_core.cli.common import (
    Device,
    Model,
    Prompt,
    PromptSeconds,
    PromptText,
    Seed,
    Steps,
    UsageError,
    check_device,
    check_out,
    command,
    parse_steps,
)


class Watermark(StrEnum):
    """When `synth` marks; `ms_core.detect.watermark.POLICIES`."""

    auto = "auto"
    require = "require"
    off = "off"


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
    watermark: Annotated[
        Watermark,
        typer.Option(help="Mark the speech as synthetic: where the extra is installed, or else fail; or not."),
    ] = Watermark.auto,
    device: Device = "cpu",
) -> None:
    """Say a text with the voice of a recording. The WAV's comment says that it is synthetic, whatever --watermark."""
    from ms_core.text import phonemise

    if (voice is None) == (prompt is None) or (prompt is None) != (prompt_text is None):
        raise UsageError("give either --voice, or --prompt with --prompt-text")
    check_out(out, ".wav")
    passes = parse_steps(steps)
    phonemise(text)  # a text that cannot be read fails before the model is loaded

    import torch

    from ms_core.detect.watermark import perth, sign
    from ms_core.files import write_wav
    from ms_core.synthesis import MobileSpeech

    if watermark is Watermark.require:
        perth()  # what cannot be marked fails before it is spoken

    tts = MobileSpeech.from_pretrained(model, check_device(device))
    kept = prompt_seconds or None
    speaker = tts.load_voice(voice) if voice is not None else tts.voice(prompt, text=prompt_text, seconds=kept)
    start = time.perf_counter()
    wav = tts.synthesize(text, speaker, seed=seed, steps=passes)
    spent = time.perf_counter() - start
    wav, comment, told = sign(wav, tts.sample_rate, tts.checkpoint, watermark)
    write_wav(out, wav, tts.sample_rate, comment)
    typer.echo(told, err=True)
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


@command("detect")
def detect(files: Annotated[list[Path], typer.Argument(help="Recordings, at least half a second each.")]) -> None:
    """Say of recordings how probably this package's models spoke them, and whether they bear a watermark."""
    from ms_core.audio import read_audio
    from ms_core.detect import detect as run
    from ms_core.detect.watermark import PRESENT, WatermarkError, read

    for file in files:
        wav, rate = read_audio(file)
        found = run(wav, rate)
        verdict = "synthetic" if found.synthetic else "not found to be synthetic"
        try:
            marked = "watermark Perth" if read(wav, rate) >= PRESENT else "no watermark"
        except WatermarkError as error:
            marked = f"watermark not looked for ({error})"
        alarms = f"threshold at {found.false_alarms:.0%} false alarms"
        typer.echo(f"{file}: {found.probability:.3f}, {verdict} ({alarms}), {found.seconds:.2f} s looked at, {marked}")
