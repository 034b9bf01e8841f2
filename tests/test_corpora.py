import io
import json
import platform
import re
import tarfile

import pandas as pd
import pytest
from datasets import Dataset

from ia_lib.data import corpora, languages
from ia_lib.data.downloads import finder
from ia_lib.data.files import CorpusError
from ia_lib.evaluation import tasks

pytestmark = pytest.mark.quick


def write(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)
    return path


def below(folder):
    """The mini lab's files, or a user's, as `find` has them."""
    return lambda _, file: folder / file


def labelled(path, **columns):
    return tasks.own(str(path), "mad", ["x", "y"], **columns).read(below(path.parent), ["mad"], "test")


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
    found = corpora.parallel(below(tmp_path), ["ind", "bbc"])
    assert found.to_dict() == {
        "sentence_id": ["train-0", "train-1"],
        "ind": ["Ada, kata", "dua"],
        "bbc": ["a b", "c"],
    }


@pytest.mark.parametrize(
    ("corpus", "codes", "split", "message"),
    [
        ("floras", ["ind"], "train", "found the corpus 'floras'; allowed: minilab, nusax"),
        ("indolem", ["ind"], "test", "found the corpus 'indolem'; allowed: minilab, nusax, nusatranslation, flores"),
        ("nusatranslation", ["ace"], "test", "has no language 'ace'; it has: ind, jav"),
        ("nusatranslation", ["ind"], "test", "pairs Indonesian with a language"),
        ("flores", ["ind"], "valid", "has no split 'valid'; it has: train, dev, devtest"),
    ],
)
def test_what_a_corpus_does_not_have_is_refused(corpus, codes, split, message):
    with pytest.raises(CorpusError, match=re.escape(message)):
        corpora.places(corpus, codes, split)


def test_what_is_read_is_known_before(tmp_path):
    assert corpora.places("minilab", ["eng", "ind"], "base") == [("minilab", "mt/base.csv")]
    assert corpora.places("nusatranslation", ["ind", "mad", "sun"]) == [
        ("nusawrites", "nusa_kalimat-mt-mad-train.csv"),
        ("nusawrites", "nusa_kalimat-mt-sun-train.csv"),
    ]
    write(tmp_path, "nusax/mt/test.csv", "indonesian,sundanese\nsatu,hiji\n")
    asked = []
    corpora.parallel(lambda *place: asked.append(place) or tmp_path / "/".join(place), ["ind", "sun"], "test", "nusax")
    assert asked == corpora.places("nusax", ["ind", "sun"], "test") == [("nusax", "mt/test.csv")]


def test_every_language_of_a_corpus_has_a_name():
    assert {code for codes in languages.CORPORA.values() for code in codes} <= set(languages.NAMES)
    assert set(languages.FLORES) <= set(languages.NAMES)


def test_nusatranslation_is_joined_by_ids(tmp_path):
    name = "nusawrites/nusa_kalimat-mt-{}-test.csv"
    write(tmp_path, name.format("mad"), "id,ind_text,tgt_text\nindolem-test-2,dua ,dhuwa'\nemot-test-1,satu,settong\n")
    write(tmp_path, name.format("sun"), "id,ind_text,tgt_text\nindolem-test-2,dua,dua\nemot-test-1,satu.,hiji\n")
    found = corpora.parallel(finder(tmp_path), ["ind", "sun", "mad"], "test", "nusatranslation")
    assert found.to_dict() == {
        "sentence_id": ["indolem-test-2", "emot-test-1"],
        "ind": ["dua", "satu."],
        "sun": ["dua", "hiji"],
        "mad": ["dhuwa'", "settong"],
    }
    assert corpora.parallel(finder(tmp_path), ["mad"], "test", "nusatranslation").column_names == ["sentence_id", "mad"]
    write(tmp_path, name.format("sun"), "id,ind_text,tgt_text\nindolem-test-3,dua,dua\nemot-test-1,satu,hiji\n")
    with pytest.raises(CorpusError, match=r"sun-test.csv: its ids are not those of .*mad-test.csv"):
        corpora.parallel(finder(tmp_path), ["mad", "sun"], "test", "nusatranslation")


