"""The chain of notebooks, which papermill executes: each one again only when what it rests on has changed.

A stage rests on the code of its notebook and of those modules of the package that it imports, at any depth, without
their comments and docstrings; on the package's weights and presets, its parameters and the list of recordings; the last
one on all results as well. It is also run where a file that it wrote is missing. A small executed copy goes to
`results/<preset>/notebooks/`; while it runs, and where a cell failed, it lies in `<runs>/<preset>/notebooks/`.

papermill only warns of a parameter that a notebook does not have; here that is an error before anything runs.
"""

import ast
import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import yaml

from ms_core import paths
from ms_core.files import sha256, write_atomic, write_json

STAGES = (
    "01_data_prep",
    "02_codec",
    "03_training",
    "04_zero_shot",
    "05_ablations",
    "06_mobile_export",
    "07_tables_and_figures",
    "08_detection",
)
KERNEL = "ms-core"  # name of the temporary kernel, which is the interpreter that runs the pipeline
STATE = "stages.json"  # stage -> the digest of what it rests on, and the files that it wrote
START_TIMEOUT = 300  # seconds that a kernel may take to start; a busy machine can need more than papermill's 60


class PipelineError(ValueError):
    """A chain that cannot run as asked, or a notebook that failed; the message says which stage and why."""


@dataclass(frozen=True)
class Stage:
    """One notebook of the chain, with the parameters that it gets and where its executed copy goes."""

    name: str
    notebook: Path
    output: Path
    parameters: dict[str, object]


def find_stage(name: str, stages: Sequence[str] = STAGES) -> int:
    """Index of a stage by its name ("02_codec"), number ("02", "2") or title ("codec"). Raises PipelineError."""
    for index, stage in enumerate(stages):
        number, _, title = stage.partition("_")
        if name in (stage, number, number.lstrip("0"), title):
            return index
    raise PipelineError(f"unknown stage {name!r}: choose one of {', '.join(stages)}")


