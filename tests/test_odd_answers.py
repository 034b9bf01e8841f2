"""What servers, programs and people leave behind that is not what it should be: one sentence, or the right reading."""

import json
import socket
import threading
from contextlib import closing

import openpyxl
import pytest

from ia_lib.data import corpora, dirt, downloads, files, patience, pools
from ia_lib.data.addresses import redacted, shown
from ia_lib.data.downloads import SourceError
from ia_lib.data.files import CorpusError
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError
from ia_lib.workflow.sources import HubModel

pytestmark = pytest.mark.quick


@pytest.fixture
def answering(monkeypatch):
    """A function that makes a server which answers every request by these bytes, the last of them over and over."""
    monkeypatch.setattr(patience, "PAUSE", 0.01)
    monkeypatch.setattr(patience, "TRIES", 2)
    ends = threading.Event()
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve(connection, parts, pause):
            with connection:
                connection.recv(65536)
                try:
                    for part in parts:
                        connection.sendall(part)
                        ends.wait(pause)
                    while pause and not ends.wait(pause):
                        connection.sendall(parts[-1])
                except OSError:
                    pass

        def answer(*parts, pause=0.0):
            def accept():
                while True:
                    try:
                        connection = server.accept()[0]
                    except OSError:
                        return
                    threading.Thread(target=serve, args=(connection, parts, pause), daemon=True).start()

            threading.Thread(target=accept, daemon=True).start()
            return f"http://127.0.0.1:{server.getsockname()[1]}"

        yield answer
        ends.set()


HEAD = b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-0/1000\r\n"


@pytest.mark.parametrize(
    ("parts", "pause", "said"),
    [
        ([b"HTTP/1.1 206 P\r\nX-A: a", b"a"], 0.05, "has not finished its answer within 1 s"),
        ([HEAD + b"\r\n", b"x" * 65536], 0.005, "more bytes than it was asked for"),
        ([HEAD.replace(b"1000", b"9" * 5000) + b"Content-Length: 1\r\n\r\na"], 0, "does not answer byte ranges"),
        ([b"HTTP/1.1 302 F\r\nLocation: http://[::bad/\r\nContent-Length: 0\r\n\r\n"], 0, ""),
        ([b"HTTP/1.1 302 F\r\nLocation: http://\xff\xfe..%%%/\r\nContent-Length: 0\r\n\r\n"], 0, ""),
        ([b"HTTP/1.1 302 F\r\nLocation: http://" + b"a" * 300 + b".com/\r\nContent-Length: 0\r\n\r\n"], 0, ""),
    ],
    ids=["header without end", "body without end", "number without end", "address", "bytes", "long name"],
)
def test_a_server_of_past_data_that_answers_oddly_is_refused(answering, parts, pause, said):
    with pytest.raises(CorpusError, match=said) as refusal:
        pools.ask(answering(*parts, pause=pause) + "/a", 0.5)
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-9/100\r\nContent-Length: 10\r\n\r\n0123456789", "gives a part"),
        (b"HTTP/1.1 200 O\r\nContent-Length: 0\r\n\r\n", "an empty file"),
        (b"HTTP/1.1 200 O\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\nlog in", "a web page"),
        (b"HTTP/1.1 200 O\r\nContent-Length: abc\r\n\r\nhallo", ""),
    ],
    ids=["a part", "nothing", "a page", "no length"],
)
def test_what_is_not_the_whole_file_is_not_kept(answering, tmp_path, answer, said):
    find = downloads.finder(tmp_path / "none", mirror=answering(answer), cache=tmp_path / "cache")
    with pytest.raises(SourceError, match=said):
        find("nusax", "mt/train.csv")
    assert not (tmp_path / "cache" / "nusax" / "mt" / "train.csv").exists()


def test_a_server_that_trickles_is_not_waited_for(answering, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "SECONDS", 0.3)
    url = answering(b"HTTP/1.1 200 O\r\nContent-Length: 100000\r\n\r\n", b"x", pause=0.02)
    find = downloads.finder(tmp_path / "none", mirror=url, cache=tmp_path / "cache")
    with pytest.raises(SourceError, match=r"fewer than 1,024 bytes came in 0\.3 s"):
        find("nusax", "mt/train.csv")


