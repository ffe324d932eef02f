"""The chain of notebooks: what runs, what is skipped, and what happens when something is wrong."""

import json
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

from ms_core import paths, pipeline
from ms_core.cli import app
from ms_core.pipeline import PipelineError, find_stage, parse_parameters, plan, reproduce

STAGES = ("01_one", "02_two")
PARAMETERS = 'PRESET = "smoke"  # one of three\nCOUNT = 3\nRATE = 0.5\n'


def write_notebook(path: Path, *cells: str, parameters: str = PARAMETERS) -> None:
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[tagged, *map(nbformat.v4.new_code_cell, cells)])
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, path)


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


def test_parameters_are_read_as_yaml():
    values = parse_parameters(["A=3", "B=0.5", "C=[1, 2]", "D=text", "E=", "F=a=b"])
    assert values == {"A": 3, "B": 0.5, "C": [1, 2], "D": "text", "E": None, "F": "a=b"}
    for bad in ("A", "1A=3", "A=[1"):
        with pytest.raises(PipelineError, match="parameter"):
            parse_parameters([bad])


def test_only_what_changed_runs_again(notebooks, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("JUPYTER_PATH", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert run(notebooks, dry_run=True) == list(STAGES)
    assert not (notebooks / "log").exists()
    assert run(notebooks) == list(STAGES)
    assert (notebooks / "log").read_text() == "01_one 3\n02_two 3\n"
    folder = paths.run("smoke") / "notebooks"
    assert sorted(p.name for p in folder.iterdir()) == [".doit.json", "01_one.ipynb", "02_two.ipynb"]
    assert list(home.iterdir()) == []  # kernelspec, profile and connection files lie elsewhere
    assert run(notebooks) == [] and run(notebooks, dry_run=True) == []

    write_notebook(notebooks / "02_two.ipynb", "done = COUNT")
    assert run(notebooks, dry_run=True) == ["02_two"]
    assert run(notebooks) == ["02_two"]
    assert run(notebooks, parameters={"COUNT": 4}, dry_run=True) == list(STAGES)
    assert run(notebooks, only="1", dry_run=True) == ["01_one"]  # named stages run, up to date or not
    assert run(notebooks, first="two", dry_run=True) == ["02_two"]
    (folder / "02_two.ipynb").unlink()
    assert run(notebooks, dry_run=True) == ["02_two"]
    monkeypatch.setattr(pipeline, "package_digest", lambda: "another")
    assert run(notebooks, dry_run=True) == list(STAGES)


def test_weights_recordings_and_results_are_inputs(tmp_path, monkeypatch):
    package = tmp_path / "package"
    (package / "assets").mkdir(parents=True)
    (package / "assets" / "weights.safetensors").write_bytes(b"one")
    before = pipeline.package_digest(package)
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "x.pyc").write_bytes(b"compiled")
    assert pipeline.package_digest(package) == before
    (package / "assets" / "weights.safetensors").write_bytes(b"two")
    assert pipeline.package_digest(package) != before
    monkeypatch.setenv("MS_DATA", str(tmp_path))
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    last, first = (
        pipeline.Stage(name, tmp_path / "n.ipynb", tmp_path / "o.ipynb", {"PRESET": "mini"})
        for name in (pipeline.STAGES[-1], pipeline.STAGES[0])
    )
    seen = [(pipeline.input_digest(first), pipeline.input_digest(last))]
    for file in (tmp_path / "manifest.tsv", tmp_path / "results" / "mini" / "a.json"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
        seen.append((pipeline.input_digest(first), pipeline.input_digest(last)))
    assert seen[0][0] != seen[1][0] == seen[2][0] and len({late for _, late in seen}) == 3


def test_a_failing_cell_stops_the_chain_and_is_shown(notebooks):
    write_notebook(notebooks / "01_one.ipynb", "before = 1", "raise RuntimeError('no such moon')", "after = 1")
    with pytest.raises(PipelineError, match=r"01_one: cell \[4\] failed with RuntimeError: no such moon") as raised:
        run(notebooks, parameters={"COUNT": 2})
    assert "raise RuntimeError" in str(raised.value)
    folder = paths.run("smoke") / "notebooks"
    assert sorted(p.name for p in folder.iterdir()) == [".doit.json", "01_one.failed.ipynb"]
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
    for name in pipeline.STAGES:
        write_notebook(tmp_path / f"{name}.ipynb")
    write_notebook(tmp_path / "03_training.ipynb", parameters=PARAMETERS + "MINUTES = 1.0\n")
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path)
    result = CliRunner().invoke(app, ["reproduce", "--dry-run", "--from", "training", "-p", "MINUTES=2"])
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == list(pipeline.STAGES[2:])
    assert json.loads(lines[0].split(" with ")[1]) == {"PRESET": "smoke", "MINUTES": 2}
    assert json.loads(lines[1].split(" with ")[1]) == {"PRESET": "smoke"}
    result = CliRunner().invoke(app, ["reproduce", "--dry-run", "-p", "MINUTE=2"])
    assert result.exit_code == 2 and result.stderr.startswith("error: no parameter 'MINUTE'")
    result = CliRunner().invoke(app, ["reproduce", "--preset", "large"])
    assert result.exit_code == 2 and "'large'" in result.stderr
