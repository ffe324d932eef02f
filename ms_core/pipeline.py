"""The chain of notebooks: each is a doit task that papermill executes, again only when what it rests on has changed.

A stage rests on its notebook, the whole package with its weights, its parameters, the list of recordings, and the
executed notebook of the stage before; the last one on all results as well. Executed notebooks lie in
`<runs>/<preset>/notebooks/`: under a hidden name while they run, under their own name once whole, and as
`<stage>.failed.ipynb` when a cell failed.

papermill only warns of a parameter that a notebook does not have; here that is an error before anything runs.
"""

import ast
import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from ms_core import paths

STAGES = (
    "01_data_prep",
    "02_codec",
    "03_training",
    "04_zero_shot",
    "05_ablations",
    "06_mobile_export",
    "08_detection",  # before the tables of all results
    "07_tables_and_figures",
)
KERNEL = "ms-core"  # name of the temporary kernel, which is the interpreter that runs the pipeline
STATE = ".doit.json"
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


def parse_parameters(assignments: Sequence[str]) -> dict[str, object]:
    """["NAME=VALUE", ...] as a dict; a value is read as YAML, so that 3 is a number and [a, b] a list."""
    values = {}
    for text in assignments:
        name, sign, value = text.partition("=")
        if not sign or not name.isidentifier():
            raise PipelineError(f"parameter {text!r}: give it as NAME=VALUE")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise PipelineError(f"parameter {name}: {value!r} is not a YAML value") from None
    return values


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


def _same_kind(value: object, default: object) -> bool:
    """Whether a value may stand where a notebook has `default`; an int may stand for a float."""
    if value is None or default is None or type(value) is type(default):
        return True
    number = isinstance(value, int) and not isinstance(value, bool)
    return (isinstance(default, float) and number) or (isinstance(default, tuple) and isinstance(value, list))


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
    notebooks = Path(notebooks or paths.NOTEBOOKS)
    if first and only:
        raise PipelineError(f"--from {first} and --only {only} exclude each other: give one of them")
    names = list(stages)
    if only:
        names = [stages[find_stage(only, stages)]]
    elif first:
        names = list(stages[find_stage(first, stages) :])
    if missing := [name for name in names if not (notebooks / f"{name}.ipynb").is_file()]:
        raise PipelineError(f"no notebook {', '.join(f'{name}.ipynb' for name in missing)} in {notebooks}")
    known = {name: notebook_parameters(notebooks / f"{name}.ipynb") for name in names}
    if without := [name for name, found in known.items() if "PRESET" not in found]:
        raise PipelineError(f"{', '.join(without)}: no PRESET in a cell tagged `parameters`")
    wanted = dict(parameters or {})
    for key, value in wanted.items():
        having = {name: found[key] for name, found in known.items() if key in found}
        if key == "PRESET" or not having:
            choices = sorted({k for found in known.values() for k in found} - {"PRESET"})
            hint = "use --preset" if key == "PRESET" else f"choose among {', '.join(choices) or 'none'}"
            raise PipelineError(f"no parameter {key!r} to set in {', '.join(names)}: {hint}")
        for name, default in having.items():
            if not _same_kind(value, default):
                raise PipelineError(f"parameter {key}={value!r} of {name}: expected a value like {default!r}")
    folder = paths.run(preset) / "notebooks"
    return [
        Stage(
            name,
            notebooks / f"{name}.ipynb",
            folder / f"{name}.ipynb",
            {"PRESET": preset, **{k: v for k, v in wanted.items() if k in known[name]}},
        )
        for name in names
    ]


def package_digest(package: Path = paths.PACKAGE) -> str:
    """sha256 over all files of the package, shipped weights among them, by name and content."""
    return _digest(package, (path for path in package.rglob("*") if "__pycache__" not in path.parts))


def input_digest(stage: Stage) -> str:
    """sha256 over what a stage reads besides the package: the list of recordings; the last one, all results as well."""
    files = [paths.data() / "manifest.tsv"]
    if stage.name == STAGES[-1]:
        files += paths.results(str(stage.parameters["PRESET"])).glob("*.json*")
    return _digest(paths.ROOT, files)


def _digest(root: Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file()):
        digest.update(f"{os.path.relpath(path, root)}\n".encode() + path.read_bytes() + b"\n")
    return digest.hexdigest()


class Ledger:
    """What each stage was last made from: doit's tasks and its dependency file."""

    def __init__(self, file: Path):
        from doit.dependency import Dependency, JsonDB

        file.parent.mkdir(parents=True, exist_ok=True)
        self.dependency = Dependency(JsonDB, str(file))

    def task(self, stage: Stage, before: Path | None):
        """The doit task of a stage; `before` is the executed notebook of the stage before."""
        from doit.task import Task
        from doit.tools import config_changed

        source = hashlib.sha256(stage.notebook.read_bytes()).hexdigest()
        rests_on = {"parameters": json.dumps(stage.parameters), "notebook": source}
        rests_on |= {"package": package_digest(), "inputs": input_digest(stage)}
        earlier = [str(before)] if before and before.is_file() else []
        current = [config_changed(rests_on)]
        return Task(stage.name, None, file_dep=earlier, targets=[str(stage.output)], uptodate=current)

    def is_current(self, task) -> bool:
        return self.dependency.get_status(task, None).status == "up-to-date"

    def forget(self, task) -> None:
        """A stage that is about to run is not current, whatever happens to it."""
        self.dependency.remove_success(task)
        self.dependency.backend.dump()

    def save(self, task) -> None:
        task.save_extra_values()
        self.dependency.save_success(task)
        self.dependency.backend.dump()


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
        before = {key: os.environ.get(key) for key in changed}
        os.environ.update(changed)
        try:
            yield KERNEL
        finally:
            for key, value in before.items():
                os.environ.pop(key, None)
                if value is not None:
                    os.environ[key] = value


def execute(stage: Stage) -> None:
    """Run one notebook, in its own folder. Raises PipelineError with the failing cell's error."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    stage.output.parent.mkdir(parents=True, exist_ok=True)
    running = stage.output.with_name(f".{stage.name}.running.ipynb")
    failed = stage.output.with_suffix(".failed.ipynb")
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
    running.replace(stage.output)
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
    folder = paths.run(preset) / "notebooks"
    ledger = Ledger(folder / STATE)
    ran: list[str] = []
    for stage in chosen:
        index = list(stages).index(stage.name)
        before = folder / f"{stages[index - 1]}.ipynb" if index else None
        task = ledger.task(stage, before)
        current = ledger.is_current(task)
        if current and not (first or only) and not (dry_run and ran):  # what would run makes all after it stale
            echo(f"{stage.name}: up to date")
            continue
        ran.append(stage.name)
        if dry_run:
            echo(f"{stage.name}: would run with {json.dumps(stage.parameters)}")
            continue
        echo(f"{stage.name}: runs, see {stage.output}")
        ledger.forget(task)
        execute(stage)
        ledger.save(task)
    return ran
