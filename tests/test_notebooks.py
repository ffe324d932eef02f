"""The notebooks keep one form, and the small pictures that they share say what they are given.

That they run is tested elsewhere: by `ms-core reproduce` and by `pytest --nbval notebooks`, which compares the stored
outputs of the check cells with new ones.
"""

import ast
import re

import matplotlib as mpl
import nbformat
import numpy as np
import pytest
from IPython.display import Audio, Image

from ms_core import paths
from ms_core.pipeline import STAGES, notebook_parameters
from ms_core.report import plots
from ms_core.report.style import save

NOTEBOOKS = {path.stem: path for path in sorted(paths.NOTEBOOKS.glob("*.ipynb"))}
LONGEST_FUNCTION, LONGEST_CELL, MOST_CODE_IN_A_ROW = 6, 32, 3
MASK = 1024

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
            calls = {ast.unparse(n.func) for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Call)}
            assert "print" in calls
            assert any(isinstance(n, ast.Assert) for n in ast.walk(ast.parse(cell.source))) or "AssertionError" in calls
            assert [output.output_type for output in cell.outputs] == ["stream"], cell.source
            assert cell.outputs[0].name == "stdout" and cell.outputs[0].text.strip()
        else:
            assert not cell.outputs, cell.source
            assert "nbval-ignore-output" in tags(cell), cell.source
    assert any("check" in tags(cell) for cell in code_cells(notebook))


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
        assert not re.search(r"/(home|root|work|tmp|Users)/", cell.source), cell.source


def test_figure_bytes_are_stable(tmp_path):
    tone = np.sin(np.arange(16_000) / 5).astype(np.float32) * 0.5
    written = []
    for folder in ("one", "two"):
        figure, (top, bottom) = plots.canvas(2, 1, heights=[3, 1])
        plots.spectrogram(top, tone, 16_000)
        plots.phones(bottom, ["_", "AA1", ",", "S", "_"], [0.1, 0.4, 0.4, 0.9, 1.0])
        written.append([path.read_bytes() for path in save(figure, tmp_path / folder, "tone")])
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


def test_filling_shows_the_unknown_as_unknown():
    _, (axis,) = plots.canvas()
    image = plots.filling(axis, np.array([[1, 2, np.nan], [np.nan, np.nan, np.nan]]), 4)
    assert np.ma.getmaskarray(image.get_array()).sum() == 4 and image.get_clim() == (1, 4)


def test_attention_names_each_phone_where_it_begins():
    _, (axis,) = plots.canvas()
    plots.attention(axis, np.eye(4), ["_", "S", "S", "IY1"], ["T", "T", "_", "UW1"])
    assert [label.get_text() for label in axis.get_yticklabels()] == ["S", "IY1"]
    assert list(axis.get_yticks()) == [1, 3] and list(axis.get_xticks()) == [0, 3]
