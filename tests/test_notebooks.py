"""The notebooks keep one form, and the small pictures that they share say what they are given.

That they run is tested elsewhere: by `ms-core reproduce` and by `pytest --nbval notebooks`, which compares the stored
outputs of the check cells with new ones. Executed copies that are committed are small and name no machine's folder.
"""

import ast
import base64
import io
import re
import subprocess
import sys

import matplotlib as mpl
import nbformat
import numpy as np
import pytest
import soundfile
from IPython.display import Audio, Image
from PIL import Image as Picture

from ms_core import paths
from ms_core.report import notebooks, plots
from ms_core.report.pipeline import STAGES, notebook_parameters
from ms_core.report.style import save

NOTEBOOKS = {path.stem: path for path in sorted(paths.NOTEBOOKS.glob("*.ipynb"))}
LONGEST_FUNCTION, LONGEST_CELL, MOST_CODE_IN_A_ROW = 6, 32, 3
MASK = 1024
LARGEST_COPY, ALL_COPIES = 1_500_000, 8_000_000  # bytes of executed notebooks that are committed
MACHINE = r"/(home|root|work|tmp|Users)/"

pytestmark = pytest.mark.filterwarnings("error::nbformat.warnings.MissingIDFieldWarning")


@pytest.fixture(params=list(NOTEBOOKS))
def notebook(request):
    return nbformat.read(NOTEBOOKS[request.param], as_version=4)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def test_every_stage_has_its_notebook():
    assert set(NOTEBOOKS) == set(STAGES)


