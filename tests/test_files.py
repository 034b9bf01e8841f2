import datetime
import decimal
import json
import re
import warnings

import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from ia_lib.data import files

pytestmark = pytest.mark.quick
# What readers of tables like to take for something else, and what separates cells.
TEXTS = [
    "no",
    "nan",
    "NaN",
    "null",
    "NA",
    "true",
    "1e3",
    "007",
    "a, b; c",
    'say "ya"',
    "tiké'",
    "é\u2028x",
    "- 2",
    "=1+1",
]

READ = {"lines": lambda path: list(files.lines(path)), "records": lambda path: list(files.records(path))}


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def saved(folder, ending):
    frame = pd.DataFrame({"id": [str(i) for i in range(len(TEXTS))], "text": TEXTS, "unused": ""})
    path = folder / f"own{ending}"
    if ending == ".csv":
        frame.to_csv(path, index=False)
    elif ending == ".tsv":
        write(path, "id\ttext\tunused\n" + "".join(f"{i}\t{text}\t\n" for i, text in enumerate(TEXTS)))
    elif ending == ".jsonl":
        rows = frame.to_dict("records")
        write(path, "".join(json.dumps({**row, "id": int(row["id"])}, ensure_ascii=False) + "\n" for row in rows))
    elif ending == ".parquet":
        frame.assign(id=frame["id"].astype(int)).to_parquet(path)
    elif ending == ".xlsx":
        pytest.importorskip("openpyxl", reason="XLSX needs openpyxl")
        # a text with an equals sign in front would be a formula
        frame.assign(id=frame["id"].astype(int), text=frame["text"].replace("=1+1", "1+1")).to_excel(path, index=False)
    elif ending in (".xlf", ".xliff"):
        units = "".join(
            f'<trans-unit id="{i}"><source>x</source><target>{text.replace("&", "&amp;")}</target></trans-unit>'
            for i, text in enumerate(TEXTS)
        )
        head = '<?xml version="1.0"?><xliff version="1.2"><file source-language="id" target-language="mad"><body>'
        write(path, f"{head}{units}</body></file></xliff>")
    else:
        units = "".join(
            f'<tu tuid="{i}"><tuv xml:lang="mad"><seg>{text.replace("&", "&amp;")}</seg></tuv></tu>'
            for i, text in enumerate(TEXTS)
        )
        write(path, f'<?xml version="1.0"?><tmx version="1.4"><header/><body>{units}</body></tmx>')
    return path


@pytest.mark.parametrize("ending", files.TABLES)
def test_texts_stay_texts_in_every_format(tmp_path, ending):
    xml = ending in (".tmx", ".xlf", ".xliff")
    columns = ["tuid", "mad"] if xml else ["id", "text"]
    read = files.table(saved(tmp_path, ending), columns, whole=["id"])
    ids, texts = (read.cells[name] for name in columns)
    assert ids == [str(i) for i in range(len(TEXTS))]
    wanted = TEXTS
    if ending == ".xlsx":
        wanted = [text.replace("=1+1", "1+1") for text in wanted]
    if xml:
        # a segment is one line of text, whatever breaks the file has
        wanted = [" ".join(text.split()) for text in wanted]
    assert texts == wanted


def test_places_are_lines_as_an_editor_counts_them(tmp_path):
    path = write(tmp_path / "a.csv", 'id,text\r\n1,"two\nlines"\r\n\r\n2,b\r\n')
    read = files.table(path, ["text"])
    assert read.cells == {"text": ["two\nlines", "b"]}
    assert read.places == ["line 2", "line 5"]
    read = files.table(write(tmp_path / "a.jsonl", '\n{"text": "a"}\n\n{"text": "b"}\n'), ["text"])
    assert read.places == ["line 2", "line 4"]


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_long_cells_are_read(tmp_path, ending):
    path = write(tmp_path / f"a{ending}", "text\n" + "kata " * 60_000 + "x\n")
    assert len(files.table(path, ["text"]).cells["text"][0]) == 300_001


