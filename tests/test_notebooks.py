import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib

import nbformat
import papermill
import pytest
from packaging.requirements import Requirement

from ia_lib.paths import root

NOTEBOOKS = sorted((root() / "notebooks").glob("*.ipynb"))


@pytest.mark.quick
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_thin_and_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells[0].metadata["tags"] == ["parameters"]
    assert len(cells) <= 14
    for cell in cells:
        assert not cell.outputs
        assert cell.execution_count is None
        assert not re.search(r"^\s*(def|class)\s", cell.source, re.MULTILINE)


@pytest.mark.quick
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_install_on_colab_leaves_torch_and_jupyter_alone(path, tmp_path, monkeypatch):
    cells = nbformat.read(path, as_version=4).cells
    setup = next(cell.source for cell in cells if cell.metadata.get("tags") == ["setup"])
    called, found = [], importlib.util.find_spec
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ia_lib" else found(name))
    monkeypatch.setattr(subprocess, "run", lambda command, check: called.append(command))
    exec(setup, {"kit": str(root())})
    pins = (tmp_path / "keep.txt").read_text().splitlines()
    assert called[0][called[0].index("-c") + 1].name == "keep.txt"
    for name in ("torch", "ipykernel", "IPython", "ipywidgets", "jupyterlab"):
        assert f"{name}=={importlib.metadata.version(name).split('+')[0]}" in pins


@pytest.mark.quick
def test_what_colab_has_is_enough_and_a_fresh_install_has_jupyterlab():
    project = tomllib.loads((root() / "pyproject.toml").read_text())["project"]
    needed = {each.name: each.specifier for each in map(Requirement, project["dependencies"])}
    for name, version in {"ipykernel": "6.17.1", "ipywidgets": "7.7.1"}.items():
        assert version in needed[name]
    assert "jupyterlab" not in needed
    extras = project["optional-dependencies"]
    assert Requirement(extras["lab"][0]).name == "jupyterlab"
    assert any("lab" in Requirement(each).extras for each in extras["dev"])
    for name in ("Makefile", "README.md", "environment.yml"):
        assert ".[dev]" in (root() / name).read_text(), name


def outputs(path) -> str:
    notebook = nbformat.read(path, as_version=4)
    parts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            parts.append(output.get("text", ""))
            parts += [str(value) for value in output.get("data", {}).values()]
    return "\n".join(parts)


def test_every_notebook_shows_what_a_curious_person_wants_to_see(finished):
    shown = {stage.name: outputs(stage.notebook()) for stage in finished.stages(["tlm"]) if stage.run.name == "tlm"}
    assert "[[" in shown["data"]
    assert "noise" in shown["data"]
    assert "expected" in shown["data"]
    assert re.search(r"old \|.*\n\s*new \|", shown["tune"])
    assert "device: " in shown["tune"]
    assert "Loss: step 6 of 6" in shown["tune"]
    assert "<span class='tok own'>␣" in shown["evaluate"]
    assert "weighted F1 = " in shown["evaluate"]
    assert "label_per_char" in shown["evaluate"]
    assert "calibrated" in shown["evaluate"]
    assert "weighted F1 (%)" in shown["evaluate"]
    report = outputs(finished.report().notebook())
    assert report.count("application/vnd.plotly") + report.count("'data': [") >= 3


@pytest.mark.parametrize("name", ["1_data", "2_tune"])
def test_a_notebook_opened_by_hand_makes_what_is_missing_and_takes_changes(table, tmp_path, name):
    parameters = {
        "table": str(table),
        "run": "tlm",
        "outputs_dir": str(tmp_path / "out"),
        "changes": {"objective": "mt"},
    }
    papermill.execute_notebook(
        root() / "notebooks" / f"{name}.ipynb", tmp_path / "done.ipynb", parameters, cwd=root(), progress_bar=False
    )
    folder = tmp_path / "out" / "tiny" / "tlm~objective=mt"
    assert (folder / ("data" if name == "1_data" else "tune") / "manifest.json").is_file()
    assert "run tlm~objective=mt: objective mt" in outputs(tmp_path / "done.ipynb") or name != "1_data"


def test_notebook_0_opens_its_panels(finished, tmp_path):
    parameters = {"table": str(finished.path), "outputs_dir": str(finished.outputs)}
    done = tmp_path / "done.ipynb"
    papermill.execute_notebook(root() / "notebooks/0_explore.ipynb", done, parameters, cwd=root(), progress_bar=False)
    assert outputs(done).count("application/vnd.jupyter.widget-view+json") + outputs(done).count("VBox(") >= 5


def refused(notebook, tmp_path, **parameters):
    with pytest.raises(papermill.PapermillExecutionError) as error:
        papermill.execute_notebook(
            root() / "notebooks" / notebook, tmp_path / "o.ipynb", parameters=parameters, cwd=root(), progress_bar=False
        )
    return error.value.evalue


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_parameter_that_a_notebook_does_not_have_is_refused(path, table, tmp_path):
    given = {"table": str(table), "outputs_dir": str(tmp_path / "outputs"), "outputs_dri": "x"}
    said = refused(path.name, tmp_path, **given)
    assert said.startswith("parameters: found 'outputs_dri'; did you mean 'outputs_dir'? allowed: table, ")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"steps": 500},
            "found 'steps'; allowed: table, run, outputs_dir, changes, kit; fields of a row go into changes",
        ),
        ({"table": None}, "parameters, table: found nothing; allowed: text"),
        ({"run": 5}, "parameters, run: found 5; allowed: text"),
        ({"outputs_dir": ["x"]}, "parameters, outputs_dir: found ['x']; allowed: text"),
        ({"changes": "mlm"}, "parameters, changes: found 'mlm'; allowed: fields with their values"),
    ],
)
def test_a_parameter_of_another_kind_is_refused(tmp_path, given, said):
    assert said in refused("1_data.ipynb", tmp_path, **given)
