"""Sheets that people mark: what stands in them, what comes back, and what is refused."""

import csv
import io
import json
import re
import string

import openpyxl
import pandas as pd
import pytest

from ia_lib.data.files import CorpusError
from ia_lib.evaluation import blind

pytestmark = pytest.mark.quick
ODD = [
    *("=1+1", "+62 812", "-5", "@SUM(A1)", "＝1+1", "'tis so", '=HYPERLINK("x";"b")', "\t=2", "\r=2"),
    *("word " * 9000, "1/2", "007", "3-10", "1e5", "5 May", "TRUE", "१२", "1234567890" * 5, "10:30"),
    *("first\nsecond", "a\r\nb", "a, b; c", 'she said "no"', "no", "nan", "NULL", "á"),
    *("\u202bשלום", "🙂", "bell \x07 nul \x00"),
]  # fmt: skip


def item(run="lora", example="1", answer="Because.", language="bg", question="Why?", **more):
    line = {"run": run, "dataset": "alpaca", "task": "open", "language": language, "language_name": "Bulgarian"}
    return {**line, "example": example, "question": question, "answer": answer, **more}


def exported(folder, lines, seed=1):
    sheet, key = folder / "ani.csv", folder / "key.json"
    blind.export(pd.DataFrame(lines), sheet, key, seed)
    return sheet, key


def cells(sheet):
    """The sheet's rows, by Python's own reader alone."""
    return list(csv.DictReader(io.StringIO(sheet.read_bytes().decode("utf-8-sig"), newline="")))


def saved(sheet, rows, delimiter=",", encoding="utf-8", end="\n", names=blind.COLUMNS):
    text = io.StringIO()
    table = csv.DictWriter(text, names, delimiter=delimiter, lineterminator=end, extrasaction="ignore", restval="")
    table.writeheader()
    table.writerows(rows)
    sheet.write_bytes(text.getvalue().encode(encoding))
    return sheet


def many(count=40):
    return [item(run, str(i), f"{i % 7} of {run}", question=f"Q{i}?") for run in ("lora", "full") for i in range(count)]


def test_marks_come_back_to_whom_they_belong(tmp_path):
    lines = [
        item("lora", "1", "Because."),
        item("full", "1", " Because.\n"),  # the same to whoever reads it
        item("full", "2", "Because.", question="How?"),
        item("lora", "2", " \u200b\n", question="How?"),
        item("base", "1", "Because.", language="no", language_name="Norwegian"),
        item("base", "7", "Unmarked.", task="other"),
    ]
    sheet, key = exported(tmp_path, lines)
    rows = cells(sheet)
    assert tuple(rows[0]) == ("item", "language", "question", "answer", "mark", "remark")
    assert sorted((r["language"], r["question"], r["answer"]) for r in rows) == [
        ("Bulgarian", "How?", "Because."),
        ("Bulgarian", "Why?", "Because."),
        ("Bulgarian", "Why?", "Unmarked."),
        ("Norwegian", "Why?", "Because."),
    ]
    given = {("Bulgarian", "Why?"): "2", ("Bulgarian", "How?"): " 3.0 ", ("Norwegian", "Why?"): "1,0"}
    for row in rows:
        row["mark"] = "" if row["answer"] == "Unmarked." else given[row["language"], row["question"]]
    found = blind.read(saved(sheet, rows), key)
    assert list(found) == [*blind.KEYS, "answer", "mark"]
    pd.testing.assert_frame_equal(found[[*blind.KEYS]], pd.DataFrame(lines)[[*blind.KEYS]])
    assert found["mark"].fillna(0).tolist() == [2, 2, 3, 1, 1, 0]
    # a row that is gone is as good as one without a mark
    short = blind.read(saved(sheet, [row for row in rows if row["question"] == "How?"]), key)
    assert short["mark"].isna().tolist() == [True, True, False, False, True, True]