def test_semicolons_and_byte_order_marks(tmp_path):
    path = write(tmp_path / "a.csv", "\ufeffid;text\n1;a, b\n")
    assert files.table(path, ["id", "text"]).cells == {"id": ["1"], "text": ["a, b"]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "id,text\n1,a\n", "a.csv: there is no column 'label'; found: id, text"),
        ("a.csv", "id,label,label\n1,a,b\n", "line 1: there are several columns 'label'"),
        ("a.csv", "", "a.csv: this is no table: the file is empty"),
        ("a.csv", "id,label\n", "a.csv: the table has no rows"),
        ("a.csv", "id,label\n1,a\n2, \n", "a.csv, line 3: the column 'label' is empty; fill the cell or remove"),
        ("a.csv", "id,label\n1,a\n2,b,c\n", "a.csv, line 3: found 3 cells, but the header has 2"),
        ("a.csv", 'id,label\n1,"a\n2,b\n', "a.csv, line 2: this is no table"),
        ("a.csv", 'id,label\n1,"a"b\n', "a.csv, line 2: this is no table"),
        ("a.jsonl", '{"id": 1}\n', "a.jsonl, line 1: there is no column 'label'; found: id"),
        ("a.csv", "id,label\n1,\u200b\ufeff\n", "a.csv, line 2: the column 'label' is empty"),
        ("a.jsonl", '{"id": 1, "label": "a \\ud83d"}\n', "a.jsonl, line 1: the column 'label' holds half a character"),
        ("a.jsonl", '{"id": 1, "label": NaN}\n', "a.jsonl, line 1: the column 'label' is empty"),
        ("a.jsonl", '{"id": 1, "label": null}\n', "a.jsonl, line 1: the column 'label' is empty"),
        (
            "a.jsonl",
            '{"id": 1, "label": ["a"]}\n',
            "a.jsonl, line 1: the column 'label' holds \"['a']\" (list); it must be text: write it in quotes",
        ),
        ("a.jsonl", "[1]\n", "a.jsonl, line 1: this is no JSON object but '[1]'"),
        pytest.param("a.jsonl", "[" * 100_000, "a.jsonl, line 1: this is no JSON object but lists or ob", id="deep"),
        pytest.param(
            "a.jsonl", '{"id": ' + "1" * 5000 + "}", "a.jsonl, line 1: a number has too many digits", id="digits"
        ),
        ("a.jsonl", "{broken\n", "a.jsonl, line 1: this is no JSON object"),
        ("a.parquet", "broken", "a.parquet: this is no parquet file"),
        ("a.doc", "x", "a.doc: found the ending '.doc'; allowed for a table: .csv"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(tmp_path, name, text, message):
    path = write(tmp_path / name, text)
    with pytest.raises(files.CorpusError, match=re.escape(message)):
        files.table(path, ["id", "label"], whole=["id"])


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (['"a ""b"""', "c"], ['a "b"', "c"]),  # as a spreadsheet quotes
        (['"a" b', "c"], ['"a" b', "c"]),
        (['"a"', '"b'], ['"a"', '"b']),
    ],
)
def test_quotes_in_tsv(tmp_path, cells, expected):
    path = write(tmp_path / "a.tsv", "label\n" + "".join(cell + "\n" for cell in cells))
    assert files.table(path, ["label"]).cells["label"] == expected