@pytest.mark.parametrize("record", ["{}", "[]", '{"url": 1}', "null", '"x"', "{"])
def test_a_damaged_record_of_the_cache_is_refused(tmp_path, record):
    path = tmp_path / "cache" / "nusax" / "mt" / "train.csv"
    path.parent.mkdir(parents=True)
    path.write_text("halmo")
    (path.parent / "train.csv.source.json").write_text(record)
    with pytest.raises(SourceError, match=r"the record is damaged; delete it and train\.csv"):
        downloads.finder(tmp_path / "none", cache=tmp_path / "cache")("nusax", "mt/train.csv")


@pytest.mark.parametrize("record", ["[]", "null", '"x"', "{", '{"gpt2@main": 5}'])
def test_a_damaged_record_of_commits_is_refused(tmp_path, record):
    (tmp_path / "revisions.json").write_text(record)
    with pytest.raises(SourceError, match="the record of the models' commits is damaged; delete it"):
        _ = HubModel("gpt2", None, tmp_path / "revisions.json").commit


ROW = "{name: NAME, objective: tlm, replay: 0, model: {name: some/model}}"


def table(path, name="one", **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("runs:\n  - " + ROW.replace("NAME", name))
    return path


@pytest.mark.parametrize("stamp", ["{}", "[]", "null", '{"table": 5, "beside": "x"}', "{"])
def test_a_damaged_stamp_is_nobodys(tmp_path, stamp):
    path = table(tmp_path / "own.yaml")
    Table(path, tmp_path / "outputs").claim()
    (tmp_path / "outputs" / "own" / ".table.json").write_text(stamp)
    with pytest.raises(SettingsError, match="does not say whose outputs these are: it is damaged; delete it if"):
        Table(path, tmp_path / "outputs")


def test_a_table_in_a_folder_called_like_another_ones_run(tmp_path, monkeypatch):
    for mark in ("notebooks/1_data.ipynb", "notebooks/install.py"):
        (tmp_path / mark).parent.mkdir(exist_ok=True)
        (tmp_path / mark).write_text("")
    (tmp_path / "params" / "tasks").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    outer, inner = table(tmp_path / "params/sub.yaml", "x"), table(tmp_path / "params/sub/x.yaml", "data")
    first, second = Table(outer), Table(inner)
    assert second.folder == first.folder / "x"
    second.claim()
    with pytest.raises(SettingsError, match=r"found the run 'x', whose folder .* is that of another table"):
        Table(outer)
    (second.folder / ".table.json").unlink()
    (first.folder / "x" / "data").mkdir()
    with pytest.raises(SettingsError, match="which has those of another table's run; allowed: another folder"):
        Table(inner)


def test_values_without_a_meaning(tmp_path):
    for field, said in {
        "score_max_length: 1": "at least 32",
        "validation_rows: 1000000000": "at most 1000000|less than or equal to 1000000",
        "steps: 1000000000": "3,125,000 at most, with 32 examples a step|6,250,000 at most",
        "drop_test_overlap: 'no'": "found 'no'; allowed: true or false",
        "share_text: 0": "found 0; allowed: true or false",
        "data_dir: " + "x" * 300: "which cannot be looked for",
        "templates: " + "x" * 300: "which cannot be looked for|found 'xxx",
    }.items():
        path = tmp_path / "t.yaml"
        path.write_text("runs:\n  - " + ROW.replace("NAME", "one").replace("}}", f"}}, {field}}}"))
        with pytest.raises(SettingsError, match=said) as refusal:
            Table(path, tmp_path / "outputs").check()
        assert len(str(refusal.value)) < 600, field
    path.write_text("runs:\n  - " + ROW.replace("NAME", "y" * 5000))
    with pytest.raises(SettingsError) as refusal:
        Table(path, tmp_path / "outputs")
    assert len(str(refusal.value)) < 400


def test_a_workbook_whose_formulas_have_no_results(tmp_path):
    book = openpyxl.Workbook()
    for row in (["text", "label"], ["teks _x000D_satu", "pos"], ['=A2&" lagi"', "pos"]):
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(CorpusError, match="row 3: the column 'text' holds a formula whose result was not saved"):
        files.table(tmp_path / "t.xlsx", ["text", "label"])
    book.active.delete_rows(3)
    book.active.append(["=A2", "=B2"])
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(CorpusError, match="row 3: the column 'text' holds a formula"):
        files.table(tmp_path / "t.xlsx", ["text", "label"])
    book.active.delete_rows(3)
    book.active.append([None, None])
    book.save(tmp_path / "t.xlsx")
    assert files.table(tmp_path / "t.xlsx", ["text", "label"]).cells["text"] == ["teks \rsatu"]


def test_names_of_jsonl_may_have_blanks_around_them(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"ind ": "halo", "nam\u0061\u0301": "x"}\n')
    assert files.table(tmp_path / "t.jsonl", ["ind", "nam\u00e1"]).cells == {"ind": ["halo"], "nam\u00e1": ["x"]}


def test_lines_of_old_macs_are_no_single_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"satu dua\rtiga empat\r")
    with pytest.raises(CorpusError, match=r"a\.txt, line 1: found a carriage return in a line"):
        list(files.lines(tmp_path / "a.txt"))


