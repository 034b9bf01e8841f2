import io
import json
import re
import tarfile
from pathlib import Path

import pandas as pd
import pytest
from datasets import Dataset

from ia_lib.data import corpora, downloads, languages
from ia_lib.data.corpora import CorpusError

pytestmark = pytest.mark.quick


def write(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)
    return path


def archive(path, texts, prefix="./flores200_dataset"):
    """A FLORES-200 archive of `texts`: split -> language -> lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for split, files in texts.items():
            for name, lines in files.items():
                data = "".join(f"{line}\n" for line in lines).encode()
                member = tarfile.TarInfo(f"{prefix}/{split}/{name}.{split}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
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
        ("id,text,label\n1,a,neutral\n1,b,neutral\n", r"line 3: the id '1' was used before, in line 2"),
        ("id,text,label\n1,a,good\n", r"line 2: found the label 'good'; allowed: negative, neutral, positive"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, text, message):
    write(tmp_path, "sentiment/english/test.csv", text)
    with pytest.raises(CorpusError, match=message):
        corpora.labelled(tmp_path, "sentiment", ["eng"], "test")


@pytest.mark.parametrize(
    ("corpus", "task", "codes", "split", "message"),
    [
        ("floras", None, ["ind"], "train", "found the corpus 'floras'; allowed: minilab, nusax"),
        ("nusax", "topic", ["ind"], "test", "the corpus nusax has no topic; it has: parallel text, sentiment"),
        ("indolem", None, ["ind"], "test", "the corpus indolem has no parallel text; it has: sentiment"),
        ("nusatranslation", "sentiment", ["ace"], "test", "has no language 'ace'; it has: ind, jav"),
        ("nusatranslation", None, ["ind"], "test", "pairs Indonesian with a language"),
        ("flores", None, ["ind"], "valid", "has no split 'valid'; it has: train, dev, devtest"),
    ],
)
def test_what_a_corpus_does_not_have_is_refused(tmp_path, corpus, task, codes, split, message):
    with pytest.raises(CorpusError, match=re.escape(message)):
        corpora.files(tmp_path, corpus, task, codes, split)


def test_labels_in_the_documented_order():
    assert corpora.labels("nusax", "sentiment") == ["negative", "neutral", "positive"]
    assert corpora.labels("nusatranslation", "sentiment") == ["negative", "positive"]
    assert len(corpora.labels("nusaparagraph", "emotion")) == 7
    assert len(corpora.labels("nusaparagraph", "topic")) == 8


def test_every_language_of_a_corpus_has_a_name():
    assert {code for codes in languages.CORPORA.values() for code in codes} <= set(languages.NAMES)
    assert set(languages.FLORES) <= set(languages.NAMES)


def test_nusatranslation_is_joined_by_ids(tmp_path):
    name = "nusawrites/nusa_kalimat-mt-{}-test.csv"
    write(tmp_path, name.format("mad"), "id,ind_text,tgt_text\nindolem-test-2,dua ,dhuwa'\nemot-test-1,satu,settong\n")
    write(tmp_path, name.format("sun"), "id,ind_text,tgt_text\nindolem-test-2,dua,dua\nemot-test-1,satu.,hiji\n")
    found = corpora.parallel(tmp_path, ["ind", "sun", "mad"], "test", "nusatranslation")
    assert found.to_dict() == {
        "sentence_id": ["indolem-test-2", "emot-test-1"],
        "ind": ["dua", "satu."],
        "sun": ["dua", "hiji"],
        "mad": ["dhuwa'", "settong"],
    }
    assert corpora.parallel(tmp_path, ["mad"], "test", "nusatranslation").column_names == ["sentence_id", "mad"]
    write(tmp_path, name.format("sun"), "id,ind_text,tgt_text\nindolem-test-3,dua,dua\nemot-test-1,satu,hiji\n")
    with pytest.raises(CorpusError, match=r"sun-test.csv: its ids are not those of .*mad-test.csv"):
        corpora.parallel(tmp_path, ["mad", "sun"], "test", "nusatranslation")


def test_indonesian_of_nusatranslation_is_indolem(tmp_path):
    write(tmp_path, "indolem/dev0.csv", 'sentence,sentiment\n"Bagus, ya",1\nKotor,0\n')
    write(tmp_path, "nusawrites/nusa_kalimat-senti-mad-valid.csv", "id,text,label\nindolem-train-9,Begus,positive\n")
    found = corpora.labelled(tmp_path, "sentiment", ["ind", "mad"], "valid", "nusatranslation")
    assert found.to_dict() == {
        "task": ["sentiment"] * 3,
        "language": ["ind", "ind", "mad"],
        "example": ["indolem-validation-1", "indolem-validation-2", "indolem-train-9"],
        "text": ["Bagus, ya", "Kotor", "Begus"],
        "label": ["positive", "negative", "positive"],
    }
    assert corpora.files(tmp_path, "nusatranslation", "sentiment", ["ind", "mad"], "valid") == {
        "indolem": [tmp_path / "indolem/dev0.csv"],
        "nusawrites": [tmp_path / "nusawrites/nusa_kalimat-senti-mad-valid.csv"],
    }
    write(tmp_path, "indolem/dev0.csv", "sentence,sentiment\nBagus,2\n")
    with pytest.raises(CorpusError, match=r"dev0.csv, line 2: found the label '2'; allowed: 0, 1"):
        corpora.labelled(tmp_path, "sentiment", ["ind"], "valid", "indolem")


@pytest.mark.parametrize("prefix", ["./flores200_dataset", "flores200_dataset"])
def test_flores_is_read_from_its_archive(tmp_path, prefix):
    names = ["sun_Latn", "ace_Arab", "ace_Latn", "bul_Cyrl", "tha_Thai"]
    texts = {"dev": {n: [f"{n} {i}" for i in range(2)] for n in names}, "devtest": {n: [f"{n} 2"] for n in names}}
    archive(tmp_path / "flores/flores200_dataset.tar.gz", texts, prefix)
    found = corpora.parallel(tmp_path, ["sun", "ace", "bg", "tha", "ace_Arab"], corpus="flores")
    assert found["sentence_id"][:] == ["dev-0", "dev-1", "devtest-0"]
    assert found["sun"][:] == ["sun_Latn 0", "sun_Latn 1", "sun_Latn 2"]
    assert found[2] == {
        "sentence_id": "devtest-0",
        "sun": "sun_Latn 2",
        "ace": "ace_Latn 2",
        "bg": "bul_Cyrl 2",
        "tha": "tha_Thai 2",
        "ace_Arab": "ace_Arab 2",
    }
    assert len(corpora.parallel(tmp_path, ["sun"], "devtest", "flores")) == 1


def test_what_is_wrong_in_the_flores_archive_is_named(tmp_path):
    path = tmp_path / "flores/flores200_dataset.tar.gz"
    archive(path, {"dev": {"sun_Latn": ["a", "b"], "jav_Latn": ["c"], "kas_Arab": ["d"], "kas_Deva": ["e"]}})
    for codes, message in (
        (["mad"], "there is no language 'mad' among its 4; the nearest: jav_Latn, kas_Arab, kas_Deva, sun_Latn"),
        (["kas"], "'kas' is written in several scripts; allowed: kas_Arab, kas_Deva"),
        (["sun", "jav"], r"dev: the languages have unequal numbers of lines .*'sun': 2, 'jav': 1"),
    ):
        with pytest.raises(CorpusError, match=message):
            corpora.parallel(tmp_path, codes, "dev", "flores")
    archive(path, {"dev": {"sun_Latn": ["a", "", "b"]}})
    with pytest.raises(CorpusError, match=r"dev/sun_Latn.dev, line 2: the line is empty"):
        corpora.parallel(tmp_path, ["sun"], "dev", "flores")
    archive(path, {"dev": {"sun_Latn": [str(i) for i in range(9999)]}})
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(CorpusError, match="no complete tar archive"):
        corpora.parallel(tmp_path, ["sun"], "dev", "flores")


def test_what_is_not_in_the_data_folder_is_fetched(tmp_path):
    write(tmp_path, "mirror/nusax/sentiment/english/test.csv", "id,text,label\n7,theirs,neutral\n")
    write(tmp_path, "data/nusax/sentiment/indonesian/test.csv", "id,text,label\n7,mine,neutral\n")
    where = {"mirror": tmp_path / "mirror", "cache": tmp_path / "cache"}
    for folder in (tmp_path / "data", str(tmp_path / "data")):
        found = corpora.labelled(folder, "sentiment", ["eng", "ind"], "test", "nusax", **where)
        assert found["text"][:] == ["theirs", "mine"]
    assert corpora.labelled(None, "sentiment", ["eng"], "test", "nusax", offline=True, cache=tmp_path / "cache")
    with pytest.raises(downloads.SourceError, match="offline"):
        corpora.labelled(None, "sentiment", ["ind"], "test", "nusax", offline=True, cache=tmp_path / "cache")


def test_lexicon(tmp_path):
    write(tmp_path, "nusax/lexicon/toba_batak.csv", ",indonesian,toba_batak\n0,abu,abu\n1,abu,sirabun\n2,ada,\n")
    assert corpora.lexicon(tmp_path, "bbc").to_dict() == {"ind": ["abu", "abu"], "bbc": ["abu", "sirabun"]}
    with pytest.raises(CorpusError, match="no lexicon of 'ind'; it has: eng, sun"):
        corpora.lexicon(tmp_path, "ind")


def test_own_parallel_file(tmp_path):
    path = write(tmp_path, "own.tsv", "Nomor\tIndonesia\tMadura\tCatatan\nA-1\tno\tnan\t\nA-2\tRumah\tRoma\tx\n")
    columns = {"ind": "Indonesia", "mad": "Madura"}
    assert corpora.parallel_file(path, columns, "Nomor").to_dict() == {
        "sentence_id": ["A-1", "A-2"],
        "ind": ["no", "Rumah"],
        "mad": ["nan", "Roma"],
    }
    assert corpora.parallel_file(path, columns)["sentence_id"][:] == ["line 2", "line 3"]
    with pytest.raises(CorpusError, match=r"own.tsv: there is no column 'Jawa'; found: Nomor, Indonesia"):
        corpora.parallel_file(path, {"jav": "Jawa"})


def test_own_aligned_lines(tmp_path):
    paths = {"ind": write(tmp_path, "a.ind", "satu\ndua\n"), "mad": write(tmp_path, "a.mad", "settong\ndhuwa'")}
    assert corpora.parallel_lines(paths).to_dict() == {
        "sentence_id": ["line 1", "line 2"],
        "ind": ["satu", "dua"],
        "mad": ["settong", "dhuwa'"],
    }
    write(tmp_path, "a.mad", "settong\n")
    with pytest.raises(CorpusError, match=r"a.mad: found 1 lines, but .*a.ind has 2; line n of one must translate"):
        corpora.parallel_lines(paths)
    write(tmp_path, "a.mad", "settong\n\n")
    with pytest.raises(CorpusError, match=r"a.mad, line 2: the line is empty"):
        corpora.parallel_lines(paths)


def test_own_labelled_file(tmp_path):
    path = write(tmp_path, "own.csv", "nr,kalimat,nilai\n5,Begus,baik\n6,nan,no\n")
    found = corpora.labelled_file(path, "nilai", "mad", ["no", "baik"], "kalimat", "nilai", "nr")
    assert found.to_dict() == {
        "task": ["nilai", "nilai"],
        "language": ["mad", "mad"],
        "example": ["5", "6"],
        "text": ["Begus", "nan"],
        "label": ["baik", "no"],
    }
    with pytest.raises(CorpusError, match=r"own.csv, line 2: found the label 'baik'; allowed: no, yes"):
        corpora.labelled_file(path, "nilai", "mad", ["no", "yes"], "kalimat", "nilai")


def test_pairs_of_test_data_are_dropped(tmp_path):
    own = corpora.parallel_file(
        write(tmp_path, "own.csv", "nr,ind,mad\na,Satu,Settong\nb,Dua,Dhuwa'\nc,Tiga,Tello'\nd,Empat,Empa'\n"),
        {"ind": "ind", "mad": "mad"},
        "nr",
    )
    tests = corpora.labelled_file(
        write(tmp_path, "test.csv", "nr,text,label\nb,else,x\nq,TELLO’!,x\nr,Lema',x\n"),
        "t",
        "mad",
        ["x"],
        id_column="nr",
    )
    others = corpora.parallel_file(write(tmp_path, "held.csv", "ind\nempat \n"), {"ind": "ind"})
    kept, dropped = corpora.drop_overlap(own, [tests, others])
    assert (kept["sentence_id"][:], dropped) == (["a"], 3)
    # blanks, characters without a width and Unicode's forms make no difference, and signs alone are compared as well
    spelt = Dataset.from_dict({"sentence_id": list("xyz"), "mad": ["AC nah panas", "E\u0301\u200bna", "\u200b!! ?"]})
    unseen = Dataset.from_dict({"sentence_id": list("tuv"), "mad": ["ACnah panas.", "\u00e9na", "!!?"]})
    assert corpora.drop_overlap(spelt, unseen)[1] == 3
    # what is only a place in a file is not the same sentence in another file
    numbered = corpora.parallel_file(tmp_path / "own.csv", {"ind": "ind"})
    unlike = corpora.labelled_file(write(tmp_path, "x.csv", "text,label\nLema',x\n"), "t", "mad", ["x"])
    assert numbered["sentence_id"][0] == unlike["example"][0]
    assert corpora.drop_overlap(numbered, unlike)[1] == 0


def test_the_languages_of_xp3():
    assert len(corpora.XP3) == len(set(corpora.XP3)) == 46
    assert corpora.xp3_languages(["en", "code", "tum"]) == ["en", "code", "tum"]
    with pytest.raises(CorpusError, match=r"xP3 has no language 'qq'; it has: ak, ar, .*, zu"):
        corpora.xp3_languages(["en", "qq"])


def test_past_instructions(tmp_path):
    path = write(tmp_path, "past.jsonl", '{"inputs": "a [x]", "targets": "b"}\n{"inputs": "c", "targets": "d"}\n')
    found = corpora.past(path, "inputs", "targets")
    assert found.to_dict() == {"prompt": ["a [x]", "c"], "answer": ["b", "d"]}
    assert len(corpora.past(None)) == 0
    write(tmp_path, "past.jsonl", '\ufeff{"prompt": "a\u2028b", "answer": "c"}\n\n')
    assert corpora.past(path)["prompt"][:] == ["a\u2028b"]
    write(tmp_path, "past.jsonl", json.dumps({"prompt": "a", "answer": "b"}) + "\n\n{broken\n")
    with pytest.raises(CorpusError, match="line 3: this is no JSON object"):
        corpora.past(path)
    write(tmp_path, "past.jsonl", '\n{"prompt": "a", "answer": ""}\n')
    with pytest.raises(CorpusError, match="line 2: the field 'answer' is missing or empty"):
        corpora.past(path)
    with pytest.raises(CorpusError, match="no such file"):
        corpora.past(tmp_path / "none.jsonl")


# The release, where it is: the folder of IA_DATA, else ../shared/data.

STATISTICS = Path(__file__).parents[1] / "params/published/instructalign_dataset_statistics.csv"


def test_sizes_and_labels_are_those_of_the_paper(real_data, tmp_path):
    published = pd.read_csv(STATISTICS, dtype=str, keep_default_na=False)
    where = {"offline": True, "cache": tmp_path}
    checked, absent = dict.fromkeys(published["dataset"], 0), []
    for row in published.to_dict("records"):
        corpus, task, code = row["dataset"], row["task"], row["language"]
        for split in ("train", "valid", "test"):
            try:
                found = corpora.labelled(real_data, task, [code], split, corpus, **where)
            except downloads.SourceError:
                absent.append(f"{corpus} {task} {code} {split}")
                continue
            labels = set(corpora.labels(corpus, task))
            if (task, code) == ("topic", "mui"):
                labels -= {"slice of life"}
            assert set(found["label"]) == labels, f"{corpus} {task} {code} {split}"
            if row[split]:
                assert len(found) == int(row[split]), f"{corpus} {task} {code} {split}"
                checked[corpus] += 1
    print(f"not in {real_data}: {', '.join(absent)}")
    assert checked["nusax"] == 36
    if not (real_data / "nusawrites").is_dir():
        pytest.skip(f"there is no NusaWrites text in {real_data} (set IA_DATA); NusaX was checked")
    assert checked["nusatranslation"] >= 30
    assert checked["nusaparagraph"] >= 37


def test_real_nusax_text_is_parallel(real_data):
    assert len(corpora.parallel(real_data / "nusax", languages.NUSAX)) == 500
    found = corpora.parallel(real_data, languages.NUSAX, "test", "nusax")
    tests = corpora.labelled(real_data, "sentiment", list(languages.NUSAX), "test", "nusax")
    assert corpora.drop_overlap(found, tests)[1] == len(found) == 400


def test_real_translations_beside_real_sentiment_tests(real_data):
    if not (real_data / "nusawrites").is_dir():
        pytest.skip(f"there is no NusaWrites text in {real_data} (set IA_DATA)")
    pairs = corpora.parallel(real_data, ["ind", "mad"], "train", "nusatranslation")
    tests = corpora.labelled(real_data, "sentiment", ["mad"], "test", "nusatranslation")
    kept, dropped = corpora.drop_overlap(pairs, tests)
    assert (len(pairs), dropped) == (6600, 841)
    assert set(kept["sentence_id"]).isdisjoint(tests["example"])
    assert {*kept["ind"], *kept["mad"]}.isdisjoint(tests["text"])
