"""A language of one's own, from its files to the report, as README walks through it."""

import json

import pandas as pd
import pytest

from ia_lib.data import corpora, files
from ia_lib.workflow import plan, tables
from ia_lib.workflow.graph import Table
from ia_lib.workflow.scheduler import execute

OWN = """
defaults:
  corpus: own
  parallel: {file: %(data)s/train.tsv, columns: {ind: Indonesia, xmd: Madura}, id: id}
  languages: {xmd: Madurese}
  known: [ind]
  taught: [xmd]
  unseen: []
  tests: [{file: %(data)s/test.csv, language: xmd, labels: [negative, positive], id: id}]
  validation_sentences: 6
runs:
  - {name: base, model: {name: %(data)s/model}}
  - name: taught
    model: {run: base}
    objective: tlm+xss
    past: {file: %(data)s/past.jsonl, prompt: inputs, answer: targets}
    replay: 20
    new_epochs: 0.1
    new_per_step: 4
    old_per_step: 4
    validation_rows: 4
"""


@pytest.fixture
def data(tmp_path, real_data, tokenizer, model):
    """A slice of the real Madurese text as a user's own files, and a tiny model; the test sentences overlap."""
    train = pd.read_csv(real_data / "nusawrites/nusa_kalimat-mt-mad-train.csv").head(120)
    train.columns = ["id", "Indonesia", "Madura"]
    train.to_csv(tmp_path / "train.tsv", sep="\t", index=False)
    test = pd.read_csv(real_data / "nusawrites/nusa_kalimat-senti-mad-test.csv").head(30)
    known = train.iloc[:3].rename(columns={"Madura": "text"})[["id", "text"]].assign(label="positive")
    pd.concat([test, known]).to_csv(tmp_path / "test.csv", index=False)
    lines = [json.dumps({"inputs": f"{i} + 1 =", "targets": str(i + 1)}) for i in range(50)]
    (tmp_path / "past.jsonl").write_text("\n".join(lines))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path


def test_a_language_of_ones_own_from_files_to_report(data, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(OWN % {"data": data})
    table = Table(path, tmp_path / "outputs")
    assert execute(table) == []
    made = table.folder / "taught" / "data"
    report = json.loads((made / "report.json").read_text())
    assert report["pairs_dropped_because_in_tests"] >= 3
    assert report["pairs_still_in_tests"] == 0
    instructions = pd.read_parquet(made / "examples.parquet").query("role == 'new'")
    assert instructions["prompt"].str.contains("Madurese").any()
    tested = set(pd.read_csv(data / "test.csv")["id"].astype(str))
    assert not set(instructions["source_id"]) & tested
    results = pd.read_csv(table.folder / "report" / "results.csv")
    assert set(results["run"]) == {"base", "taught"}
    assert results[results["run"] == "taught"]["difference"].notna().any()
    # the exposure was set by epochs of the new data
    assert report["steps"] * 4 == len(instructions[instructions["split"] == "train"])
    assert report["epochs_of_new_data"] == pytest.approx(0.1, abs=0.02)


HELD_OUT = """
defaults:
  corpus: own
  parallel: {lines: {no: no.txt, nan: nan.txt}}
  languages: {nan: Hokkien}
  known: [no]
  taught: [nan]
  unseen: []
  validation_sentences: 4
  share_text: false
runs:
  - {name: base, model: {name: model}}
  - {name: taught, model: {run: base}, objective: mt, steps: 2, new_per_step: 2, validation_rows: 2}
"""


def test_without_labels_held_out_sentences_are_measured_and_texts_stay_unseen(tmp_path, parallel, tokenizer, model):
    # files are found beside the table; the languages' codes are words that tables read as something else
    for code, source in (("no", "ind"), ("nan", "jav")):
        (tmp_path / f"{code}.txt").write_text("\n".join(parallel[source][:40]))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    path = tmp_path / "held.yaml"
    path.write_text(HELD_OUT)
    table = Table(path, tmp_path / "outputs")
    assert execute(table) == []
    report = table.folder / "report"
    found = files.own_csv(report / "results.csv")
    found = found[(found["kind"] == "translate") & (found["language"] != "all")]
    assert set(found["run"]) == {"base", "taught"}
    assert set(found["language"]) == {"no", "nan"}
    assert set(found["metric"]) == {"chrF", "similarity", "answer loss"}
    page = (report / "index.html").read_text()
    assert "Translation, similarity and true answers" in page
    plan.print_results(table)
    shown = [page, *(nb.read_text() for nb in table.folder.rglob("*.ipynb"))]
    for sentence in [*parallel["ind"][:40], *parallel["jav"][:40]]:
        assert not any(sentence in text for text in shown)


def test_texts_that_are_not_to_be_shared_are_not_shown(data, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(OWN.replace("defaults:", "defaults:\n  share_text: false") % {"data": data})
    stage = Table(path, tmp_path / "out").stage("taught", "data")
    run, found = stage.run, stage.inputs.parallel()
    shown = run.shown(found.to_pandas())
    assert shown["xmd"].str.fullmatch(r"\(\d+ words\)").all()
    assert not run.changed(share_text=True).shown(found.to_pandas()).equals(shown)


def test_what_is_wrong_with_own_files_is_said(data, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(OWN.replace("Madura}", "Madurese}") % {"data": data})
    with pytest.raises(corpora.CorpusError, match=r"train\.tsv.*'Madurese'"):
        Table(path, tmp_path / "out").stage("taught", "data").inputs.parallel()
    path.write_text(OWN.replace("train.tsv", "nothing.tsv") % {"data": data})
    with pytest.raises(tables.SettingsError, match=r"nothing\.tsv: there is no such file"):
        Table(path, tmp_path / "outputs").check()
    path.write_text(OWN.replace("languages: {xmd: Madurese}", "mask: _") % {"data": data})
    with pytest.raises(tables.SettingsError, match=r"'xmd'.*with a name in languages"):
        tables.load(path)
    path.write_text(OWN.replace("corpus: own", "corpus: own\n  pivots: [xmd]") % {"data": data})
    with pytest.raises(tables.SettingsError, match="field 'pivots'"):
        tables.load(path)


def test_norwegian_and_min_nan_stay_text(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "runs:\n  - {name: one, corpus: own, parallel: {file: x.csv}, languages: {nan: Hokkien}, known: [no],"
        " taught: [nan], unseen: [], model: {name: m}, objective: mt}\n"
    )
    run = tables.load(path)[0]
    assert (run.known, run.taught, run.pivots) == (["no"], ["nan"], ["no"])
    (tmp_path / "x.csv").write_text("no,nan\nno,lain\nsatu,nan\nNA,null\n")
    found = Table(path, tmp_path / "out").stage("one", "data").inputs.parallel()
    assert found["no"][:] == ["no", "satu", "NA"]
    assert found["nan"][:] == ["lain", "nan", "null"]


def test_a_model_without_turns_is_not_talked_to(tmp_path, parallel, tokenizer, model):
    for code, source in (("no", "ind"), ("nan", "jav")):
        (tmp_path / f"{code}.txt").write_text("\n".join(parallel[source][:40]))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    path = tmp_path / "held.yaml"
    path.write_text(HELD_OUT.replace("share_text: false", "chat: true"))
    with pytest.raises(tables.SettingsError, match="run 'base': chat: found true; allowed: false, since"):
        Table(path, tmp_path / "outputs").check()
    template = "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}"
    template += "{% if add_generation_prompt %}assistant: {% endif %}"
    (tmp_path / "model/chat_template.jinja").write_text(template)
    Table(path, tmp_path / "outputs").check()
