"""All that lies on this machine is looked at before any work, whether or not the model is there too."""

import json
import warnings

import openpyxl
import pytest

from ia_lib.data.files import CorpusWarning
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError

pytestmark = pytest.mark.quick
TABLE = """
defaults:
  corpus: own
  parallel: {file: pairs.csv, columns: {ind: ind, xmd: xmd}}
  languages: {xmd: Madura}
  known: [ind]
  taught: [xmd]
  unseen: []
  tests: [{file: tests.csv, language: xmd, labels: [good, bad]}]
  replay: 0
runs:
  - {name: one, objective: tlm, model: {name: nobody/no-such-model}, ROW}
"""
PAIRS = [[f"kalimat nomor {i}", f"ukara angka {i}"] for i in range(80)]
TESTS = [[f"pan ukara {i}", "bad" if i % 2 else "good"] for i in range(8)]


def rows(path, header, lines, encoding="utf-8"):
    path.write_text("\n".join(",".join(line) for line in [header, *lines]) + "\n", encoding=encoding)


def sheets(folder):
    book = openpyxl.Workbook()
    for line in [["ind", "xmd"], *PAIRS[:60], ["tujuh", 7.5]]:
        book.active.append(line)
    book.save(folder / "pairs.xlsx")


BAD = {
    "a column": (lambda f: rows(f / "pairs.csv", ["ind", "mad"], PAIRS), "", r"pairs\.csv.*'xmd'"),
    "encoding": (lambda f: rows(f / "pairs.csv", ["ind", "xmd"], [*PAIRS, ["cafe", "café"]], "latin-1"),
                 "", r"pairs\.csv.*line 82.*UTF-8"),
    "an empty cell": (lambda f: rows(f / "pairs.csv", ["ind", "xmd"], [*PAIRS, ["satu", ""]]), "", r"line 82"),
    "a number": (sheets, "parallel: {file: pairs.xlsx}", r"pairs\.xlsx.*row 62.*7\.5"),
    "a sheet": (sheets, "parallel: {file: pairs.xlsx, sheet: two}", r"pairs\.xlsx.*'two'"),
    "a label": (lambda f: rows(f / "tests.csv", ["text", "label"], [*TESTS, ["lain", "great"]]), "", "'great'"),
    "the past": (lambda f: (f / "past.jsonl").write_text(json.dumps({"inputs": "a", "targets": "b"}) + "\n"),
                 "past: {file: past.jsonl}, replay: 1", r"past\.jsonl.*prompt"),
    "too few rows": (lambda f: (f / "past.jsonl").write_text('{"prompt": "a", "answer": "b"}\n'),
                     "past: {file: past.jsonl}, replay: 5", r"\b1\b.*\b5\b|\b5\b.*\b1\b"),
    "held out": (lambda f: None, "validation_sentences: 80", r"validation_sentences.*below 80"),
    "pairs of a task": (
        lambda f: (rows(f / "more.csv", ["ind", "xmd"], [["satu", ""]]),
                   (f / "more.yaml").write_text(
                       "kind: translate\ndata: {file: more.csv, columns: {ind: ind, xmd: xmd}}\n")),
        "tasks: [more.yaml]", r"more\.csv.*line 2"),
}  # fmt: skip


def made(folder, row=""):
    rows(folder / "pairs.csv", ["ind", "xmd"], PAIRS)
    rows(folder / "tests.csv", ["text", "label"], TESTS)
    (folder / "own.yaml").write_text(TABLE.replace(", ROW", row and f", {row}"))
    return folder / "own.yaml"


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("tasks", ["", "nusax/sentiment"])
def test_a_bad_file_is_refused_though_the_model_is_elsewhere(tmp_path, case, tasks, monkeypatch):
    """Nor does a published test that would have to be downloaded keep it from being found."""
    monkeypatch.setenv("IA_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("IA_CACHE", str(tmp_path / "cache"))
    spoil, row, said = BAD[case]
    if tasks:
        row = row.replace("[more.yaml]", f"[{tasks}, more.yaml]") if "tasks" in row else f"{row}, tasks: [{tasks}]"
        row += ", unseen: [mad]"
    path = made(tmp_path, row.strip(", "))
    spoil(tmp_path)
    with pytest.raises(SettingsError, match=said) as refusal:
        Table(path, tmp_path / "outputs").check()
    assert len(str(refusal.value)) < 1000
    assert "\n" not in str(refusal.value)


def test_good_files_pass_and_dirt_is_told(tmp_path):
    path = made(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Table(path, tmp_path / "outputs").check()
    rows(tmp_path / "pairs.csv", ["ind", "xmd"], [*PAIRS, ["a &amp; b", "c &amp; d"]])
    with pytest.warns(UserWarning, match="HTML"):
        Table(path, tmp_path / "outputs").check()


def test_offline_without_the_model_is_refused_by_plan(tmp_path):
    table = Table(made(tmp_path, "offline: true"), tmp_path / "outputs")
    with pytest.raises(SettingsError, match="nobody/no-such-model is not on this machine, and offline is set"):
        table.check_offline()


def test_what_a_table_and_its_texts_tell_at_once(tmp_path):
    path = made(tmp_path, "unseen: [jav]")
    with pytest.warns(UserWarning, match="the run one reads no text in jav: neither a test nor parallel text"):
        Table(path, tmp_path / "outputs").check()
    for row, said in {
        "parallel: {file: pairs.csv, columns: {ind: ind, xmd: ind}}": "field 'parallel.columns': found 'ind'; allowed: "
        "one of its own for each language",
        "languages: {xmd: indonesian}": "field 'languages': found 'Indonesian'; allowed: a name of its own",
        "past: {file: past.jsonl, prompt: a, answer: a}": "field 'past.answer': found 'a'; allowed: another field",
    }.items():
        with pytest.raises(SettingsError, match=said):
            Table(made(tmp_path, row), tmp_path / "outputs")
    path = made(tmp_path)
    rows(tmp_path / "pairs.csv", ["ind", "xmd"], [*PAIRS, ["ind", "xmd"]])
    with pytest.raises(SettingsError, match="line 82: this row is the header once more"):
        Table(path, tmp_path / "outputs").check()
    rows(
        tmp_path / "pairs.csv",
        ["ind", "xmd"],
        [*PAIRS, *([f"sama {'abcdefghijklmnopqrstuv'[i]}"] * 2 for i in range(20))],
    )
    rows(tmp_path / "tests.csv", ["text", "label"], [*TESTS, ["pan ukara 0", "bad"]])
    with pytest.warns(CorpusWarning, match="not translated|different labels") as said:
        Table(path, tmp_path / "outputs").check()
    said = [str(one.message) for one in said]
    assert "20 of 100 sentences read the same in ind and xmd: not translated?" in said
    assert "1 texts of sentiment in xmd are there with different labels: one of them is wrong" in said
    (tmp_path / "pairs.csv").write_bytes(b"PK\x03\x04" + b"\xff" * 40)
    with pytest.raises(SettingsError, match=r"pairs\.csv: this is no table of text but a workbook or ZIP"):
        Table(path, tmp_path / "outputs").check()
