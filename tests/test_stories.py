"""What notebooks 3, 4 and 5 tell: the text and the answer that are followed, and the pictures."""

import json
import re

import nbformat
import numpy as np
import pandas as pd
import papermill
import plotly.io as pio
import pytest
from IPython.display import Markdown
from sklearn.metrics import f1_score

from ia_lib.paths import root
from ia_lib.report import (
    alpaca_audit,
    audit,
    commit_audit,
    figures,
    paper_figures,
    published,
    results,
    story_figures,
)
from ia_lib.workflow import follow, show, work
from ia_lib.workflow.settings import SettingsError

STORIES = ["3_evaluate", "3_judge", "4_figures", "5_audit"]


@pytest.mark.quick
@pytest.mark.parametrize("name", STORIES)
def test_a_question_before_each_cell_and_a_reading_after_it(name):
    cells = nbformat.read(root() / "notebooks" / f"{name}.ipynb", as_version=4).cells
    told = 0
    for before, cell, after in zip(cells, cells[1:], [*cells[2:], None], strict=False):
        if cell.cell_type == "code" and not cell.metadata.get("tags"):
            assert before.cell_type == "markdown", cell.source
            assert before.source.startswith("## "), cell.source
            # what an idea looks like is shown and needs no reading
            told += bool(after) and after.cell_type == "markdown" and "**Read:**" in after.source
    code = [cell for cell in cells if cell.cell_type == "code" and not cell.metadata.get("tags")]
    assert told >= len(code) - 1
    assert any("**Try:**" in cell.source for cell in cells)
    assert all(len(cell.source.splitlines()) <= 10 for cell in code)


@pytest.mark.quick
def test_the_sum_that_is_told_is_weighted_f1():
    draw = np.random.default_rng(3)
    for _ in range(20):
        gold, said = draw.integers(0, 4, (2, 60))
        names = list("abcd")
        counts = pd.crosstab(pd.Series(gold), pd.Series(said)).reindex(index=range(4), columns=range(4), fill_value=0)
        counts = counts.set_axis(names).set_axis(names, axis="columns")
        truth = 100 * f1_score(gold, said, average="weighted", zero_division=0)
        assert follow.arithmetic(counts).endswith(f"weighted F1 = {truth:.1f}%")


@pytest.fixture(scope="module")
def begun(finished):
    stage = finished.stage("tlm", "evaluate").open()
    return stage, work.begin_evaluation(stage)


def test_a_text_is_followed_from_its_prompt_to_the_bar_of_the_report(finished, begun, capsys):
    stage, model = begun
    sentence = follow.sentence(stage, model)
    assert sentence.text["language"] == stage.run.groups["L2"][0]
    assert sentence.text["text"] in sentence.prompt().data
    done = work.evaluate(stage, model)
    # the scores that are shown are those of the evaluation
    scores = pd.read_parquet(done.folder / "scores.parquet")
    mine = scores[(scores["language"] == sentence.text["language"]) & (scores["example"] == sentence.text["example"])]
    bars = sentence.scores()
    for number, bar in enumerate(bars.data, 1):
        known = mine[mine["prompt"] == number].set_index("label")["label_logprob"]
        assert list(bar.x) == pytest.approx(list(known[list(bar.y)]), abs=1e-4)
    assert set(sentence.rules().data["chosen"]) <= set(stage.inputs.labels["sentiment"])
    # the confusion matrix has them all, and our text where it was put
    capsys.readouterr()
    matrix = sentence.confusion(done, prompt=2)
    frame = done.measures
    frame = frame[(frame["metric"] == "weighted_f1") & (frame["language"] == sentence.text["language"])]
    line = frame[frame["prompt"].astype(str) == "2"].iloc[0]
    assert np.sum(matrix.data[0].z) == line["examples"]
    assert capsys.readouterr().out.strip().endswith(f"weighted F1 = {line['value']:.1f}%")
    box = matrix.layout.shapes[0]
    said = mine[mine["prompt"] == 2].sort_values("label_logprob")["label"].iloc[-1]
    assert list(matrix.data[0].x)[round((box.x0 + box.x1) / 2)] == said
    assert list(matrix.data[0].y)[round((box.y0 + box.y1) / 2)] == sentence.text["label"]
    # the last step is what the report draws
    made = finished.report().open()
    bars = figures.group_bars(work.write_report(made).results)
    bar = next(one for one in bars.data if one.name == "tlm")
    height = dict(zip(bar.x, bar.y, strict=True))[figures.group_title("L2")]
    assert sentence.average(done).layout.title.text.endswith(f"{height:.1f}")
    assert follow.languages(stage, done).data


