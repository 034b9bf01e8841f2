import json
import re
import tomllib
from types import SimpleNamespace

import nbformat
import papermill
import pytest
from conftest import copied
from packaging.requirements import Requirement

from ia_lib.paths import root
from ia_lib.workflow import show
from ia_lib.workflow.graph import Table

STORIES = [root() / "notebooks" / f"{name}.ipynb" for name in ("1_data", "2_tune")]
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
def test_a_run_is_told_in_words(tmp_path):
    told = {}
    for name, row in (("commit_mini", "commit-jav-s1"), ("taste_alpaca", "multilingual"), ("mini", "tlm")):
        run = Table(root() / "params" / f"{name}.yaml", tmp_path).run(row)
        told[name] = show.run(SimpleNamespace(run=run, folder=tmp_path / row))
    assert "run commit-jav-s1: commit, seed 1\n  instructions.file: instructions/ind.jsonl\n" in told["commit_mini"]
    assert "\n  dictionaries.jav.file: dictionaries/jav.tsv\n" in told["commit_mini"]
    assert "\n  instructions.languages.eng: eng\n  instructions.languages.ind: ind\n" in told["taste_alpaca"]
    assert told["mini"].startswith("run tlm: objective tlm, replay 10000, seed 1\na batch: ")
    assert not [text for text in told.values() if "{'" in text or "['" in text]


@pytest.mark.quick
def test_a_fresh_install_has_jupyterlab_and_one_beside_a_kernel_does_not():
    project = tomllib.loads((root() / "pyproject.toml").read_text())["project"]
    assert "jupyterlab" not in {Requirement(each).name for each in project["dependencies"]}
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
    for title in ("The method, from texts to tests", "Our sentence in tokens", "Kinds of noise", "Tokens for a word"):
        assert title in shown["data"]
    assert "This run does neither." in shown["data"]
    assert re.search(r"old \|.*\n\W*\d+ new \|", shown["tune"])
    assert re.search(r"→ +\d+ new \|", shown["tune"])
    assert "Asked freely it answers" in shown["tune"]
    assert "device: " in shown["tune"]
    assert "Loss: step 6 of 6" in shown["tune"]
    assert not [stage for stage, text in shown.items() if "Loading weights" in text]
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


@pytest.mark.quick
@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_a_story_asks_before_each_cell_and_reads_after_it(path):
    cells = nbformat.read(path, as_version=4).cells
    for before, cell, after in zip(cells, cells[1:], cells[2:], strict=False):
        if cell.cell_type == "code" and "tags" not in cell.metadata:
            assert before.cell_type == after.cell_type == "markdown"
            question = before.source.split("## ")[-1].splitlines()[0]
            assert question.endswith("?"), question
    assert cells[-1].cell_type == "markdown"
    prose = [word for cell in cells if cell.cell_type == "markdown" for word in cell.source.split()]
    code = [line for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines() if line.strip()]
    assert len(prose) >= 3 * len(code)


def tried(path) -> list[dict]:
    """The changes that a notebook's prose asks to try."""
    cells = nbformat.read(path, as_version=4).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return [json.loads(found) for found in re.findall(r"changes =\s(\{.*?\})", prose)]


@pytest.mark.quick
@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_what_a_story_asks_to_try_can_be_tried(path, tmp_path):
    stage = {"1_data": "data", "2_tune": "tune"}[path.stem]
    assert len(tried(path)) >= 3
    for changes in tried(path):
        made = Table(root() / "params" / "taste.yaml", tmp_path)
        assert stage in made.stages_of(made.add(made.run("tlm"), changes))


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        (
            "1_data",
            {"objective": "mlm", "replay": 0},
            ["This run has no old instructions.", "mend a spoilt text without"],
        ),
        ("1_data", {"objective": "tlm+xss"}, ["Kinds of noise"]),
        ("1_data", {"objective": "xss"}, ["No instruction of this run has noise", "the second text is"]),
        ("1_data", {"noise": "deletion", "noise_probability": 0.5}, ["no mark says", "noise drawn: deletion"]),
        ("2_tune", {"replay": 0, "learning_rate": 1e-4}, ["has 2 new instructions", "Training loss goes from"]),
    ],
)
def test_a_story_holds_with_changes(finished, tmp_path, name, changes, said):
    parameters = {"table": str(finished.path), "outputs_dir": str(copied(finished, tmp_path / "out")), "run": "tlm"}
    papermill.execute_notebook(
        root() / "notebooks" / f"{name}.ipynb", tmp_path / "done.ipynb", {**parameters, "changes": changes},
        cwd=root(), progress_bar=False,
    )  # fmt: skip
    shown = outputs(tmp_path / "done.ipynb")
    for text in said:
        assert text in shown
    assert (tmp_path / "done.ipynb").stat().st_size < 300_000


def test_notebook_0_opens_its_panels(finished, tmp_path):
    parameters = {"table": str(finished.path), "outputs_dir": str(finished.outputs)}
    done = tmp_path / "done.ipynb"
    papermill.execute_notebook(root() / "notebooks/0_explore.ipynb", done, parameters, cwd=root(), progress_bar=False)
    assert outputs(done).count("Panel(children=") >= 4
    assert outputs(done).count("model_id") >= 9  # one that does not apply is a sentence


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
