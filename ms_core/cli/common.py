"""What all commands share: the application, options, their checks, and errors in one line."""

import functools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
PromptText = Annotated[
    str | None,
    typer.Option(help="What is said in it. Default: what a recogniser hears, where extra eval is installed."),
]
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
    ours = type(error).__module__.partition(".")[0] == "ms_core"
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
        except BrokenPipeError:  # who listened has gone: click knows how to end
            raise
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


def parse_numbers(text: str | None, option: str, kind: type = int) -> tuple | None:
    """ "2,5,10" as numbers. Raises UsageError for what is no list of numbers above 0."""
    try:
        numbers = None if text is None else tuple(kind(part) for part in text.split(","))
    except ValueError:
        numbers = (0,)
    if numbers and min(numbers) <= 0:
        raise UsageError(f"{option} {text!r}: give numbers with commas; all must be above 0")
    return numbers


def check_device(name: str) -> str:
    """Raises UsageError for a device that is not there: nothing falls back to another one silently."""
    import torch

    if name != "cpu" and not (name.partition(":")[0] == "cuda" and torch.cuda.is_available()):
        raise UsageError(f"--device {name}: this machine has cpu{' and cuda' * torch.cuda.is_available()}")
    return name


def load_model(name: str, device: str = "cpu") -> tuple:
    """A model that speaks, its folder, and what that says of its training."""
    from ms_core.checkpoint import checkpoint_folder, read_provenance
    from ms_core.synthesis import MobileSpeech

    folder = checkpoint_folder(name)
    return MobileSpeech.from_pretrained(name, check_device(device)), folder, read_provenance(folder)


def load_config(name: str, changes: list[str] | None = None):
    """A preset with `--set` changes. Raises ConfigError for an unknown name or key, UsageError for no KEY=VALUE."""
    from ms_core.config import load_preset, override

    return override(load_preset(name), parse_changes(changes))


def parse_changes(changes: list[str] | None) -> dict[str, object]:
    """{key: value} of KEY=VALUE, the value read as YAML; raises UsageError."""
    import yaml

    pairs = [change.partition("=") for change in changes or []]
    try:
        values = {key: yaml.safe_load(value) for key, sign, value in pairs if sign}
    except yaml.YAMLError as error:
        raise UsageError(f"--set {' '.join(changes)}: not a YAML value ({error})") from None
    if wrong := [key for key, sign, _ in pairs if not sign]:
        raise UsageError(f"--set {wrong[0]!r}: give KEY=VALUE")
    return values


@app.callback(invoke_without_command=True)
def main(show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """MobileSpeech, replicated: zero-shot text-to-speech by masked filling of codec tokens."""
    if show_version:
        typer.echo(f"ms-core {version('ms-core')}")
        raise typer.Exit