def test_a_sheet_does_not_say_whose_answer_it_is(tmp_path):
    sheet, key = exported(tmp_path, [item(run, str(i), f"says {i}") for run in ("lora", "full") for i in range(60)])
    rows = cells(sheet)
    assert len(rows) == 60
    text = sheet.read_text("utf-8")
    assert "lora" not in text
    assert "full" not in text
    assert all(re.fullmatch("[a-z]+", row["item"]) and not set(row["item"]) & {*"aeiou"} for row in rows)
    told = json.loads(key.read_text())["items"]
    # neither names nor rows stand in the order of the answers
    order = [int(row["answer"].removeprefix("'").split()[1]) for row in rows]
    by_name = [int(answer.split()[1]) for _, answer in sorted(told.items())]
    place = {row["item"]: i for i, row in enumerate(rows)}
    for numbers in (order, by_name, [place[name] for name in sorted(told)]):
        assert abs(pd.Series(numbers).corr(pd.Series(range(60)), method="spearman")) < 0.35


def test_bytes_depend_on_answers_and_seed_alone(tmp_path):
    names = ("one", "back", "other")
    for name in names:
        (tmp_path / name).mkdir()
    lines = many()
    one, back = (exported(tmp_path / name, some)[0] for name, some in zip(names, (lines, lines[::-1]), strict=False))
    assert one.read_bytes() == back.read_bytes()
    other, _ = exported(tmp_path / "other", lines, seed=2)
    assert {row["answer"] for row in cells(one)} == {row["answer"] for row in cells(other)}
    assert not {row["item"] for row in cells(one)} & {row["item"] for row in cells(other)}
    assert [row["answer"] for row in cells(one)] != [row["answer"] for row in cells(other)]


def test_spreadsheets_leave_answers_alone_and_they_come_back(tmp_path):
    sheet, key = exported(tmp_path, [item(example=str(i), answer=text, question=text) for i, text in enumerate(ODD)])
    assert sheet.read_bytes().startswith(b"\xef\xbb\xbf")
    rows = cells(sheet)
    for row in rows:
        for name in ("item", "question", "answer"):
            cell = row[name]
            assert cell[0] not in "=+-@＝＋－＠\t\r", cell
            assert not set(cell) & ({*map(chr, range(32))} - {"\n"}), cell
            assert cell == "nan" or pd.isna(pd.to_numeric(cell, errors="coerce")), cell
            # nothing short that has a digit is left to guesses at dates
            assert cell.startswith("'") or not any(map(str.isdigit, cell)), cell
    answers = {row["answer"].removeprefix("'") for row in rows}
    plain = {text.strip() for text in ODD if text.isprintable()} - {"'tis so"}
    assert plain <= answers
    assert "''tis so" in {row["answer"] for row in rows}
    for number, row in enumerate(rows):
        row["mark"], row["answer"] = number % 3 + 1, row["answer"][:32_767]
    wanted = {row["item"]: row["mark"] for row in rows}
    items = {answer: name for name, answer in json.loads(key.read_text())["items"].items()}
    read = blind.read(saved(sheet, rows), key)
    assert read["mark"].tolist() == [wanted[items[text.strip()]] for text in ODD]


@pytest.mark.parametrize(
    "how",
    [
        {"delimiter": ";"},
        {"end": "\r\n", "encoding": "utf-8-sig"},
        {"names": ("remark", "mark", "answer", "checked by", "item")},
        {"names": blind.COLUMNS, "delimiter": ";", "end": "\r", "encoding": "utf-8-sig"},
    ],
)
def test_sheets_as_programs_save_them(tmp_path, how):
    sheet, key = exported(tmp_path, [*many(), item(example="x", answer="two\nlines; and, more")])
    rows = [{**row, "mark": str(ord(row["item"][0]) % 3 + 1), "remark": "=so, so;"} for row in cells(sheet)]
    expected = blind.read(saved(sheet, rows), key)
    pd.testing.assert_frame_equal(blind.read(saved(sheet, rows[::-1], **how), key), expected)
    assert set(expected["mark"]) == {1, 2, 3}


def test_a_sheet_saved_as_a_workbook(tmp_path):
    sheet, key = exported(tmp_path, many())
    book = openpyxl.Workbook()
    book.active.append(list(blind.COLUMNS))
    for number, row in enumerate(cells(sheet)):
        book.active.append([*[*row.values()][:4], number % 3 + 1.0, None])
    book.active.append([None] * 6)
    book.save(tmp_path / "ani.xlsx")
    found = blind.read(tmp_path / "ani.xlsx", key)
    assert found["mark"].value_counts().to_dict() == {1: 27, 2: 27, 3: 26}