def parse_parameters(assignments: Sequence[str]) -> dict[str, str]:
    """["NAME=VALUE", ...] as a dict; `plan` reads the values as the notebooks' defaults say."""
    pairs = [text.partition("=") for text in assignments]
    if wrong := ["".join(pair) for pair in pairs if not pair[1] or not pair[0].isidentifier()]:
        raise PipelineError(f"parameter {wrong[0]!r}: give it as NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _read_as(stage: str, name: str, value: object, default: object) -> object:
    """A value where a notebook has `default`: text stays text where that is text, else it is YAML, as in [a, b]."""
    if isinstance(value, str) and not isinstance(default, str):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError:
            raise PipelineError(f"parameter {name}: {value!r} is not a YAML value") from None
    kinds = type(value), type(default)
    if None in (value, default) or kinds[0] is kinds[1] or kinds == (int, float):
        return value
    raise PipelineError(f"parameter {name}={value!r} of {stage}: expected a value like {default!r}")


def notebook_parameters(notebook: Path) -> dict[str, object]:
    """Names and defaults of a notebook's `parameters` cell, by papermill; a default that is no literal is None."""
    import papermill

    defaults = {}
    for name, known in papermill.inspect_notebook(notebook).items():
        try:
            defaults[name] = ast.literal_eval(known["default"])
        except (ValueError, SyntaxError):
            defaults[name] = None
    return defaults


def plan(
    preset: str,
    parameters: Mapping[str, object] | None = None,
    first: str | None = None,
    only: str | None = None,
    notebooks: Path | None = None,
    stages: Sequence[str] = STAGES,
) -> list[Stage]:
    """The stages that are asked for, checked before anything runs.

    Each notebook gets `PRESET` and those of `parameters` that its parameters cell has. Raises PipelineError for an
    unknown stage, a missing notebook, a parameter that no notebook of the plan has, or a value of another type.
    """
    notebooks = Path(notebooks or paths.home() / "notebooks")
    if first and only:
        raise PipelineError(f"--from {first} and --only {only} exclude each other: give one of them")
    at = find_stage(first or only, stages) if first or only else 0
    names = [stages[at]] if only else list(stages[at:])
    if missing := ", ".join(f"{name}.ipynb" for name in names if not (notebooks / f"{name}.ipynb").is_file()):
        raise PipelineError(f"no notebook {missing} in {notebooks}: take it from the repository, or give --home FOLDER")
    known = {name: notebook_parameters(notebooks / f"{name}.ipynb") for name in names}
    if without := [name for name, defaults in known.items() if "PRESET" not in defaults]:
        raise PipelineError(f"{', '.join(without)}: no PRESET in a cell tagged `parameters`")
    given = dict(parameters or {})
    choices = sorted({key for defaults in known.values() for key in defaults} - {"PRESET"})
    if unknown := [key for key in given if key not in choices]:
        hint = "use --preset" if unknown[0] == "PRESET" else f"choose among {', '.join(choices) or 'none'}"
        raise PipelineError(f"no parameter {unknown[0]!r} to set in {', '.join(names)}: {hint}")
    planned, folder = [], paths.results(preset) / "notebooks"
    for name, defaults in known.items():
        own = {key: _read_as(name, key, value, defaults[key]) for key, value in given.items() if key in defaults}
        file = f"{name}.ipynb"
        planned.append(Stage(name, notebooks / file, folder / file, {"PRESET": preset, **own}))
    return planned


def _bare(code: str) -> str:
    """Python without comments, docstrings and blank space."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = node.body[1:] if ast.get_docstring(node) and node.body[1:] else node.body
    return ast.unparse(tree)


def _imported(code: str, package: Path) -> set[Path]:
    """The files of the package that code imports, at any depth, with the `__init__.py` of their rooms."""
    files: set[Path] = set()
    waiting = [code]
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name}" for name in names]
            for root, *parts in (name.split(".") for name in names):
                places = [package.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)] * (root == package.name)
                modules = [form for place in places for form in (place / "__init__.py", place.with_suffix(".py"))]
                new = {file for file in modules if file.is_file()} - files
                files |= new
                waiting += [file.read_text() for file in new]
    return files


def stage_digest(stage: Stage, package: Path = paths.PACKAGE) -> str:
    """sha256 over what a stage rests on: see above."""
    import nbformat

    cells = [cell.source for cell in nbformat.read(stage.notebook, as_version=4).cells if cell.cell_type == "code"]
    code = "\n".join(cells)
    digest = hashlib.sha256(json.dumps([stage.parameters, _bare(code)]).encode())
    for file in sorted(_imported(code, package)):
        digest.update(f"{file.relative_to(package)}\n{_bare(file.read_text())}\n".encode())
    inputs = [file for folder in ("assets", "presets") for file in sorted((package / folder).rglob("*"))]
    inputs += [paths.data() / "manifest.tsv"]
    if stage.name in STAGES[-2:]:
        inputs += sorted(paths.results(str(stage.parameters["PRESET"])).glob("*.json*"))
    for file in inputs:
        if file.is_file():
            digest.update(f"{file.name}\n{sha256(file)}\n".encode())
    return digest.hexdigest()


@contextlib.contextmanager
def own_kernel() -> Iterator[str]:
    """The name of a kernel that runs this very interpreter; all of Jupyter's own files go to a temporary folder.

    The user's home is not touched: kernelspec, connection files and IPython's profile lie in that folder.
    """
    with tempfile.TemporaryDirectory(prefix="ms-core-jupyter-") as name:
        root = Path(name)
        kernel = root / "kernels" / KERNEL
        kernel.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
        spec = {"argv": argv, "display_name": KERNEL, "language": "python"}
        (kernel / "kernel.json").write_text(json.dumps(spec))
        folders = ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
        changed = {"JUPYTER_PATH": str(root), **{key: str(root / key.lower()) for key in folders}}
        with mock.patch.dict(os.environ, changed):
            yield KERNEL


def execute(stage: Stage) -> None:
    """Run a notebook in its own folder and keep a small copy. Raises PipelineError with the failing cell's error."""
    import nbformat
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from ms_core.report.notebooks import shrink

    folder = paths.run(str(stage.parameters["PRESET"])) / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    running, failed = folder / f".{stage.name}.running.ipynb", folder / f"{stage.name}.failed.ipynb"
    try:
        with own_kernel() as kernel:
            papermill.execute_notebook(
                stage.notebook,
                running,
                stage.parameters,
                kernel_name=kernel,
                language="python",
                progress_bar=sys.stderr.isatty(),
                start_timeout=START_TIMEOUT,
                cwd=stage.notebook.parent,
            )
    except BaseException as error:
        if running.is_file():
            running.replace(failed)
        if isinstance(error, PapermillExecutionError):
            raise PipelineError(
                f"{stage.name}: cell [{error.exec_count}] failed with {error.ename}: {error.evalue}\n"
                f"{error.source.rstrip()}\nthe notebook up to there is {failed}"
            ) from None
        raise
    executed = shrink(nbformat.read(running, as_version=4))
    write_atomic(stage.output, lambda temporary: nbformat.write(executed, temporary))
    running.unlink()
    failed.unlink(missing_ok=True)


def reproduce(
    preset: str = "smoke",
    parameters: Mapping[str, object] | None = None,
    first: str | None = None,
    only: str | None = None,
    dry_run: bool = False,
    notebooks: Path | None = None,
    stages: Sequence[str] = STAGES,
    echo: Callable[[str], object] = print,
) -> list[str]:
    """Run the chain for a preset, or with `first` (that stage and all after) or `only` (that stage) a part of it.

    Without `first` and `only` a stage that is up to date is skipped; the stages that these name always run.
    Returns the names of the stages that ran, or with `dry_run` would run. Raises PipelineError as `plan` and `execute`.
    """
    chosen = plan(preset, parameters, first, only, notebooks, stages)
    file = paths.run(preset) / "notebooks" / STATE
    known = json.loads(file.read_text()) if file.is_file() else {}
    ran: list[str] = []
    for stage in chosen:
        before, digest = known.get(stage.name, {}), stage_digest(stage)
        there = stage.output.is_file() and all((paths.home() / name).is_file() for name in before.get("files", ()))
        if before.get("digest") == digest and there and not (first or only):
            echo(f"{stage.name}: up to date")
            continue
        ran.append(stage.name)
        if dry_run:
            echo(f"{stage.name}: would run with {json.dumps(stage.parameters)}")
            continue
        echo(f"{stage.name}: runs, see {stage.output}")
        write_json(file, {name: entry for name, entry in known.items() if name != stage.name})  # stale while it runs
        start = time.time_ns()
        execute(stage)
        known[stage.name] = {"digest": stage_digest(stage), "files": _written_since(start, preset)}
        write_json(file, known)
    return ran


def _written_since(start: int, preset: str) -> list[str]:
    """Records and figures of a preset that are newer than a time in nanoseconds, as paths from home."""
    files = [file for folder in (paths.results(preset), paths.figures(preset)) for file in folder.glob("*.*")]
    return sorted(str(file.relative_to(paths.home())) for file in files if file.stat().st_mtime_ns >= start)