@pytest.mark.parametrize("prefix", ["./flores200_dataset", "flores200_dataset"])
def test_flores_is_read_from_its_archive(tmp_path, prefix):
    names = ["sun_Latn", "ace_Arab", "ace_Latn", "bul_Cyrl", "tha_Thai"]
    texts = {"dev": {n: [f"{n} {i}" for i in range(2)] for n in names}, "devtest": {n: [f"{n} 2"] for n in names}}
    archive(tmp_path / "flores/flores200_dataset.tar.gz", texts, prefix)
    found = corpora.parallel(finder(tmp_path), ["sun", "ace", "bg", "tha", "ace_Arab"], corpus="flores")
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
    assert len(corpora.parallel(finder(tmp_path), ["sun"], "devtest", "flores")) == 1


def test_what_is_wrong_in_the_flores_archive_is_named(tmp_path):
    path = tmp_path / "flores/flores200_dataset.tar.gz"
    archive(path, {"dev": {"sun_Latn": ["a", "b"], "jav_Latn": ["c"], "kas_Arab": ["d"], "kas_Deva": ["e"]}})
    for codes, message in (
        (["mad"], "there is no language 'mad' among its 4; the nearest: jav_Latn, kas_Arab, kas_Deva, sun_Latn"),
        (["kas"], "'kas' is written in several scripts; allowed: kas_Arab, kas_Deva"),
        (["sun", "jav"], r"dev: the languages have unequal numbers of lines .*'sun': 2, 'jav': 1"),
    ):
        with pytest.raises(CorpusError, match=message):
            corpora.parallel(finder(tmp_path), codes, "dev", "flores")
    archive(path, {"dev": {"sun_Latn": ["a", "", "b"]}})
    with pytest.raises(CorpusError, match=r"dev/sun_Latn.dev, line 2: the line is empty"):
        corpora.parallel(finder(tmp_path), ["sun"], "dev", "flores")
    archive(path, {"dev": {"sun_Latn": [str(i) for i in range(9999)]}})
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(CorpusError, match="no complete tar archive"):
        corpora.parallel(finder(tmp_path), ["sun"], "dev", "flores")


def test_lexicon(tmp_path):
    write(tmp_path, "nusax/lexicon/toba_batak.csv", ",indonesian,toba_batak\n0,abu,abu\n1,abu,sirabun\n2,ada,\n")
    assert corpora.lexicon(finder(tmp_path), "bbc").to_dict() == {"ind": ["abu", "abu"], "bbc": ["abu", "sirabun"]}
    with pytest.raises(CorpusError, match="no lexicon of 'ind'; it has: eng, sun"):
        corpora.lexicon(finder(tmp_path), "ind")


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


def test_pairs_of_test_data_are_dropped(tmp_path):
    own = corpora.parallel_file(
        write(tmp_path, "own.csv", "nr,ind,mad\na,Satu,Settong\nb,Dua,Dhuwa'\nc,Tiga,Tello'\nd,Empat,Empa'\n"),
        {"ind": "ind", "mad": "mad"},
        "nr",
    )
    path = write(tmp_path, "test.csv", "nr,text,label\nb,else,x\nq,TELLO’!,x\nr,Lema',x\n")
    tests = labelled(path, id="nr")
    others = corpora.parallel_file(write(tmp_path, "held.csv", "ind\nempat \n"), {"ind": "ind"})
    first, dropped = corpora.drop_overlap(own, tests)
    kept, more = corpora.drop_overlap(first, others)
    assert (kept["sentence_id"][:], dropped + more) == (["a"], 3)
    # blanks, characters without a width and Unicode's forms make no difference, and signs alone are compared as well
    spelt = Dataset.from_dict({"sentence_id": list("xyz"), "mad": ["AC nah panas", "E\u0301\u200bna", "\u200b!! ?"]})
    unseen = Dataset.from_dict({"sentence_id": list("tuv"), "mad": ["ACnah panas.", "\u00e9na", "!!?"]})
    assert corpora.drop_overlap(spelt, unseen)[1] == 3
    # folding takes this letter apart, and its capital is written in two parts
    greek = Dataset.from_dict({"sentence_id": ["g"], "ell": ["\u0390"]})
    assert corpora.drop_overlap(greek, Dataset.from_dict({"text": ["\u0399\u0308\u0301"]}))[1] == 1
    # what is only a place in a file is not the same sentence in another file
    numbered = corpora.parallel_file(tmp_path / "own.csv", {"ind": "ind"})
    unlike = labelled(write(tmp_path, "x.csv", "text,label\nLema',x\n"))
    assert numbered["sentence_id"][0] == unlike["example"][0]
    assert corpora.drop_overlap(numbered, unlike)[1] == 0