def test_form(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in code_cells(notebook):
        assert (cell.execution_count is None) == (not cell.outputs)  # nbval takes outputs of run cells alone


def test_opening(notebook):
    """Title and why, then one cell of imports, then the parameters."""
    first, imports, parameters = notebook.cells[:3]
    assert first.cell_type == "markdown" and re.match(r"# \d\. \S.*\n\n\S", first.source)
    statements = ast.parse(imports.source).body
    assert isinstance(statements[0], ast.Import | ast.ImportFrom)
    assert "parameters" in tags(parameters)
    later = [node for cell in code_cells(notebook)[1:] for node in ast.walk(ast.parse(cell.source))]
    assert not [ast.unparse(node) for node in later if isinstance(node, ast.Import | ast.ImportFrom)]


def test_parameters_are_commented_literals(notebook):
    cells = [cell for cell in code_cells(notebook) if "parameters" in tags(cell)]
    assert len(cells) == 1
    lines = cells[0].source.splitlines()
    for statement in ast.parse(cells[0].source).body:
        assert isinstance(statement, ast.Assign) and len(statement.targets) == 1
        assert statement.targets[0].id.isupper()
        ast.literal_eval(statement.value)
        assert "# " in lines[statement.lineno - 1], f"{statement.targets[0].id} has no comment on its legal values"


def test_smoke_is_the_default():
    for name, path in NOTEBOOKS.items():
        assert notebook_parameters(path)["PRESET"] == "smoke", name


def test_stored_outputs_stand_on_check_cells_alone(notebook):
    """A check cell asserts what it prints; all other cells are stored without output and not compared by nbval."""
    for cell in code_cells(notebook):
        if "check" in tags(cell):
            nodes = list(ast.walk(ast.parse(cell.source)))
            calls = {ast.unparse(n.func) for n in nodes if isinstance(n, ast.Call)}
            assert calls & {"print", "compare", "compare_numbers"}
            asserts = any(isinstance(n, ast.Assert) for n in nodes) or "AssertionError" in calls
            assert asserts or calls & {"compare", "compare_numbers"}
            assert not re.search(r"\b(True|False)$", cell.outputs[0].text, re.MULTILINE), "say a number instead"
            assert [output.output_type for output in cell.outputs] == ["stream"], cell.source
            assert cell.outputs[0].name == "stdout" and cell.outputs[0].text.strip()
        else:
            assert not cell.outputs, cell.source
            assert "nbval-ignore-output" in tags(cell), cell.source
    assert any("check" in tags(cell) for cell in code_cells(notebook))
    assert notebooks.strip(nbformat.from_dict(notebook)) == notebook  # nothing that a commit would take away
    stage = STAGES[int(notebook.cells[0].source[2]) - 1]
    # what notebook 8 measures takes half an hour: its records stand for an executed copy
    file = "detection.json" if stage.startswith("08") else f"notebooks/{stage}.ipynb"
    assert f"(../results/mini/{file})" in notebook.cells[0].source


def test_cells_are_short_and_explained(notebook):
    row = 0
    for cell in notebook.cells:
        row = row + 1 if cell.cell_type == "code" else 0
        assert row <= MOST_CODE_IN_A_ROW, cell.source
        assert len(cell.source.splitlines()) <= LONGEST_CELL, cell.source
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name


def test_no_folder_of_one_machine(notebook):
    for cell in notebook.cells:
        assert not re.search(MACHINE, cell.source), cell.source


def test_executed_copies_are_small():
    copies = [path for path in paths.NOTEBOOKS.parent.glob("results/*/notebooks/*.ipynb") if "smoke" not in path.parts]
    for path in copies:
        text = path.read_text()
        assert path.stem in STAGES and path.stat().st_size <= LARGEST_COPY, path
        assert not re.search(MACHINE, text) and '"output_type": "error"' not in text, path
        assert "base64" not in text or '"image/png"' in text or "audio/mpeg" in text, path
    assert sum(path.stat().st_size for path in copies) <= ALL_COPIES


def executed() -> nbformat.NotebookNode:
    """A picture, a sound, a stream of each kind and a table, as papermill leaves them."""
    figure, (axis,) = plots.canvas()
    axis.plot(np.sin(np.arange(100) / 9))
    png = base64.b64encode(plots.show(figure).data).decode()
    tone = np.sin(np.arange(8000) / 5).astype(np.float32) / 2
    html = plots.play(tone, 16_000)._repr_html_()
    out = nbformat.v4.new_output
    outputs = [
        out("stream", name="stdout", text=f"in {paths.home()}/results/x.json\n"),
        out("stream", name="stderr", text="50 %"),
        out("display_data", data={"image/png": png, "text/plain": "an image"}),
        out("display_data", data={"text/html": html}),
        out("display_data", data={"text/markdown": "[1](../results/mini/a.json)"}),
    ]
    cells = [nbformat.v4.new_code_cell("x = 1", outputs=outputs, execution_count=3)]
    cells += [nbformat.v4.new_markdown_cell("[a](../results/mini/main.md)")]
    cells[0].metadata = {"tags": ["check"], "papermill": {"duration": 1}, "execution": {}}
    return nbformat.v4.new_notebook(cells=cells, metadata={"papermill": {"input_path": "/tmp/x"}})


def test_executed_notebooks_are_made_small():
    before = executed()
    bytes_before = len(nbformat.writes(before))
    after = notebooks.shrink(nbformat.from_dict(before))
    nbformat.validate(after)
    assert len(nbformat.writes(after)) < bytes_before / 3
    code, text = after.cells
    assert text.source == "[a](../../mini/main.md)" and code.metadata == {"tags": ["check"]}
    stream, picture, sound, table = code.outputs
    assert stream.text == "in results/x.json\n" and "papermill" not in after.metadata
    assert table.data["text/markdown"] == "[1](../../mini/a.json)"
    image = Picture.open(io.BytesIO(base64.b64decode(picture.data["image/png"])))
    assert image.mode == "P" and image.width > 500
    mp3 = base64.b64decode(re.search(r"data:audio/mpeg;base64,([^\"]+)", sound.data["text/html"])[1])
    samples, rate = soundfile.read(io.BytesIO(mp3))
    assert rate == 16_000 and abs(len(samples) - 8000) < 2500
    assert np.sqrt(np.mean(samples**2)) == pytest.approx(0.35, abs=0.08)


def test_a_clean_notebook_keeps_what_check_cells_printed():
    after = notebooks.strip(executed())
    assert [output.text for output in after.cells[0].outputs] == [f"in {paths.home()}/results/x.json\n"]
    assert after.cells[0].execution_count == 1 and after.cells[0].metadata == {"tags": ["check"]}
    other = executed()
    other.cells[0].metadata = {}
    assert notebooks.strip(other).cells[0].outputs == [] and other.cells[0].execution_count is None


def test_numbers_are_compared_at_smoke_alone(capsys):
    notebooks.compare("smoke", {"a share": (0.51, 0.5, 0.02)})
    assert capsys.readouterr().out == "a share: 0.5, within 0.02\n"
    with pytest.raises(AssertionError, match="a share: 0.53, not 0.5 within 0.02"):
        notebooks.compare("smoke", {"a share": (0.53, 0.5, 0.02)})
    with pytest.raises(AssertionError):
        notebooks.compare("smoke", {"a share": (float("nan"), 0.5, 0.02)})
    notebooks.compare("mini", {"a share": (0.53, 0.5, 0.02)})
    assert capsys.readouterr().out == "a share: 0.53\n"


@pytest.mark.parametrize(
    ("name", "last", "overrides", "probe"),
    [
        (
            "04_zero_shot",
            "voices[",
            ["-p", "VOICE", "8123", "-p", "TEXT", "1984"],
            "print(repr(voice_name), repr(TEXT))",
        ),
        ("02_codec", "cuts = list(", ["-p", "LAYERS", "[1, 8]", "-p", "CLIPS", "2"], "print(LAYERS, CLIPS)"),
        ("03_training", "counts[name]", ["-p", "MINUTES", "0.5", "-p", "RETRAIN", "True"], "print(MINUTES, RETRAIN)"),
    ],
)
def test_papermill_takes_an_override_of_each_kind(tmp_path, name, last, overrides, probe):
    """A text like a number, a list, an integer, a float and a truth value, through papermill's own command."""
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    end = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code" and last in cell.source)
    cells = [cell for cell in notebook.cells[: end + 1] if cell.cell_type == "code"]
    for cell in cells:
        cell.source = cell.source.replace("training_runs.train_codec(preset, replace=True)", "pass")
    cells = [cell for cell in cells if "check" not in tags(cell)]
    notebook.cells = [*cells, nbformat.v4.new_code_cell(probe)]
    nbformat.write(notebook, tmp_path / "in.ipynb")
    command = [sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", *overrides, "--no-progress-bar"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "TqdmWarning" not in (tmp_path / "out.ipynb").read_text()
    (output,) = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[-1].outputs
    expected = {"04_zero_shot": "'8123' '1984'", "02_codec": "[1, 8] 2", "03_training": "0.5 True"}
    assert output.text.strip() == expected[name]


def test_figure_bytes_are_stable(tmp_path):
    tone = np.sin(np.arange(16_000) / 5).astype(np.float32) * 0.5
    written = []
    for folder in ("one", "two"):
        figure, (top, bottom) = plots.canvas(2, 1, heights=[3, 1])
        plots.spectrogram(top, tone, 16_000)
        plots.phones(bottom, ["_", "AA1", ",", "S", "_"], [0.1, 0.4, 0.4, 0.9, 1.0])
        written.append(save(figure, tmp_path / folder, "tone").read_bytes())
    assert written[0] == written[1]
    assert isinstance(plots.show(figure), Image) and isinstance(plots.play(tone, 16_000), Audio)


def test_spectrogram_has_the_tone_where_it_is():
    tone = np.sin(2 * np.pi * 2000 * np.arange(16_000) / 16_000).astype(np.float32)
    _, (axis,) = plots.canvas()
    peak = plots.spectrogram(axis, tone, 16_000)
    (image,) = axis.get_images()
    level, top = np.asarray(image.get_array()), image.get_extent()[3]
    assert level.max() == pytest.approx(0, abs=1e-4) and peak > 1
    assert level.mean(1).argmax() / (len(level) - 1) * top == pytest.approx(2.0, abs=0.05)  # kHz


def test_phones_without_length_are_left_out():
    _, (axis,) = plots.canvas()
    plots.phones(axis, ["_", "AA1", ",", "S", "_"], [0.1, 0.4, 0.4, 0.9, 1.0])
    assert [text.get_text() for text in axis.texts] == ["_", "AA1", "S", "_"]
    assert [round(patch.get_width(), 3) for patch in axis.patches] == [0.1, 0.3, 0.5, 0.1]


def test_token_grid_hatches_what_is_masked_and_rings_what_is_predicted():
    grid = np.array([[5, 6, 7], [8, MASK, MASK], [MASK, MASK, MASK]])
    predicted = np.zeros_like(grid, dtype=bool)
    predicted[1, 1:] = True
    _, (axis,) = plots.canvas()
    plots.token_grid(axis, grid, MASK, predicted)
    hatched = [patch for patch in axis.patches if patch.get_hatch()]
    ring = mpl.colors.to_rgba(plots.ORANGE)
    ringed = [patch for patch in axis.patches if patch.get_edgecolor() == ring]
    assert len(hatched) == 5 and {(int(p.get_y()), int(p.get_x())) for p in ringed} == {(1, 1), (1, 2)}
    assert axis.get_ylim() == (3, 0)  # layer 1 on top
