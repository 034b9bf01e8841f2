import json

import pytest

from ia_lib import corpora

pytestmark = pytest.mark.quick


def write(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)
    return path


def test_parallel_text(tmp_path):
    write(tmp_path, "mt/train.csv", '"",indonesian,toba_batak\n0,"Ada, kata",a b\n1, dua ,c\n')
    found = corpora.parallel(tmp_path, ["ind", "bbc"])
    assert found.to_dict() == {
        "sentence_id": ["train-0", "train-1"],
        "ind": ["Ada, kata", "dua"],
        "bbc": ["a b", "c"],
    }


def test_labelled_text(tmp_path):
    write(tmp_path, "sentiment/english/test.csv", "id,text,label\n7,null,neutral\n8,NaN,positive\n")
    found = corpora.labelled(tmp_path, "sentiment", ["eng"], "test")
    # texts that pandas would take for missing values are texts
    assert found["text"][:] == ["null", "NaN"]
    assert found["example"][:] == ["7", "8"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,text\n1,a\n", "no column 'label'; found: id, text"),
        ("id,text,label\n1,a,neutral\n2,,neutral\n", r"row 2: the column 'text' is empty"),
        ("id,text,label\n1,a,neutral\n1,b,neutral\n", r"row 2: the id '1' was used before"),
        ("", "no CSV table"),
        ("id,text,label\n1,a,good\n", r"row 1: found the label 'good'; allowed: negative, neutral, positive"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, text, message):
    write(tmp_path, "sentiment/english/test.csv", text)
    with pytest.raises(corpora.CorpusError, match=message):
        corpora.labelled(tmp_path, "sentiment", ["eng"], "test")


def test_missing_files_and_other_encodings(tmp_path):
    with pytest.raises(corpora.CorpusError, match="no such file; set data_dir"):
        corpora.parallel(tmp_path, ["eng"])
    write(tmp_path, "mt/train.csv", "english\né\n", encoding="latin-1")
    with pytest.raises(corpora.CorpusError, match="not UTF-8"):
        corpora.parallel(tmp_path, ["eng"])


def test_past_instructions(tmp_path):
    path = write(tmp_path, "past.jsonl", '{"inputs": "a [x]", "targets": "b"}\n{"inputs": "c", "targets": "d"}\n')
    found = corpora.past(path, "inputs", "targets")
    assert found.to_dict() == {"prompt": ["a [x]", "c"], "answer": ["b", "d"]}
    assert len(corpora.past(None)) == 0
    write(tmp_path, "past.jsonl", '\ufeff{"prompt": "a\u2028b", "answer": "c"}\n\n')
    assert corpora.past(path)["prompt"][:] == ["a\u2028b"]
    write(tmp_path, "past.jsonl", json.dumps({"prompt": "a", "answer": "b"}) + "\n{broken\n")
    with pytest.raises(corpora.CorpusError, match="line 2: this is no JSON object"):
        corpora.past(path)
    write(tmp_path, "past.jsonl", '{"prompt": "a", "answer": ""}\n')
    with pytest.raises(corpora.CorpusError, match="line 1: the field 'answer' is missing or empty"):
        corpora.past(path)
    with pytest.raises(corpora.CorpusError, match="no such file"):
        corpora.past(tmp_path / "none.jsonl")


def test_real_nusax_text_is_read(real_data):
    codes = ["eng", "ind", "sun", "jav", "ban", "min", "bug", "ace", "bjn", "bbc", "mad", "nij"]
    assert len(corpora.parallel(real_data / "nusax", codes)) == 500
    for split, count in (("train", 500), ("valid", 100), ("test", 400)):
        found = corpora.labelled(real_data / "nusax", "sentiment", codes, split)
        assert len(found) == count * len(codes)
