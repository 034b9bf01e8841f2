"""The recipe `commit`: two phases as two rows, code-mixed again in every epoch, tested by questions on passages."""

import json
import re
from types import SimpleNamespace

import pandas as pd
import pytest
from test_adapters import carried_out

from ia_lib import explore
from ia_lib.instructions import alpaca
from ia_lib.workflow import cost, preflight, show, tables, work
from ia_lib.workflow.command_line import main
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError

ROWS = [
    {"instruction": f"Name food {i}.", "input": "good food" if i % 2 else "", "output": f"Food {i}."} for i in range(5)
]
TABLE = """
defaults:
  recipe: commit
  corpus: own
  known: [eng]
  taught: [ind, jav]
  unseen: []
  pivots: [eng]
  model: {run: align}
  tasks: [q.yaml]
  instructions: {file: rows.json}
  dictionaries: {ind: {file: en-id.txt}, jav: {file: jv.csv, source: eng, target: jav}}
  per_step: 4
  epochs: 2
  max_length: 96
  learning_rate: 1.0e-3
runs:
  - {name: base, recipe: instructions, past: {file: old.jsonl, prompt: p, answer: a}, per_step: 2, steps: 2,
     epochs: null, model: {new: {hidden: 16, layers: 1, heads: 2, vocabulary: 400}}, tasks: []}
  - {name: align, model: {run: base}, instructions: null, texts: {ind: text.txt}, alpha: 0.5, loss: all, tasks: [],
     dictionaries: {ind: {file: en-id.txt, reverse: true}}, max_length: 24}
  - {name: mixed}
  - {name: naive, mix: [prompt, output]}
  - {name: plain, mix: []}
  - {name: kept, validation_rows: 2, keep: best, validate_steps: 1, max_new_tokens: 2}
"""
TASK = """
kind: extract
data: {file: "q.{tag}.json", languages: {eng: en, ind: id}}
prompts: {all: "[CONTEXT]\\n\\nQ:[QUESTION]\\n\\nA:"}
max_new_tokens: 5
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("commit")
    (path / "t.yaml").write_text(TABLE)
    (path / "q.yaml").write_text(TASK)
    (path / "rows.json").write_text(json.dumps(ROWS))
    (path / "old.jsonl").write_text("".join(json.dumps({"p": f"Say {i}", "a": f"it {i}"}) + "\n" for i in range(300)))
    (path / "en-id.txt").write_text("food\tmakanan\ngood bagus\ngood baik\nname nama\n")
    (path / "jv.csv").write_text("eng,jav\nfood,panganan\ngood,apik\n")
    (path / "text.txt").write_text("makanan bagus\n" + "nama makanan itu bagus " * 9 + "\n")
    for tag, said in (("en", "Ani has 3 cats."), ("id", "Ani punya 3 kucing.")):
        asked = [{"id": str(i), "question": "?", "answers": [{"text": "3", "answer_start": 0}]} for i in range(4)]
        text = {"data": [{"paragraphs": [{"context": said, "qas": asked}]}]}
        (path / f"q.{tag}.json").write_text(json.dumps(text))
    return path


@pytest.fixture(scope="module")
def table(folder):
    table = Table(folder / "t.yaml", folder / "outputs")
    table.check()
    carried_out(table)
    return table


def rows_of(table, name):
    return pd.read_parquet(table.stage(name, "data").folder / "examples.parquet")


def test_all_phases_are_carried_out(table):
    assert all(stage.done for stage in table.stages())
    measured = pd.read_csv(table.folder / "mixed" / "evaluate" / "measures.csv")
    assert set(measured["language"]) >= {"eng", "ind"}
    assert {"exact match, corrected", "F1, corrected", "exact match, squad"} <= set(measured["metric"])
    assert not len(pd.read_csv(table.folder / "align" / "evaluate" / "measures.csv"))
    said = pd.read_parquet(table.folder / "mixed" / "evaluate" / "predictions.parquet")
    assert set(said["gold"]) == {"3"}
    shorter = table.stage("kept", "evaluate").inputs
    assert [task.max_new_tokens for task in shorter.extracted] == [2]
    assert [task.max_new_tokens for task in table.stage("mixed", "evaluate").inputs.extracted] == [5]


def test_instructions_are_mixed_again_and_in_turn(table):
    rows = rows_of(table, "mixed")
    # two epochs of five rows, as whole batches of four
    assert len(rows) == 12
    assert rows["epoch"].tolist() == [0] * 5 + [1] * 5 + [2] * 2
    assert set(rows["source_id"][:5]) == set(rows["source_id"][5:10]) == set("01234")
    for number, both in rows[:10].groupby("source_id"):
        # in another language in every epoch
        assert set(both["language"]) == {"ind", "jav"}
        source = ROWS[int(number)]
        before = alpaca.prompt(source["instruction"], source["input"]) + source["output"]
        assert set(both["before"]) == {before}
    assert rows["prompt"].str.startswith("Below is an instruction that describes a task").all()
    assert rows["prompt"].str.contains("makanan|panganan").any()
    report = json.loads((table.stage("mixed", "data").folder / "report.json").read_text())["code_mixing"]
    assert report["ind"]["pairs"] == 4
    assert report["ind"]["words_with_several_translations"] == 1
    assert 0 < report["jav"]["words_changed"] <= report["jav"]["words_in_dictionary"]


def test_rows_are_held_out(table):
    rows, every = rows_of(table, "kept"), rows_of(table, "mixed")
    held, trained = rows[rows["split"] == "validation"], rows[rows["split"] == "train"]
    assert len(held) == held["source_id"].nunique() == 2
    assert not set(held["source_id"]) & set(trained["source_id"])
    assert set(trained["source_id"]) | set(held["source_id"]) == set("01234")
    # what is drawn for a row does not depend on what is held out
    key = ["source_id", "epoch", "language"]
    both = trained.merge(every, on=key, suffixes=("", "_there"))
    assert len(both) >= 6
    assert (both["prompt"] == both["prompt_there"]).all()
    log = [json.loads(line) for line in (table.folder / "kept" / "tune" / "log.jsonl").read_text().splitlines()]
    assert sum("validation_loss" in line for line in log) >= 2


def test_what_is_mixed_is_what_was_asked_for(table):
    plain, naive = rows_of(table, "plain"), rows_of(table, "naive")
    assert (plain["prompt"] + plain["answer"] == plain["before"]).all()
    assert (naive["prompt"] + naive["answer"] != naive["before"]).any()
    assert set(plain["source_id"]) == set(naive["source_id"])
    assert "code_mixing" not in plain
    assert json.loads((table.stage("plain", "data").folder / "report.json").read_text())["code_mixing"] == {}


def test_notebook_1_marks_the_words_that_changed(table):
    stage = table.stage("mixed", "data")
    said = show.instructions(stage, rows_of(table, "mixed"))
    assert "before: Below is an instruction" in said
    after = said.split("after:  ")[1].split("---")[0]
    assert re.search("«[Mm]akanan|«[Pp]anganan|«bagus|«baik|«apik|«[Nn]ama", after)
    assert "«Below" not in said
    hidden = SimpleNamespace(run=stage.run.changed(share_text=False))
    assert "Below" not in show.instructions(hidden, rows_of(table, "mixed"))


def test_long_texts_make_several_rows_and_lose_nothing(table):
    rows = rows_of(table, "align")
    assert (rows["prompt"] == "").all()
    first = rows[(rows["epoch"] == 0) & (rows["source_id"] == "1")]
    assert len(first) > 1
    assert set("".join(first["answer"]).split()) <= {"makanan", "food", "bagus", "good", "nama", "name", "itu"}
    assert len("".join(first["answer"]).split()) == 36
    report = json.loads((table.stage("align", "data").folder / "report.json").read_text())
    assert report["answers_cut"] == {"new alignment": 0}


def test_the_same_settings_make_the_same_rows(table, folder):
    again = Table(folder / "t.yaml", folder / "again")
    for name in ("mixed", "naive"):
        stage = again.stage(name, "data")
        for needed in stage.needs:
            assert needed.run.name in ("base", "align")
        stage.part.mkdir(parents=True)
        frame, _ = stage.run.method.examples(stage.run, stage.inputs)
        pd.testing.assert_frame_equal(frame.astype(object), rows_of(table, name).astype(object))


@pytest.mark.quick
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("instructions: null, tasks: []", r"'instructions': found nothing; allowed: exactly one of texts .* and"),
        ("texts: {ind: text.txt}", r"'instructions': found 'both'"),
        ("epochs: 1, steps: 3", r"'steps': found 'steps and epochs'; allowed: exactly one"),
        ("dictionaries: {ind: {file: en-id.txt}}", r"'dictionaries': found \['ind'\]; allowed: one for jav"),
        (
            "dictionaries: {ind: {file: jv.csv, source: eng}}",
            r"'dictionaries.ind.target': found nothing; allowed: a col",
        ),
        ("mix: [prompt, input]", r"'mix': .*allowed: prompt without instruction and input"),
        ("mix: [whole]", r"'mix.0': found 'whole'"),
        ("instructions: null, texts: {ind: text.txt}", r"'loss': found 'answer'; allowed: all"),
        ("instructions: null, texts: {eng: text.txt}, loss: all", r"'texts.eng': found 'eng'; allowed: one of taught"),
        ("instructions: null, texts: {ind: text.txt}, loss: all, chat: true", r"'chat': found true"),
        ("model: {new: {hidden: 16}}", r"'model.new'"),
        ("keep: best, validate_steps: 1", r"'validation_rows': found 0; allowed: at least 1, where keep is best"),
        ("held_out: true", r"'parallel': found nothing; allowed: parallel text"),
    ],
)
def test_what_does_not_go_together_is_refused(folder, change, said):
    path = folder / "refused.yaml"
    path.write_text(TABLE + f"  - {{name: x, {change}}}\n")
    with pytest.raises(SettingsError, match=said):
        Table(path, folder / "other").check()


@pytest.mark.quick
def test_files_are_looked_at_before_any_work(folder):
    path = folder / "missing.yaml"
    for change in ("instructions: {file: none.json}", "dictionaries: {ind: {file: none.txt}, jav: {file: en-id.txt}}"):
        path.write_text(TABLE + f"  - {{name: x, {change}}}\n")
        with pytest.raises((SettingsError, ValueError), match="none"):
            Table(path, folder / "other").check()


def test_the_page_has_the_answers_and_passes_over_rows_that_are_on_the_way(table):
    report = table.report(finished_only=True)
    report.open()
    work.write_report(report)
    text = (report.folder / "index.html").read_text()
    assert "Answers from passages" in text
    assert "exact match, corrected" in text
    assert "the first number" in text
    results = pd.read_csv(report.folder / "results.csv")
    assert set(results["run"]) == {"mixed", "naive", "plain", "kept"}
    assert "nan" not in text.split("Answers from passages")[1].split("</table>")[0]


@pytest.mark.quick
def test_plan_counts_questions_and_whole_rows_of_text(folder, capsys):
    assert main(["plan", str(folder / "t.yaml"), "--outputs", str(folder / "unmade")]) == 0
    said = capsys.readouterr().out
    assert re.search(r"mixed: evaluate +missing +q", said)
    assert re.search(r"align: evaluate +missing *\n", said)
    run = tables.load(folder / "t.yaml")[1]
    more, fewer = (cost.operations(run, run_model(), passages=n)["evaluate"] for n in (8, 0))
    assert more > fewer == 0
    assert cost.estimate(run, run_model()).tokens == cost.estimate(run, run_model()).steps * 4 * 24


def run_model():
    from ia_lib.recipes.fields import New

    return New(hidden=16, layers=1, heads=2, vocabulary=400)


@pytest.mark.quick
def test_a_package_that_will_be_needed_is_asked_for_before_any_work(folder, monkeypatch):
    text = {"data": [{"paragraphs": [{"context": "x", "qas": [{"id": "1", "question": "ใคร", "answers": []}]}]}]}
    (folder / "thai.json").write_text(json.dumps(text))
    (folder / "thai.yaml").write_text(TASK.replace("q.{tag}.json", "thai.json").replace(", ind: id", ""))
    path = folder / "asks.yaml"
    path.write_text(TABLE + "  - {name: x, tasks: [thai.yaml]}\n")
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"thai in eng: words of Thai, .* pip install icu4py"):
        Table(path, folder / "other").check()
    monkeypatch.undo()
    Table(path, folder / "other").check()


MINI = """
defaults:
  recipe: commit
  corpus: minilab
  lab: {base: 60, train: 40, valid: 4, test: 3}
  known: [ind]
  taught: [jav]
  unseen: []
  pivots: [ind]
  model: {run: base}
  instructions: {file: instructions/ind.jsonl}
  dictionaries: {jav: {file: dictionaries/jav.tsv}}
  per_step: 4
  steps: 2
  tasks: [passages]
