"""A model that another row has trained must not know what this row holds out, or is tested on."""

import json

import pytest

from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError

pytestmark = pytest.mark.quick
TABLE = """
defaults:
  corpus: own
  parallel: {file: pairs.csv, columns: {ind: ind, mad: mad}, id: id}
  known: [ind]
  taught: [mad]
  unseen: []
  steps: 10
  replay: 0
  held_out: true
  validation_sentences: 10
runs:
  - name: base
    recipe: instructions
    past: {file: past.jsonl}
    validation_rows: 2
    steps: 4
    per_step: 2
    model: {new: {hidden: 16, layers: 1, heads: 2, vocabulary: 600}}
  - {name: a, objective: mt, model: {run: base}}
  - {name: b, objective: mt, model: {run: a}}
"""


@pytest.fixture
def check(tmp_path):
    rows = [f"{i},kalimat nomor {'abcdefghij'[i % 10] * (1 + i // 10)},ukara {i} angka" for i in range(60)]
    (tmp_path / "pairs.csv").write_text("\n".join(["id,ind,mad", *rows]))
    tests = [f"{i},ukara {i} angka,{'good' if i % 2 else 'bad'}" for i in range(30)]
    (tmp_path / "test.csv").write_text("\n".join(["id,text,label", *tests]))
    others = [f"{i},pan liyane {'xyz'[i % 3] * (i + 1)},{'good' if i % 2 else 'bad'}" for i in range(30)]
    (tmp_path / "other.csv").write_text("\n".join(["id,text,label", *others]))
    past = [json.dumps({"prompt": f"{i} + 1 =", "answer": str(i + 1)}) for i in range(20)]
    (tmp_path / "past.jsonl").write_text("\n".join(past))

    def checked(row="a", field="", more=""):
        path = tmp_path / "t.yaml"
        text = TABLE.replace(f"name: {row}, objective", f"name: {row}, {field}, objective") if field else TABLE
        path.write_text(text + more)
        table = Table(path, tmp_path / "outputs")
        table.check()
        return table

    return checked


def test_rows_that_split_alike_are_taken(check):
    table = check()
    inputs = table.stage("b", "evaluate").inputs
    assert len(inputs.held_out()) == 10


@pytest.mark.parametrize(
    ("row", "field"), [("b", "seed: 2"), ("b", "validation_sentences: 25"), ("a", "sentences: 40"), ("a", "seed: 3")]
)
def test_held_out_sentences_that_were_trained_on_are_refused(check, row, field):
    said = r"field 'model.run': found 'a', while 'a' was trained on \d+ of the \d+ sentences that are held out here"
    with pytest.raises(SettingsError, match=said):
        check(row, field)
    # and where nothing is trained any more
    with pytest.raises(SettingsError, match=said.replace("found 'a'", "found 'b'").replace("'a' was", "'b' was")):
        check(more="  - {name: c, model: {run: b}, validation_sentences: 30}\n")


TESTS = "tests: [{file: FILE, language: mad, labels: [good, bad], id: id}]"


def test_test_texts_that_were_trained_on_are_refused(check):
    tests = TESTS.replace("FILE", "test.csv")
    said = r"found 'a', while 'a' was trained on \d+ pairs that occur in the test texts here; allowed: a run with"
    with pytest.raises(SettingsError, match=said):
        check("b", tests + ", held_out: false, hold_out: row")
    with pytest.raises(SettingsError, match=said):
        check(more=f"  - {{name: c, model: {{run: a}}, held_out: false, {tests}}}\n")
    check(more=f"  - {{name: c, model: {{run: a}}, held_out: false, drop_test_overlap: false, {tests}}}\n")
    check(more=f"  - {{name: c, model: {{run: a}}, held_out: false, {TESTS.replace('FILE', 'other.csv')}}}\n")


def test_rows_that_are_only_numbered_alike_are_not_dropped(check):
    table = check("a", TESTS.replace("FILE", "other.csv"))
    inputs = table.stage("a", "data").inputs
    assert (len(inputs.usable()), inputs.dropped) == (60, 0)
