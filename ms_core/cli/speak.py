"""`synth` and `voice`: a text in a voice, and a voice out of a recording."""

import time
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
