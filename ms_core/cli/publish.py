"""`export`, `report` and `reproduce`: a model for a phone, tables and pages, and the whole chain."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from ms_core import paths
from ms_core.cli.common import Model, PresetName, UsageError, command, load_config, load_model

Home = Annotated[
    Path | None,
    typer.Option(help="Folder with notebooks/, results/, figures/. Default: the repository, else the working folder."),
]


def set_home(folder: Path | None) -> None:
    """Let this process and its notebooks read and write in a folder. Raises UsageError where there is none."""
    if folder is not None:
        if not folder.is_dir():
            raise UsageError(f"--home {folder}: there is no such folder")
        os.environ["MS_HOME"] = str(folder.resolve())


@command("export")
def export(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    to: Annotated[Literal["onnx", "executorch"], typer.Option(help="The runtime that shall run it.")] = "onnx",
    model: Model = "mini",
    int8: Annotated[bool, typer.Option("--int8", help="8-bit weights.")] = False,
    watermark: Annotated[bool, typer.Option("--watermark", help="With what marks speech as synthetic: 5 MB.")] = False,
) -> None:
    """Export a model for a phone; `python -m ms_core.export.runtime` speaks with an ONNX export, without torch."""
    if to == "executorch":
        if watermark:
            raise UsageError("--watermark is of --to onnx, whose runtime marks")
        from ms_core.export.executorch import export_executorch, need_executorch

        need_executorch()
        tts, _, provenance = load_model(model)
        folder = export_executorch(tts, out, provenance, int8=int8)
    else:
        from ms_core.export.onnx import export as run

        tts, _, provenance = load_model(model)
        folder = run(tts, out, int8, provenance, watermark=watermark)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    typer.echo(f"{folder}: {size:.1f} MB")


@command("report")
def report(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[FIGURE]...", help="With --figures: these alone.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Whose results.")] = "mini",
    check: Annotated[bool, typer.Option("--check", help="Only check the tables that are there.")] = False,
    figures: Annotated[bool, typer.Option("--figures", help="Draw figures/<preset> instead.")] = False,
    form: Annotated[Literal["png", "svg", "pdf"], typer.Option("--format", help="Of the figures.")] = "png",
    latex: Annotated[Path | None, typer.Option(help="Write the tables of main.md to this .tex file instead.")] = None,
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
    home: Home = None,
) -> None:
    """Write the tables of results/<preset> out of its records, or check them; or draw figures, or write other pages."""
    set_home(home)
    if names and not figures:
        raise UsageError(f"{' '.join(names)}: names of figures go with --figures")
    if figures + check + bool(latex) + bool(sounds or test) > 1:
        raise UsageError("--figures, --check, --latex and pages are made one at a time: give one of them")
    if sounds or test:
        if audio is None:
            raise UsageError("--html and --listening-test need --audio")
        for option, path in (("--html", sounds), ("--listening-test", test)):
            if path:
                paths.check_out(path, ".html", option=option)
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
    if figures:
        from ms_core.report.figures import draw

        for path in draw(name, names or (), form):
            typer.echo(str(path))
        return
    if not any(paths.results(name).glob("**/*.json")):
        raise UsageError(f"no record in {paths.results(name)}: measure first, or give --home")
    from ms_core.files import write_atomic
    from ms_core.report import tables

    if latex:
        paths.check_out(latex, ".tex", option="--latex")
        from ms_core.report.latex import latex as written

        text = written(tables.main_markdown(tables.Results(name)))
        write_atomic(latex, lambda temporary: temporary.write_text(text))
        typer.echo(str(latex))
    elif check:
        tables.check(name)
        typer.echo(f"{paths.results(name)}: the tables say what the records say")
    else:
        for path in tables.write_tables(name):
            typer.echo(str(path))


@command("reproduce")
def reproduce(
    preset: PresetName = "smoke",
    first: Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Run it and all after it.")] = None,
    only: Annotated[str | None, typer.Option(metavar="STAGE", help="Run this stage alone.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run.")] = False,
    parameter: Annotated[list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="Of the notebooks.")] = None,
    home: Home = None,
) -> None:
    """Run the notebooks in order, small copies to results/<preset>/notebooks; what nothing changed for is skipped."""
    set_home(home)
    from ms_core.config import PRESET_NAMES
    from ms_core.report import pipeline

    if preset not in PRESET_NAMES:
        raise UsageError(f"--preset {preset!r}: the notebooks run one of {', '.join(PRESET_NAMES)}")
    values = pipeline.parse_parameters(parameter or [])
    ran = pipeline.reproduce(preset, values, first, only, dry_run, echo=lambda text: typer.echo(text, err=True))
    if not dry_run:
        typer.echo(f"{paths.results(preset) / 'notebooks'}: {len(ran)} stages ran")
