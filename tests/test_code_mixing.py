"""Dictionaries are read as they are written, and words are replaced as COMMIT says, the same ones every time."""

import json
import unicodedata

import pandas as pd
import pytest

from ia_lib.data import dictionaries
from ia_lib.data.files import CorpusError, CorpusWarning
from ia_lib.instructions import alpaca, code_mixing
from ia_lib.instructions.code_mixing import mix, pieces

pytestmark = pytest.mark.quick
BOOK = {"food": ["makanan"], "good": ["bagus", "baik"], "the": ["the"]}
TEXTS = ['The food is  GOOD, "food"\nand (good)!', "", "  ", "Don't: well-known 1.5 हिन्दी भाषा। …", "a\tfood\u00a0b "]


def written(path, text):
    path.write_bytes(text.encode())
    return path


def test_pairs_are_separated_by_a_tab_or_one_blank(tmp_path):
    path = written(
        tmp_path / "en-id.txt",
        "\ufefffood\tmakanan\ngood bagus\ngood\tbaik\r\na b c\nlone\n\n of \t dari \ngood bagus\n",
    )
    with pytest.warns(CorpusWarning, match=r"2 of 7 rows of the file are left out \(line 4, line 5\)"):
        book = dictionaries.read(path)
    assert book.translations == {"food": ["makanan"], "good": ["bagus", "baik"], "of": ["dari"]}
    assert book.counts() == {
        "pairs": 5, "words": 3, "words_with_several_translations": 1, "identical_pairs": 0, "bad_rows": 2
    }  # fmt: skip
    # of TSV a blank is a part of a word
    tsv = written(tmp_path / "x.tsv", "ice cream\tes krim\nradio\tradio\n")
    assert dictionaries.read(tsv).translations == {"ice cream": ["es krim"], "radio": ["radio"]}
    assert dictionaries.read(tsv, identical=False).translations == {"ice cream": ["es krim"]}
    assert dictionaries.read(tsv, reverse=True).translations == {"es krim": ["ice cream"], "radio": ["radio"]}


def test_two_columns_of_any_table_are_a_dictionary(tmp_path):
    frame = pd.DataFrame({"indonesian": ["abu", "abu", "air"], "sundanese": ["abu", "hawu", "cai"]})
    frame.to_csv(tmp_path / "s.csv")
    frame.to_parquet(tmp_path / "s.parquet")
    for name in ("s.csv", "s.parquet"):
        book = dictionaries.read(tmp_path / name, "sundanese", "indonesian", identical=False)
        assert book.translations == {"hawu": ["abu"], "cai": ["air"]}
        assert book.identical == 1
    with pytest.raises(CorpusError, match="there is no column 'sunda'"):
        dictionaries.read(tmp_path / "s.csv", "sunda", "indonesian")
    with pytest.raises(CorpusError, match=r"found no pair of words \(line 1 is no word and its translation"):
        dictionaries.read(written(tmp_path / "bad.txt", "a b c\n"))
    with pytest.raises(CorpusError, match="found a table, but no columns; allowed: one with `source` and `target`"):
        dictionaries.read(written(tmp_path / "t.csv", "a,b c\n"))
    with pytest.raises(CorpusError, match="all 1 pairs are of a word and itself"):
        dictionaries.read(written(tmp_path / "same.txt", "a a\n"), identical=False)
    with pytest.warns(
        CorpusWarning, match=r"1 of 2 rows of the file are left out \(line 3\): each is a pair with an empty cell"
    ):
        found = dictionaries.read(written(tmp_path / "gap.csv", "x,y\na,b\nc,\n"), "x", "y")
    assert found.translations == {"a": ["b"]}


@pytest.mark.parametrize("words", ["spaces", "unicode"])
@pytest.mark.parametrize("text", TEXTS)
def test_nothing_but_words_changes(text, words):
    parts = list(pieces(text, words))
    assert "".join(part for part, _ in parts) == text
    assert mix(text, BOOK, 0.0, (1,), words).text == mix(text, {}, 1.0, (1,), words).text == text
    mixed = mix(text, {part: [f"<{part}>"] for part, is_word in parts if is_word}, 1.0, (1,), words, "exact")
    assert mixed.text == "".join(f"<{part}>" if is_word else part for part, is_word in parts)
    assert mixed.changed == mixed.known == mixed.words


@pytest.mark.parametrize("text", TEXTS)
def test_words_between_blanks_are_those_of_the_released_code(text):
    """By the definition, character by character."""
    signs = {chr(i) for a, b in ((33, 47), (58, 64), (91, 96), (123, 126)) for i in range(a, b + 1)} | set(" \t\n\r")

    def edge(c):
        return c in signs or unicodedata.category(c) == "Zs" or unicodedata.category(c).startswith("P")

    expected = []
    for piece in text.split(" "):
        begins = next((i for i, c in enumerate(piece) if not edge(c)), None)
        if begins is not None:
            expected.append(piece[begins : max(i for i, c in enumerate(piece) if not edge(c)) + 1])
    assert [part for part, is_word in pieces(text, "spaces") if is_word] == expected


def test_capitals_are_restored():
    whole = {"food": ["makanan"], "iphone": ["hape"]}
    said = "Food FOOD food iPhone"
    assert mix(said, whole, 1.0, (1,)).text == "Makanan MAKANAN makanan hape"
    assert mix(said, whole, 1.0, (1,), case="exact").text == "Food FOOD makanan iPhone"
    assert mix("A is", {"a": ["se"]}, 1.0, (1,)).text == "Se is"