def test_missing_values_of_parquet(tmp_path):
    pd.DataFrame({"id": [1, None], "label": ["a", "b"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(files.CorpusError, match="row 2: the column 'id' is empty"):
        files.table(tmp_path / "a.parquet", ["id", "label"], whole=["id"])
    with pytest.raises(files.CorpusError, match="there is no column 'text'; found: id, label"):
        files.table(tmp_path / "a.parquet", ["text"])


def test_rows_of_workbooks(tmp_path):
    pytest.importorskip("openpyxl", reason="XLSX needs openpyxl")
    path = tmp_path / "a.xlsx"
    pd.DataFrame({"id": [1, None, 3], "text": ["a", None, None]}).to_excel(path, index=False)
    with pytest.raises(files.CorpusError, match=r"a.xlsx, row 4: the column 'text' is empty"):
        files.table(path, ["id", "text"], whole=["id"])
    # a row without anything is passed over
    assert files.table(path, ["id"], whole=["id"]).cells == {"id": ["1", "3"]}
    with pytest.raises(files.CorpusError, match="no XLSX workbook"):
        files.table(write(path, "broken"), ["id"])


@pytest.mark.parametrize("read", [lambda path: files.table(path, ["text"]), READ["lines"], READ["records"]])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings(tmp_path, read, encoding):
    path = write(
        tmp_path / "a.csv", 'text\n{"text": "kata"}\né\n'.replace("text\n", "\n", read is READ["records"]), encoding
    )
    line = 3 if encoding == "latin-1" else 1
    with pytest.raises(files.CorpusError, match=rf"a.csv, line {line}: the file is not UTF-8.*save it as UTF-8"):
        read(path)


def test_missing_files(tmp_path):
    for read in (*READ.values(), lambda path: files.table(path, ["a"])):
        with pytest.raises(files.CorpusError, match="there is no such file"):
            read(tmp_path / "none.csv")


def test_lines(tmp_path):
    assert READ["lines"](write(tmp_path / "a.txt", "\ufeffa\r\nb\u2028c \r\n")) == ["a", "b\u2028c"]
    with pytest.raises(files.CorpusError, match=r"a.txt, line 2: the line is empty"):
        READ["lines"](write(tmp_path / "a.txt", "a\n \nb\n"))


TMX = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="id"/><body>
<tu tuid="x1"><tuv xml:lang="ID-id"><seg>Rumah <bpt i="1">&lt;b&gt;</bpt>besar<ept i="1">&lt;/b&gt;</ept>
&amp; baru</seg></tuv><tuv xml:lang="mad"><seg>Roma <hi>raja</hi>
  anyar</seg></tuv><tuv xml:lang="mad"><seg>second</seg></tuv></tu>
<tu tuid="x2"><tuv lang="id"><seg>Ya</seg></tuv>{more}</tu>
</body></tmx>"""


def test_translation_memories(tmp_path):
    path = write(tmp_path / "a.tmx", TMX.replace("{more}", '<tuv xml:lang="mad"><seg>Iya</seg></tuv>'))
    read = files.table(path, ["tuid", "id", "mad"])
    assert read.cells == {"tuid": ["x1", "x2"], "id": ["Rumah besar & baru", "Ya"], "mad": ["Roma raja anyar", "Iya"]}
    with pytest.raises(files.CorpusError, match="there is no language 'jav'; found: id-id, mad, id"):
        files.table(path, ["jav"])
    write(path, TMX.replace("{more}", ""))
    with pytest.raises(files.CorpusError, match=r"a.tmx, unit 2 in line 7: the column 'mad' is empty"):
        files.table(path, ["id", "mad"])
    write(path, TMX.replace("</body>", ""))
    with pytest.raises(files.CorpusError, match=r"a.tmx, line 8: this is no XML"):
        files.table(path, ["id"])


@pytest.mark.parametrize(
    "declaration", ['<!ENTITY x SYSTEM "secret.txt">', '<!ENTITY x "aaaa">', '<!ENTITY % x SYSTEM "secret.txt"> %x;']
)
def test_translation_memories_read_no_other_file(tmp_path, declaration):
    write(tmp_path / "secret.txt", "secret")
    text = TMX.replace('SYSTEM "tmx14.dtd"', f"[{declaration}]").replace("Rumah", "&x;").replace("{more}", "")
    with pytest.raises(files.CorpusError, match="line 2: the file declares an entity"):
        files.table(write(tmp_path / "a.tmx", text), ["id"])


def test_ids_used_twice(tmp_path):
    read = files.table(write(tmp_path / "a.csv", "id\n1\n2\n1\n"), ["id"])
    with pytest.raises(files.CorpusError, match=r"a.csv, line 4: the id '1' was used before, in line 2"):
        read.distinct("id")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1.5, "a number"),
        (7, "a number"),
        (True, "true or false"),
        (["a"], "list"),
        (datetime.date(2020, 1, 2), "a date or time"),
        (datetime.time(1, 2), "a date or time"),
        (decimal.Decimal("1.50"), "Decimal"),
        ({"a": 1}, "dict"),
    ],
)
@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".xlsx"])
def test_what_is_no_text_is_refused(tmp_path, ending, value, kind):
    path = tmp_path / f"a{ending}"
    if ending == ".jsonl":
        if not isinstance(value, float | int | list | dict):
            return
        write(path, json.dumps({"text": "a"}) + "\n" + json.dumps({"text": value}) + "\n")
    elif ending == ".parquet":
        pyarrow.parquet.write_table(pa.table({"text": pa.array([None, value])}), path)
    else:
        if isinstance(value, list | dict):
            return
        book = openpyxl.Workbook()
        for cell in ("text", "a", value):
            book.active.append([cell])
        book.save(path)
    place = {".jsonl": "line 2", ".parquet": "row 2", ".xlsx": "row 3"}[ending]
    kind = {"Decimal": "a number"}.get(kind, kind) if ending == ".xlsx" else kind
    with pytest.raises(files.CorpusError, match=rf"{place}: the column 'text' holds .*{kind}\); it must be text"):
        files.table(path, ["text"], gaps=True)


def test_whole_numbers_are_ids_and_labels(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"id": 7, "label": 1.0}\n')
    assert files.table(path, ["id", "label"], whole=["id", "label"]).cells == {"id": ["7"], "label": ["1"]}
    with pytest.raises(files.CorpusError, match=r"holds '1\.5'"):
        files.table(write(path, '{"id": 1.5}'), ["id"], whole=["id"])
    with pytest.raises(files.CorpusError, match="holds 'True'"):
        files.table(write(path, '{"id": true}'), ["id"], whole=["id"])


def test_bytes_are_utf_8_or_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table({"text": ["halo é".encode(), b"b"]}), path)
    assert files.table(path, ["text"]).cells == {"text": ["halo é", "b"]}
    pyarrow.parquet.write_table(pa.table({"text": [b"a", b"\xff\xfe"]}), path)
    with pytest.raises(files.CorpusError, match="row 2: the column 'text' holds bytes that are not UTF-8"):
        files.table(path, ["text"])


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet", ".xlsx"])
@pytest.mark.parametrize("second", ["ind", " ind "])
def test_doubled_headers_are_refused(tmp_path, ending, second):
    path = tmp_path / f"a{ending}"
    if ending == ".jsonl":
        write(path, '{"ind": "a", "ind": "b"}\n')
    elif ending == ".parquet":
        pyarrow.parquet.write_table(
            pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["ind", second]), path
        )
    elif ending == ".xlsx":
        book = openpyxl.Workbook()
        book.active.append(["ind", second])
        book.active.append(["a", "b"])
        book.save(path)
    else:
        write(path, f"ind,{second}\na,b\n".replace(",", "," if ending == ".csv" else "\t"))
    with pytest.raises(files.CorpusError, match=r"several columns 'ind'|'ind' stands twice"):
        files.table(path, ["ind"])


def test_sheets_of_workbooks(tmp_path):
    path, book = tmp_path / "a.xlsx", openpyxl.Workbook()
    for sheet, text in ((book.active, "a"), (book.create_sheet("Lanjutan"), "b")):
        sheet.append(["ind"])
        sheet.append([text])
    book.create_sheet("empty")
    book.save(path)
    with pytest.warns(files.CorpusWarning, match=r"the sheet 'Sheet', and not 'Lanjutan'; name the one"):
        assert files.table(path, ["ind"]).cells == {"ind": ["a"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert files.table(path, ["ind"], sheet="Lanjutan").cells == {"ind": ["b"]}
    with pytest.raises(files.CorpusError, match="there is no sheet 'x'; found: Sheet, Lanjutan, empty"):
        files.table(path, ["ind"], sheet="x")
    with pytest.raises(files.CorpusError, match="found the sheet 'x'; allowed: none"):
        files.table(write(tmp_path / "a.csv", "ind\na\n"), ["ind"], sheet="x")


def test_errors_in_workbooks(tmp_path):
    path, book = tmp_path / "a.xlsx", openpyxl.Workbook()
    book.active.append(["ind"])
    book.active.append(["#N/A"])
    book.active["A2"].data_type = "e"
    book.save(path)
    with pytest.raises(files.CorpusError, match="row 2: the column 'ind' holds the error #N/A"):
        files.table(path, ["ind"])


def test_a_nul_is_no_text(tmp_path):
    for name, content in (("a.csv", "ind\na\0b\n"), ("a.jsonl", '{"ind": "a\\u0000"}')):
        with pytest.raises(files.CorpusError, match="holds a NUL character"):
            files.table(write(tmp_path / name, content), ["ind"])
    with pytest.raises(files.CorpusError, match="line 1: found a NUL character"):
        READ["lines"](write(tmp_path / "a.txt", "a\0\n"))


INLINE = [
    ("satu<ph x='1'>&lt;br/&gt;</ph>baris", "satu baris"),
    ("satu<ph x='1'/>baris", "satu baris"),
    ("satu<ph x='1'/>.", "satu."),
    ("a <g id='1'>b</g><x id='2'/>c", "a b c"),
    ("sa<hi>tu</hi>", "satu"),
    ("sa<bpt i='1'>&lt;b&gt;</bpt>tu<ept i='1'>&lt;/b&gt;</ept>", "satu"),
    ("satu<bpt i='1'>&lt;p&gt;</bpt>dua<ept i='1'>&lt;/p&gt;</ept>tiga", "satu dua tiga"),
    ("sa<ph type='bold'/>tu", "satu"),
    ("sa<ph>&lt;strong&gt;</ph>tu", "satu"),
    ("satu<g ctype='lb'/>dua", "satu dua"),
    ("satu<x ctype='x-br'/>dua", "satu dua"),
    ("satu<it pos='begin'>\n</it>dua", "satu dua"),
    ("sa<!-- no --><![CDATA[tu]]>", "satu"),
    ("satu <ut>{1}<sub>no text</sub></ut> dua", "satu dua"),
]


@pytest.mark.parametrize(("segment", "text"), INLINE)
@pytest.mark.parametrize("ending", [".tmx", ".xlf"])
def test_tags_inside_a_text(tmp_path, ending, segment, text):
    if ending == ".tmx":
        whole = f'<tmx><body><tu><tuv xml:lang="id"><seg>{segment}</seg></tuv></tu></body></tmx>'
    else:
        unit = f"<trans-unit id='1'><source>{segment}</source></trans-unit>"
        whole = f'<xliff version="1.2"><file source-language="id"><body>{unit}</body></file></xliff>'
    assert files.table(write(tmp_path / f"a{ending}", whole), ["id"]).cells == {"id": [text]}


@pytest.mark.parametrize("entity", ["&nbsp;", "&eacute;", "&own;"])
def test_entities_that_nobody_explains_are_refused(tmp_path, entity):
    path = write(tmp_path / "a.tmx", TMX.replace("Rumah", f"Rumah{entity}").replace("{more}", ""))
    with pytest.raises(files.CorpusError, match=rf"line 4: the file does not say what {entity} means"):
        files.table(path, ["id"])


XLIFF = """<?xml version="1.0"?>
<xliff xmlns="urn:oasis:names:tc:xliff:document:1.2" version="1.2">
<file original="a" source-language="id-ID" target-language="mad"><body><group>
<trans-unit id="u1"><source>Satu &amp; dua</source><seg-source><mrk mtype="seg" mid="1">Satu</mrk></seg-source>
<target state="translated">Settong</target><alt-trans><source>no</source><target>no</target></alt-trans></trans-unit>
<trans-unit id="u2"><source>Tiga</source>{more}</trans-unit></group></body></file></xliff>"""
XLIFF2 = """<xliff xmlns="urn:oasis:names:tc:xliff:document:2.0" version="2.0" srcLang="id" trgLang="mad"><file id="f">
<unit id="u1"><segment><source>Sa<pc id="1">tu</pc>.</source><target>A.</target></segment><ignorable><source> </source>
</ignorable><segment><source>Dua<ph id="2" type="fmt" subType="xlf:lb"/>tiga</source>
<target>B c</target></segment></unit>
<unit id="u2"><segment><source>x</source><target>y</target></segment><segment><source>z</source><target>w</target>
</segment></unit></file></xliff>"""


def test_xliff(tmp_path):
    path = write(tmp_path / "a.xlf", XLIFF.replace("{more}", "<target>Tello'</target>"))
    assert files.table(path, ["tuid", "id", "mad"]).cells == {
        "tuid": ["u1", "u2"],
        "id": ["Satu & dua", "Tiga"],
        "mad": ["Settong", "Tello'"],
    }
    for more in ("", "<target/>", '<target state="needs-translation">Tiga</target>'):
        write(path, XLIFF.replace("{more}", more))
        with pytest.raises(files.CorpusError, match=r"unit 2 in line 6: the column 'mad' is empty"):
            files.table(path, ["id", "mad"])
    found = files.table(write(tmp_path / "b.xliff", XLIFF2), ["tuid", "id", "mad"])
    assert found.cells["id"] == ["Satu. Dua tiga", "x z"]
    assert found.cells["mad"] == ["A. B c", "y w"]
