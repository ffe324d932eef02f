"""The chain of notebooks: what runs, what is skipped, and what happens when something is wrong."""

import json
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

from ms_core import paths
from ms_core.cli import app
from ms_core.report import pipeline
from ms_core.report.pipeline import PipelineError, find_stage, parse_parameters, plan, reproduce

STAGES = ("01_one", "02_two")
PARAMETERS = 'PRESET = "smoke"  # one of three\nCOUNT = 3\nRATE = 0.5\n'


def write_notebook(path: Path, *cells: str, parameters: str = PARAMETERS) -> None:
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[tagged, *map(nbformat.v4.new_code_cell, cells)])
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, path)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> None:
    """Results and figures go to a folder of the test's own."""
    monkeypatch.setenv("MS_HOME", str(tmp_path))


@pytest.fixture
def notebooks(tmp_path) -> Path:
    """Two notebooks that each add a line to a file beside them."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in STAGES:
        write_notebook(folder / f"{name}.ipynb", f"with open('log', 'a') as f:\n    f.write(f'{name} {{COUNT}}\\n')")
    return folder


def run(notebooks: Path, **options) -> list[str]:
    return reproduce("smoke", notebooks=notebooks, stages=STAGES, echo=lambda _: None, **options)


def test_a_stage_is_found_by_name_number_and_title():
    for name in ("02_codec", "02", "2", "codec"):
        assert pipeline.STAGES[find_stage(name)] == "02_codec"
    with pytest.raises(PipelineError, match="unknown stage 'codex': choose one of 01_data_prep"):
        find_stage("codex")


def test_parameters_are_read_as_the_notebooks_have_them(notebooks):
    assert parse_parameters(["A=3", "D=text", "E=", "F=a=b"]) == {"A": "3", "D": "text", "E": "", "F": "a=b"}
    for bad in ("A", "1A=3"):
        with pytest.raises(PipelineError, match="parameter"):
            parse_parameters([bad])
    texts = 'PRESET = "smoke"\nTEXT = "a"\nVOICE = ""\nMANY = [1]\nCOUNT = 3\n'
    for name in STAGES:
        write_notebook(notebooks / f"{name}.ipynb", parameters=texts)
    for text, read in (
        ("VOICE=8123", "8123"), ("TEXT=Yes", "Yes"), ("TEXT=Note: this", "Note: this"), ("TEXT=null", "null"),
        ("MANY=[2, 3]", [2, 3]), ("COUNT=4", 4),
    ):  # fmt: skip
        (stage, _) = plan("smoke", parse_parameters([text]), notebooks=notebooks, stages=STAGES)
        assert stage.parameters[text.partition("=")[0]] == read
    with pytest.raises(PipelineError, match="not a YAML value"):
        plan("smoke", {"MANY": "[1"}, notebooks=notebooks, stages=STAGES)


def test_only_what_changed_runs_again(notebooks, tmp_path, monkeypatch):
    home = tmp_path / "user"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("JUPYTER_PATH", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    record = paths.results("smoke") / "one.json"
    write = f"from pathlib import Path\nPath({str(record)!r}).write_text('[]')"
    write_notebook(
        notebooks / "01_one.ipynb", f"with open('log', 'a') as f:\n    f.write(f'01_one {{COUNT}}\\n')\n{write}"
    )
    assert run(notebooks, dry_run=True) == list(STAGES)
    assert not (notebooks / "log").exists()
    record.parent.mkdir(parents=True)
    assert run(notebooks) == list(STAGES)
    assert (notebooks / "log").read_text() == "01_one 3\n02_two 3\n"
    folder = paths.results("smoke") / "notebooks"
    assert sorted(p.name for p in folder.iterdir()) == ["01_one.ipynb", "02_two.ipynb"]
    assert [p.name for p in (paths.run("smoke") / "notebooks").iterdir()] == ["stages.json"]
    assert list(home.iterdir()) == []  # profile and connection files lie elsewhere
    assert run(notebooks) == [] and run(notebooks, dry_run=True) == []

    write_notebook(notebooks / "02_two.ipynb", "done = COUNT")
    assert run(notebooks, dry_run=True) == ["02_two"]
    assert run(notebooks) == ["02_two"]
    assert run(notebooks, parameters={"COUNT": 4}, dry_run=True) == list(STAGES)
    assert run(notebooks, only="1", dry_run=True) == ["01_one"]  # named stages run, up to date or not
    assert run(notebooks, first="two", dry_run=True) == ["02_two"]
    (folder / "02_two.ipynb").unlink()
    record.unlink()
    assert run(notebooks, dry_run=True) == list(STAGES)  # what they wrote is gone


def test_a_stage_rests_on_what_it_imports(tmp_path, monkeypatch):
    package = tmp_path / "ms_core"
    monkeypatch.setenv("MS_DATA", str(tmp_path))
    notebook = tmp_path / "one.ipynb"
    write_notebook(notebook, "from ms_core.room import used\nused.go()")
    first, last = (
        pipeline.Stage(name, notebook, notebook, {"PRESET": "mini"}) for name in ("any", pipeline.STAGES[-1])
    )
    inner = "def f():\n    from ms_core import deep\n    return deep\n"
    files = {
        "__init__.py": "", "room/__init__.py": "", "room/used.py": inner, "deep.py": "A = 1\n", "other.py": "B = 1\n",
        "assets/weights.safetensors": "one", "assets/__pycache__/x": "",
    }  # fmt: skip

    def digests(**changes: str) -> tuple[str, str]:
        for name, text in {**files, **changes}.items():
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(text)
        return pipeline.stage_digest(first, package), pipeline.stage_digest(last, package)

    before = digests()
    assert digests(**{"other.py": "B = 2\n"}) == before
    assert digests(**{"deep.py": '"""Told anew."""\n\nA = 1  # one\n'}) == before
    for name, text in (
        ("deep.py", "A = 2"), ("room/used.py", "C = 1"), ("room/__init__.py", "D = 1"),
        ("assets/weights.safetensors", "2"),
    ):  # fmt: skip
        assert digests(**{name: text})[0] != before[0], name
    (tmp_path / "manifest.tsv").write_text("x")
    heard = digests()
    assert heard[0] != before[0]
    paths.results("mini").mkdir(parents=True)
    (paths.results("mini") / "a.json").write_text("[]")
    assert digests()[0] == heard[0] and digests()[1] != heard[1]


def test_a_failing_cell_stops_the_chain_and_is_shown(notebooks):
    write_notebook(notebooks / "01_one.ipynb", "before = 1", "raise RuntimeError('no such moon')", "after = 1")
    with pytest.raises(PipelineError, match=r"01_one: cell \[4\] failed with RuntimeError: no such moon") as raised:
        run(notebooks, parameters={"COUNT": 2})
    assert "raise RuntimeError" in str(raised.value)
    folder = paths.run("smoke") / "notebooks"
    assert sorted(p.name for p in folder.iterdir()) == ["01_one.failed.ipynb", "stages.json"]
    sources = [cell.source for cell in nbformat.read(folder / "01_one.failed.ipynb", 4).cells]
    assert any("COUNT = 2" in source for source in sources)
    assert run(notebooks, dry_run=True) == list(STAGES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameters": {"COUNTS": 3}}, "no parameter 'COUNTS' to set in 01_one, 02_two: choose among COUNT, RATE"),
        ({"parameters": {"PRESET": "mini"}}, "use --preset"),
        ({"parameters": {"COUNT": "many"}}, "COUNT='many' of 01_one: expected a value like 3"),
        ({"parameters": {"COUNT": 2.5}}, "COUNT=2.5"),
        ({"only": "three"}, "unknown stage 'three'"),
        ({"first": "1", "only": "2"}, "exclude each other"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_runs(notebooks, options, message):
    with pytest.raises(PipelineError, match=message):
        run(notebooks, **options)
    assert not (notebooks / "log").exists() and not paths.run("smoke").exists()


def test_a_notebook_without_preset_or_file_is_refused(notebooks):
    write_notebook(notebooks / "02_two.ipynb", parameters="COUNT = 3")
    with pytest.raises(PipelineError, match="02_two: no PRESET"):
        run(notebooks)
    (notebooks / "02_two.ipynb").unlink()
    with pytest.raises(PipelineError, match="no notebook 02_two.ipynb"):
        run(notebooks)


def test_an_integer_may_stand_for_a_float(notebooks):
    stages = plan("smoke", {"RATE": 1, "COUNT": 5}, notebooks=notebooks, stages=STAGES)
    assert stages[0].parameters == {"PRESET": "smoke", "RATE": 1, "COUNT": 5}


def test_the_command_line_plans_the_real_chain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MS_HOME")
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in pipeline.STAGES:
        write_notebook(folder / f"{name}.ipynb")
    write_notebook(folder / "03_training.ipynb", parameters=PARAMETERS + "MINUTES = 1.0\n")
    result = CliRunner().invoke(app, ["reproduce", "--home", ".", "--dry-run", "--from", "training", "-p", "MINUTES=2"])
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == list(pipeline.STAGES[2:])
    assert json.loads(lines[0].split(" with ")[1]) == {"PRESET": "smoke", "MINUTES": 2}
    assert json.loads(lines[1].split(" with ")[1]) == {"PRESET": "smoke"}
    result = CliRunner().invoke(app, ["reproduce", "--home", ".", "--dry-run", "-p", "MINUTE=2"])
    assert result.exit_code == 2 and result.stderr.startswith("error: no parameter 'MINUTE'")
    assert not (tmp_path / "results").exists()
    for command in (["reproduce"], ["report"]):
        result = CliRunner().invoke(app, [*command, "--home", "nowhere"])
        assert result.exit_code == 2 and "there is no such folder" in result.stderr
    (tmp_path / "empty").mkdir()
    result = CliRunner().invoke(app, ["reproduce", "--home", "empty"])
    assert result.exit_code == 2 and "from the repository" in result.stderr
    for more in ([], ["--check"], ["--figures"]):
        result = CliRunner().invoke(app, ["report", "--home", "empty", *more])
        assert result.exit_code == 2 and "measure first, or give --home" in result.stderr
    assert list((tmp_path / "empty").iterdir()) == []
    result = CliRunner().invoke(app, ["reproduce", "--preset", "large"])
    assert result.exit_code == 2 and "'large'" in result.stderr