def test_the_losses_of_tuned_runs_are_read_and_drawn(finished, tmp_path):
    written = {}
    for run in ("base", "tlm"):
        log = (finished.folder / run / "tune" / "log.jsonl").read_text()
        written[run] = [json.loads(line) for line in log.splitlines()]
    found = results.losses(finished.folder)
    assert found.groupby("run")["objective"].first().to_dict() == {"base": "instructions", "tlm": "tlm"}
    for run, lines in written.items():
        part = found[found["run"] == run]
        for name in ("step", "loss", "validation_loss"):
            values = [line.get(name, float("nan")) for line in lines]
            assert list(part[name]) == pytest.approx(values, nan_ok=True), (run, name)
    training, validation = ([(one.name, len(one.x)) for one in half] for half in _halves(found))
    assert training == [(run, sum("loss" in line for line in lines)) for run, lines in written.items()]
    assert ("tlm", sum("validation_loss" in line for line in written["tlm"])) in validation
    assert results.losses(tmp_path).empty

    # and notebook 5 draws them
    parameters = {"table": str(finished.path), "outputs_dir": str(finished.outputs), "data_dir": str(tmp_path)}
    path = tmp_path / "5.ipynb"
    papermill.execute_notebook(root() / "notebooks" / "5_audit.ipynb", path, parameters, cwd=root(), progress_bar=False)
    outputs = nbformat.read(path, as_version=4).cells[-2].outputs
    drawn = [one["data"].get("application/vnd.plotly.v1+json") for one in outputs]
    assert drawn[-1]["layout"]["title"]["text"] == "Loss per objective"
    assert {one["layout"]["font"]["color"] for one in drawn} == {figures.GREY}
    assert {trace["name"] for trace in drawn[-1]["data"]} == {"base", "tlm"}


def _halves(logs):
    """What is drawn of losses in training, and on what is held out."""
    traces = paper_figures.losses(logs).data
    return [[one for one in traces if (one.xaxis or "x") == axis] for axis in ("x", "x2")]


@pytest.mark.quick
def test_a_figure_has_the_pages_ground_in_a_notebook_and_a_white_one_in_a_file(monkeypatch):
    monkeypatch.setattr(pio.renderers, "default", "ia_lib")
    figure = paper_figures.family_coverage(published.read("language_families"))
    data = figure._repr_mimebundle_()["application/vnd.plotly.v1+json"]
    look = data["layout"]["template"]["layout"]
    assert look["paper_bgcolor"] == look["plot_bgcolor"] == "rgba(0,0,0,0)"
    assert data["layout"]["font"]["color"] == figures.GREY
    assert data["layout"]["font"]["size"] == figure.layout.font.size
    assert figure.layout.template.layout.paper_bgcolor == "white"
    assert figure.layout.font.color == "#222222"


def test_another_text_can_be_followed_and_an_unknown_one_is_refused(begun):
    stage, model = begun
    last = model.texts.to_pandas().iloc[-1]
    chosen = follow.sentence(stage, model, language=last["language"], example=last["example"])
    assert chosen.text["text"] == last["text"]
    with pytest.raises(SettingsError, match="run 'tlm', language to follow: found 'xyz'; allowed: "):
        follow.sentence(stage, model, language="xyz")
    with pytest.raises(SettingsError, match="prompt to follow: found '9'; allowed: 1, 2, 3"):
        chosen.confusion(work.evaluate(stage, model), prompt=9)