def test_numbers_too_large_for_their_digits_are_no_ids():
    assert files.text(12.0, "x", "id", whole=True) == "12"
    with pytest.raises(CorpusError, match="a number"):
        files.text(9007199254740993.0, "x", "id", whole=True)


@pytest.mark.parametrize("answer", [" ", "  \n", "\u200b"])
def test_an_answer_that_cannot_be_seen_is_none(tmp_path, answer):
    (tmp_path / "past.jsonl").write_text(json.dumps({"prompt": "a", "answer": answer}))
    with pytest.raises(CorpusError, match="the field 'answer' is missing or empty"):
        corpora.past(tmp_path / "past.jsonl")


def test_what_is_the_same_text():
    for same in (["Ba'na", "Ba\u02bcna", "ba\u2019na", "BANA"], ["ka`ta", "ka\u02bbta"], ["5", " 5 "]):
        assert len({corpora.normalised(text) for text in same}) == 1, same
    for other in (["-5", "5"], ["5,0", "50"], ["1.5", "15"]):
        assert len({corpora.normalised(text) for text in other}) == 2, other


XML = '<tmx version="1.4"><body><tu><tuv xml:lang="ind"><seg>%s</seg></tuv>%s</tu></body></tmx>'
OTHER = "".join(
    f'<tuv xml:lang="{code}"><seg>{text}</seg></tuv>' for code, text in (("mad-XX", "lain"), ("mad", "dua"))
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('<g ctype="x-li">dua</g><g ctype="x-li">tiga</g>', "dua tiga"),
        ('<mrk mtype="seg">Satu.</mrk><mrk mtype="seg">Dua.</mrk>', "Satu. Dua."),
        ('kata<ph type="fmt">\t</ph>lain', "kata lain"),
        ('kata<bpt type="x-tab">t</bpt>lain', "kata lain"),
        ('baru<mrk mtype="x-sdl-deleted">lama <g>sekali</g></mrk>', "baru"),
        ("a\ue000b", "a\ue000b"),
    ],
)
def test_what_tags_leave_in_a_text(tmp_path, text, expected):
    (tmp_path / "t.tmx").write_text(XML % (text, OTHER), encoding="utf-8")
    found = files.table(tmp_path / "t.tmx", ["ind", "mad"]).cells
    assert found == {"ind": [expected], "mad": ["dua"]}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        *((f"kata{char}kata", "invisible characters") for char in "\u200e\u202e\u2066\u061c\u3164\u115f\u2800\u034f"),
        *((f"kata{char}kata", "control or private characters") for char in "\x07\x9b\ue123"),
        *((text, "HTML tags") for text in ("satu<br>dua", "<b>satu</b>", '<a href="x">satu')),
        ("\u00ef\u00bb\u00bfsatu", "letters of a wrong encoding"),
    ],
)
def test_more_dirt(text, kind):
    assert kind in dirt.kinds(text)


@pytest.mark.parametrize(
    "address",
    [
        *("https://u:12/SECRET@h/x", "https://u:80/SECRET@h/x", "https://h/x;token=SECRET", "https://h/x&token=SECRET"),
        *("https://h/x%3Ftoken=SECRET", "//u:SECRET@h/x", "u:SECRET@h:/x", "https:/u:SECRET@h/x"),
    ],
)
def test_no_credentials_in_addresses_of_other_kinds(address):
    assert "SECRET" not in shown(address)
    assert "SECRET" not in redacted(f"it said {address} was wrong")
    assert "h" in shown(address)
    for plain in ("12:30 o'clock", "a:b", "name@example.org", "C:\\x", "https://example.org:8080/a/b.jsonl"):
        assert shown(plain) == plain == redacted(plain)