def test_what_is_drawn_hangs_on_the_key_and_the_place_alone():
    text = "good food " * 200
    one = mix(text, BOOK, 0.5, (1, 0, 7))
    assert one.text == mix(text, BOOK, 0.5, (1, 0, 7)).text
    assert one.text != mix(text, BOOK, 0.5, (1, 1, 7)).text
    # what the dictionary says of one word leaves the others as they were
    other = mix(text, {"good": BOOK["good"]}, 0.5, (1, 0, 7))
    assert [b for a, b in one.pieces if a == "good"] == [b for a, b in other.pieces if a == "good"]
    changed = [b for a, b in one.pieces if a == "good" and a != b]
    assert 60 <= len(changed) <= 140
    assert {"bagus", "baik"} == set(changed)
    assert abs(changed.count("bagus") - changed.count("baik")) < 50


def test_a_word_that_stays_itself_is_known_and_not_changed():
    found = mix("the food", BOOK, 1.0, (1,))
    assert (found.words, found.known, found.changed) == (2, 2, 1)
    assert code_mixing.Reached().add(found).rates() == {"words_in_dictionary": 100.0, "words_changed": 50.0}


def test_words_of_scripts_without_blanks_need_a_package(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "icu4py.breakers", None)
    with pytest.raises(ImportError, match="icu4py"):
        mix("ผมกินข้าว", BOOK, 1.0, (1,))
    assert list(pieces("ผมกินข้าว", "spaces")) == [("ผมกินข้าว", True)]


def test_thai_words_are_found():
    pytest.importorskip("icu4py")
    found = mix("ผมกินข้าว ok ที่บ้าน", {"ข้าว": ["rice"], "บ้าน": ["home"]}, 1.0, (1,))
    assert found.text == "ผมกินrice ok ที่home"


def test_the_template_is_never_mixed_unless_it_is_asked_for():
    row = {"instruction": "Name the food.", "input": "good food", "output": "food"}
    book = {
        word: [word.upper()]
        for word in ["below", "is", "an", "instruction", "the", "food", "good", "name", "request", "response"]
    }
    prompt, answer, found = alpaca.mixed(row, book, 1.0, ["instruction", "input", "output"], (1,), case="exact")
    plain = alpaca.prompt("Name THE FOOD.", "GOOD FOOD")
    assert (prompt, answer, len(found)) == (plain, "FOOD", 3)
    naive, answer, found = alpaca.mixed(row, book, 1.0, ["prompt", "output"], (1,), case="exact")
    assert naive.startswith("Below IS AN INSTRUCTION that describes")
    assert (answer, len(found)) == ("FOOD", 2)
    assert alpaca.mixed(row, book, 1.0, [], (1,))[:2] == (alpaca.prompt("Name the food.", "good food"), "food")


def test_the_template_is_alpacas():
    assert alpaca.prompt("Do.") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nDo.\n\n### Response:"
    )
    assert alpaca.prompt("Do.", "X") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nDo.\n\n### Input:\nX\n\n### Response:"
    )


def test_instructions_in_json_and_jsonl(tmp_path):
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "c", "input": "d", "output": "e"}]
    names = {"instruction": "instruction", "input": "input", "output": "output"}
    expected = [{"instruction": "a", "input": "", "output": "b"}, rows[1]]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert alpaca.read(tmp_path / "a.json", names) == alpaca.read(tmp_path / "a.jsonl", names) == expected
    for spoilt, said in (
        ([{"instruction": "a"}], "row 1: there is no field 'output'; found: instruction"),
        ([{"instruction": " ", "output": "b"}], "row 1: the field 'instruction' is empty"),
        ([{"instruction": 3, "output": "b"}], "a number"),
        ({"a": 1}, "found no list; a JSON file"),
        ([], "there are no instructions in it"),
        (["a"], "row 1: this is no JSON object"),
    ):
        (tmp_path / "a.json").write_text(json.dumps(spoilt))
        with pytest.raises(CorpusError, match=said):
            alpaca.read(tmp_path / "a.json", names)


@pytest.mark.parametrize(
    ("code", "looked_up", "changed"), [("hi", 46.7, 45.9), ("el", 53.5, 50.9), ("id", 56.4, 40.9), ("th", 42.4, 41.0)]
)
def test_the_rates_that_were_measured_on_alpaca(real_data, code, looked_up, changed):
    """Shares of all words at alpha 0.9 by the released code's rules, and how many of them really change."""
    if not (real_data / "commit").is_dir():
        pytest.skip(f"there are no dictionaries in {real_data} (set IA_DATA)")
    book = dictionaries.read(real_data / f"commit/muse/en-{code}.txt").translations
    names = {part: part for part in alpaca.PARTS}
    rows = alpaca.read(real_data / "alpaca/train/en.jsonl", names)
    found = [
        one
        for number, row in enumerate(rows)
        for one in alpaca.mixed(row, book, 0.9, alpaca.PARTS, (42, 0, number), words="spaces", case="exact")[2]
    ]
    reached = code_mixing.Reached().add(*found).rates()
    assert reached["words_changed"] == pytest.approx(changed, abs=0.5)
    assert 0.9 * reached["words_in_dictionary"] == pytest.approx(looked_up, abs=0.5)