@pytest.mark.parametrize("mark", ["4", "0", "2.5", "two", "1-2", "nan", "inf", "-1", "2?"])
def test_other_marks_are_refused(tmp_path, mark):
    sheet, key = exported(tmp_path, many())
    rows = cells(sheet)
    rows[2]["mark"] = mark
    said = f"ani.csv, line 4: found the mark {mark!r}; allowed: 1, 2, 3, or an empty cell"
    with pytest.raises(CorpusError, match=re.escape(said)):
        blind.read(saved(sheet, rows), key)


def test_what_is_wrong_in_a_sheet_is_refused(tmp_path):
    sheet, key = exported(tmp_path, many())
    rows = cells(sheet)
    answers = [row["answer"] for row in rows]
    moved = [{**row, "answer": answer} for row, answer in zip(rows, [*answers[1:], answers[0]], strict=True)]
    for spoilt, said in (
        ([*rows, {**rows[0], "item": "zzz"}], "line 82: found the item 'zzz'; allowed: an item of "),
        ([*rows, {**rows[0], "item": ""}], "line 82: found the item ''; allowed: an item of "),
        ([*rows, rows[5]], f"line 82: the item {rows[5]['item']!r} was used before, in line 7"),
        (moved, f"line 2: the answer is not that of the item {rows[0]['item']!r}; sort whole rows"),
    ):
        with pytest.raises(CorpusError, match=re.escape(f"ani.csv, {said}")):
            blind.read(saved(sheet, spoilt), key)
    for name in ("item", "answer", "mark"):
        with pytest.raises(CorpusError, match=f"ani.csv: there is no column '{name}'; found: "):
            blind.read(saved(sheet, rows, names=[other for other in blind.COLUMNS if other != name]), key)
    with pytest.raises(CorpusError, match="not UTF-8"):
        blind.read(saved(sheet, [{**rows[0], "remark": "schön"}], encoding="latin-1"), key)
    with pytest.raises(CorpusError, match="there is no such file"):
        blind.read(tmp_path / "budi.csv", key)
    saved(sheet, rows)
    for text, said in (
        ("[]", "key.json, field 'the whole': this is no key"),
        ("{", "key.json: this is no JSON object"),
    ):
        key.write_text(text)
        with pytest.raises(CorpusError, match=said):
            blind.read(sheet, key)
    key.write_text(json.dumps({"items": {}, "answers": [["lora", "a", "b", "c", 5, None]]}))
    with pytest.raises(CorpusError, match=re.escape("field 'answers.0.4': this is no key")):
        blind.read(sheet, key)


def test_a_marked_sheet_is_not_written_over(tmp_path):
    sheet, key = exported(tmp_path, many())
    exported(tmp_path, many())
    rows = cells(sheet)
    saved(sheet, [{**rows[0], "mark": "3"}, *rows[1:]])
    before = sheet.read_bytes(), key.read_bytes()
    with pytest.raises(CorpusError, match="may hold somebody's marks"):
        exported(tmp_path, many()[:5])
    assert (sheet.read_bytes(), key.read_bytes()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ani.csv", "key.json"]


def test_what_cannot_be_asked_is_refused(tmp_path):
    for lines, said in (
        ([item(), item()], "two answers of lora/alpaca/open/bg/1; allowed: one"),
        ([item(answer=" ")], "no answer that is not empty"),
        ([{name: value for name, value in item().items() if name != "question"}], "no column 'question'"),
    ):
        with pytest.raises(ValueError, match=said):
            exported(tmp_path, lines)
    assert not [*tmp_path.iterdir()]


def test_names_of_items_are_no_words_and_no_numbers(tmp_path):
    sheet, _ = exported(tmp_path, [item(example=str(i), answer=f"says {i}") for i in range(500)])
    names = [row["item"] for row in cells(sheet)]
    assert len({*names}) == 500
    assert not {*"".join(names)} - {*string.ascii_lowercase} | {*"".join(names)} & {*"aeiouy"}
