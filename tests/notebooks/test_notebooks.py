"""The notebooks: run from top to bottom with the answers of their exercises, and read as files."""

import importlib.util
import io
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ("MALIS_training", "Inference", "Evaluation")
ANSWER = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", re.DOTALL)


def read(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


@pytest.mark.notebook
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_with_the_answers_of_its_exercises(name, tmp_path):
    notebook, cells = read(name), []
    for cell in notebook.cells:
        cells.append(cell)
        answers = ANSWER.findall(cell.source) if cell.cell_type == "markdown" else []
        cells += [nbformat.v4.new_code_cell(answer) for answer in answers]
    assert len(cells) >= len(notebook.cells) + 3  # three exercises or more
    notebook.cells = cells
    client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": ROOT}})
    client.execute()


@pytest.mark.parametrize("name", NOTEBOOKS)
class TestTheFile:
    def test_cells_are_short_and_executed_without_errors_or_warnings(self, name):
        code = [cell for cell in read(name).cells if cell.cell_type == "code"]
        assert max(len(cell.source.splitlines()) for cell in code) <= 25
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        outputs = [output for cell in code for output in cell.outputs]
        assert not [output for output in outputs if output.output_type == "error"]
        assert not [output for output in outputs if output.get("name") == "stderr"]

    def test_links_lead_somewhere(self, name):
        text = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
        anchors = set(re.findall(r'<a id="([^"]+)">', text))
        for target in re.findall(r"\]\(([^)]+)\)", text):
            if target.startswith("#"):
                assert target[1:] in anchors, target
            elif not target.startswith("http"):
                assert (ROOT / "notebooks" / target).exists(), target

    def test_it_is_small_and_knows_no_machine(self, name):
        path = ROOT / "notebooks" / f"{name}.ipynb"
        assert path.stat().st_size < 5.5e6
        assert str(ROOT) not in path.read_text()
        assert "widgets" not in read(name).metadata


def test_shrinking_a_picture_keeps_what_it_shows():
    specification = importlib.util.spec_from_file_location("shrink", ROOT / "notebooks/shrink.py")
    shrink = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(shrink)
    waves = 127 + 120 * np.sin(np.arange(300 * 300).reshape(300, 300) / 500)
    picture = np.stack([waves, waves.T, np.full_like(waves, 90)], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    small = shrink.shrink_png(buffer.getvalue())
    assert len(small) < len(buffer.getvalue())
    again = np.asarray(Image.open(io.BytesIO(small)).convert("RGB")).astype(int)
    assert np.abs(again - picture).mean() < 8
    assert shrink.shrink_png(small) == small or len(shrink.shrink_png(small)) <= len(small)