def test_a_hidden_text_is_not_followed_in_words(begun):
    stage, model = begun
    done = work.evaluate(stage, model)
    open_, run = follow.sentence(stage, model), stage.run
    texts = model.texts.to_pandas()
    texts = texts[texts["language"] == open_.text["language"]]["text"]
    words = {word for text in texts for word in text.rstrip(".").split() if len(word) > 4}
    assert any(word in open_.prompt().data for word in words)
    assert sum(text in open_.others(done).data for text in texts) > 1
    try:
        stage.run = run.changed(share_text=False)
        hidden = follow.sentence(stage, model)
        for shown in (hidden.prompt(), hidden.others(done)):
            told = re.sub("<style>.*?</style>", "", shown.data, flags=re.S)
            assert not [word for word in words if re.search(rf"\b{word}\b", told)]
            assert "words)" in told or "␣words" in told
    finally:
        stage.run = run


def test_a_row_without_labels_says_which_row_has_them(begun):
    stage, model = begun
    done = work.evaluate(stage, model)
    nothing = follow.Sentence(stage, model)
    for shown in (nothing.prompt(), nothing.scores(), nothing.rules(), nothing.confusion(done), nothing.others(done)):
        assert isinstance(shown, Markdown)
        assert "chooses no labels" in shown.data
    assert "params/taste.yaml" in nothing.prompt().data
    said = [shown.data for shown in follow.others(stage, done) if isinstance(shown, Markdown)]
    assert len(said) == 3
    assert "params/commit_mini.yaml" in " ".join(said)


def test_a_text_of_tags_is_shown_letter_for_letter(begun):
    stage, model = begun
    one = {**follow.sentence(stage, model).text, "text": "<script>alert(1)</script> %{x}"}
    shown = follow.Sentence(stage, model, one).prompt().data
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


@pytest.mark.quick
def test_marks_become_columns_and_baselines_stand_beside_them():
    lines = [("r", "eng", True, 3.0), ("r", "eng", False, 2.0), ("r", "fra", True, 1.0), ("repeated", "eng", True, 2.0)]
    every = pd.DataFrame(lines, columns=["run", "language", "inside", "mark"]).assign(judge="rule")
    figure = story_figures.marks(every, "r")
    assert {bar.name[0]: list(bar.y) for bar in figure.data} == {"0": [1, 0], "1": [0, 1], "2": [0, 0], "3": [1, 0]}
    assert [note.text for note in figure.layout.annotations][-2:] == ["<b>3</b> of 6", "<b>1</b> of 3"]
    assert figure.layout.title.text.startswith("1 of 3 answers")
    said = story_figures.judged_baselines(every, "r").layout.title.text
    assert said == "rule: r has 1.33, less than “repeated” with 2.00"


@pytest.mark.quick
def test_the_audits_pictures_count_what_the_audit_finds(tmp_path):
    frame = audit.recomputation()
    wrong = audit.audit(frame)
    assert story_figures.recomputed(frame).layout.title.text.startswith(f"{len(wrong)} of {len(frame)} numbers")
    largest = audit.audit(frame, largest=5)
    gaps = (largest["published"] - largest["recomputed"]).abs()
    assert len(gaps) == 5
    assert gaps.is_monotonic_decreasing
    compared = commit_audit.comparisons()
    shown = int(((compared["p_holm"] < 0.05) & (compared["difference"] > 0)).sum())
    assert story_figures.by_counts(compared).layout.title.text.startswith(f"{shown} of {len(compared)}")
    title = story_figures.agreements(alpaca_audit.correlations()).layout.title.text
    assert title == "Over 3 models, 0 of 4 correlations are shown to differ from 0"
    ledger = audit.ledger()
    counts = ledger["verdict"].value_counts()
    bars = {bar.name: np.nansum(np.array(bar.x, float)) for bar in story_figures.claims(ledger).data}
    assert bars == counts.to_dict()
    assert isinstance(show.drawn(story_figures.constant_answers, audit.constants(tmp_path), audit.NO_LABELS), Markdown)