def test_the_languages_of_xp3():
    assert len(corpora.XP3) == len(set(corpora.XP3)) == 46
    corpora.check_xp3(["en", "code", "tum"])
    with pytest.raises(CorpusError, match=r"xP3 has no language 'qq'; it has: ak, ar, .*, zu"):
        corpora.check_xp3(["en", "qq"])


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


def test_real_nusax_text_is_parallel(real_data):
    find = finder(real_data, offline=True)
    assert len(corpora.parallel(find, languages.NUSAX, "train", "nusax")) == 500
    found = corpora.parallel(find, languages.NUSAX, "test", "nusax")
    tests = tasks.load("nusax/sentiment").read(find, languages.NUSAX, "test")
    assert corpora.drop_overlap(found, tests)[1] == len(found) == 400


def test_real_translations_beside_real_sentiment_tests(real_data):
    if not (real_data / "nusawrites").is_dir():
        pytest.skip(f"there is no NusaWrites text in {real_data} (set IA_DATA)")
    pairs = corpora.parallel(finder(real_data), ["ind", "mad"], "train", "nusatranslation")
    tests = tasks.load("nusatranslation/sentiment").read(finder(real_data), ["mad"], "test")
    kept, dropped = corpora.drop_overlap(pairs, tests)
    assert (len(pairs), dropped) == (6600, 841)
    assert set(kept["sentence_id"]).isdisjoint(tests["example"])
    assert {*kept["ind"], *kept["mad"]}.isdisjoint(tests["text"])


def test_a_large_corpus_is_mapped_and_not_held(tmp_path, monkeypatch):
    monkeypatch.setenv("IA_CACHE", str(tmp_path / "cache"))
    lines = [f"{i}\tkalimat {i}\tca' {i}" for i in range(45_000)]
    path = write(tmp_path, "own.tsv", "nr\tind\tmad\n" + "\n".join(lines) + "\n")
    found = corpora.parallel_file(path, {"ind": "ind", "mad": "mad"}, "nr")
    assert found.column_names == ["sentence_id", "ind", "mad"]
    assert [found[i] for i in (0, 20_000, 44_999)] == [
        {"sentence_id": str(i), "ind": f"kalimat {i}", "mad": f"ca' {i}"} for i in (0, 20_000, 44_999)
    ]
    (mapped,) = (tmp_path / "cache" / "tables").iterdir()
    assert mapped.stat().st_size > 1_000_000
    # what a killed process has left goes
    left = mapped.with_name(f"{platform.node()}-{2**22 + 1}-x.arrow")
    left.touch()
    assert len(corpora.parallel_file(path, {"ind": "ind"})) == 45_000
    assert not left.exists()
    write(tmp_path, "own.tsv", "nr\tind\tmad\n" + "\n".join([*lines, "7\tx\ty"]) + "\n")
    with pytest.raises(CorpusError, match="line 45002: the nr '7' was used before, in line 9; every row needs"):
        corpora.parallel_file(path, {"ind": "ind"}, "nr")


def test_past_data_is_text(tmp_path):
    path = tmp_path / "past.parquet"
    pd.DataFrame({"prompt": [b"satu ", b"dua "], "answer": ["1", "2"], "topic": [1, 2]}).to_parquet(path)
    assert corpora.past(path, column="topic").to_dict() == {
        "prompt": ["satu ", "dua "],
        "answer": ["1", "2"],
        "topic": ["1", "2"],
    }
    pd.DataFrame({"prompt": ["satu", "dua"], "answer": [1.5, 2.5]}).to_parquet(path)
    with pytest.raises(CorpusError, match=r"past.parquet, row 1: the column 'answer' holds '1.5' \(a number\)"):
        corpora.past(path)
    path = write(tmp_path, "past.jsonl", '{"prompt": "a", "answer": "b", "language": ["x"]}')
    with pytest.raises(CorpusError, match=r"line 1: the column 'language' holds .*list"):
        corpora.past(path)