runs:
  - {name: base, recipe: instructions, past: {mixture: {passages: 100, rows: 600}}, per_step: 2, steps: 2,
     model: {new: {hidden: 16, layers: 1, heads: 2, vocabulary: 1200}}}
  - {name: align, instructions: null, texts: {jav: texts/jav.txt}, alpha: 0.5, loss: all, tasks: [],
     dictionaries: {jav: {file: dictionaries/jav.tsv, reverse: true}}}
  - {name: mixed, model: {run: align}}
"""


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    path = tmp_path_factory.mktemp("mini") / "t.yaml"
    path.write_text(MINI)
    table = Table(path, path.parent / "outputs")
    table.check()
    carried_out(table)
    return table


def test_the_mini_lab_has_what_both_phases_need(mini):
    assert all(stage.done for stage in mini.stages())
    rows = rows_of(mini, "mixed")
    assert rows["prompt"].str.contains("### Input:").all()
    assert rows["answer"].str.startswith(" ").all()
    assert set(rows_of(mini, "base")["kind"]) == {"passages"}
    said = pd.read_parquet(mini.folder / "mixed" / "evaluate" / "predictions.parquet")
    assert said.groupby("language").size().to_dict() == {"ind": 15, "jav": 15}
    # the tokenizer has seen the other language and Alpaca's template
    tokenizer = json.loads((mini.stage("base", "data").folder / "tokenizer" / "tokenizer.json").read_text())
    assert "instruction" in " ".join(tokenizer["model"]["vocab"])
    assert mini.stage("mixed", "evaluate").inputs.asked_on_passages == 30


def test_the_page_draws_answers_and_what_the_dictionary_reaches(mini):
    report = mini.report(finished_only=True)
    report.open()
    work.write_report(report)
    assert {path.stem for path in (report.folder / "figures").glob("*.html")} == {"passages", "words"}
    figure = json.loads(re.search(r"\[\{.*?\}\]", (report.folder / "figures" / "words.html").read_text())[0])
    assert figure[0]["name"] == "mixed"


def test_notebook_3_shows_what_was_answered(mini):
    stage = mini.stage("mixed", "evaluate")
    found = show.passages(stage)
    assert set(found["language"]) == {"ind", "jav"}
    asked = stage.inputs.asked(stage.inputs.extracted[0], "jav")
    assert set(found[found["language"] == "jav"]["passage"]) <= set(asked["context"])
    said = pd.read_parquet(stage.folder / "predictions.parquet").query("language == 'jav'").set_index("example")
    for question, answered in found[found["language"] == "jav"]["answered"].items():
        assert said.loc[question, "predicted"] == answered


def test_panels_mix_a_text_and_show_answers(mini, monkeypatch):
    # what was carried out has no notebooks and would be made again
    monkeypatch.setattr(explore.scheduler, "make", lambda *_: [])
    explorer = explore.Explorer(str(mini.path), "mixed", "base", str(mini.folder.parent))
    panel = explorer.mixing()
    by = {control.description: control for control in panel.children[0].children}
    assert by["text"].value.endswith("?")
    by["text"].value, by["alpha"].value = "Tamu itu tidak perampok", 1.0
    shown = panel.children[1].value
    assert "<span class='answer' title='tidak'>" in shown
    assert "<span class='answer' title='perampok'>maling</span>" in shown
    assert "2 of them in the dictionary, 2 changed" in shown
    by["alpha"].value = 0.0
    assert "0 changed" in panel.children[1].value
    panel = explorer.passages_answered()
    by = {control.description: control for control in panel.children[0].children}
    by["show"].value, by["language"].value = "every answer", "jav"
    assert "15 of 15 match" in panel.children[1].value
    assert explorer.passages["passages", "jav"]["question"][0] in panel.children[1].value
    assert "no parallel text" in explorer.translations().value


@pytest.mark.quick
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("texts: {jav: texts/sun.txt}, instructions: null, loss: all", r"'texts.jav': found 'texts/sun.txt'"),
        ("instructions: {file: rows.json}", r"'instructions.file': found 'rows.json'; allowed: instructions/ind.jsonl"),
        (
            "dictionaries: {jav: {file: jav.tsv}}",
            r"'dictionaries.jav.file': found 'jav.tsv'; allowed: dictionaries/jav",
        ),
    ],
)
def test_the_mini_lab_has_no_other_files(tmp_path, change, said):
    (tmp_path / "t.yaml").write_text(MINI + f"  - {{name: x, {change}}}\n")
    with pytest.raises(SettingsError, match=said):
        Table(tmp_path / "t.yaml", tmp_path / "outputs")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("dictionaries: {ind: {file: en-id.txt}, jav: {file: jv.csv, source: eng, target: java}}", "no column 'java'"),
        ("dictionaries: {ind: {file: jv.csv}, jav: {file: en-id.txt}}", "found a table, but no columns"),
        ("instructions: {file: rows.json, output: answer}", "there is no field 'answer'"),
        ("instructions: null, loss: all, texts: {ind: rows.json}", "a text file, with one text a line"),
    ],
)
def test_files_are_read_before_any_work(folder, change, said):
    (folder / "read.yaml").write_text(TABLE + f"  - {{name: x, {change}}}\n")
    with pytest.raises(SettingsError, match=said):
        Table(folder / "read.yaml", folder / "other").check()


@pytest.mark.quick
def test_parts_of_a_text_are_what_they_were_before():
    from ia_lib.recipes.commit import _unmixed

    pieces = [("makanan", "food"), (" ", " "), ("itu", "that"), (" ", " "), ("enak", "tasty")]
    parts = ["food th", "at tas", "ty"]
    assert _unmixed(pieces, parts) == ["makanan itu", " enak", ""]
    assert _unmixed(pieces, ["food that tasty"]) == ["makanan itu enak"]
