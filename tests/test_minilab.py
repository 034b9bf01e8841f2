import collections
import itertools

import pytest

from ia_lib.data import corpora, minilab
from ia_lib.evaluation import tasks
from ia_lib.instructions import mixture

pytestmark = pytest.mark.quick
TASK = tasks.load("minilab/sentiment")
POLAR = ("good", "bad", "glad", "sad", "boon", "bane", "praise", "blame")


def test_the_grammar_is_as_large_as_it_says():
    grammar = minilab.grammar()
    assert len(grammar["sentiment"]) >= 20
    assert len(grammar["other"]) >= 20
    entries = [entry for slot in grammar["slots"].values() for entry in slot]
    polar = [indonesian for name in POLAR for indonesian, _ in grammar["slots"][name]]
    assert len(entries) >= 200
    assert len(set(polar)) == len(polar) > 140
    # every polar word has a translation in every language
    assert all(word in entries for entries in minilab.lexicon().values() for word in polar)
    assert set(minilab.lexicon()) == {"sun", "jav", "ban", "min", "bug", "ace", "bjn", "bbc", "mad", "nij"}


def test_labels_are_balanced_and_not_given_away_by_the_template():
    sentences = list(itertools.islice(minilab.sentences(1), 3000))
    counts = collections.Counter(sentence["label"] for sentence in sentences)
    assert min(counts[label] for label in TASK.labels) > 420
    assert counts[None] > 1300
    assert len({sentence["ind"] for sentence in sentences}) == 3000


def test_no_word_is_invented():
    for code, entries in minilab.lexicon().items():
        words = {word for entry in entries.values() for word in entry.split()}
        for sentence in itertools.islice(minilab.sentences(2), 200):
            indonesian = {word.strip(".,?").lower() for word in sentence["ind"].split()}
            translated = {word.strip(".,?").lower() for word in minilab.translate(sentence["ind"], code).split()}
            assert translated <= words | indonesian


def test_translation_word_by_word():
    entries = minilab.lexicon()["jav"]
    assert minilab.translate("Hotel ini sangat luar biasa.", "jav") == (
        f"Hotel ini {entries['sangat']} {entries['luar biasa']}."
    )
    shares = minilab.untranslated_shares(1, 200)
    assert all(0.4 < share < 0.9 for share in shares.values())


def test_files_are_disjoint_and_the_same_each_time(lab, tmp_path):
    sizes = {"base": 300, "train": 120, "valid": 12, "test": 30}
    again = minilab.write(tmp_path / "lab", 1, ["eng", "ind", "sun", "jav", "bbc"], sizes)
    files = sorted(path.relative_to(lab) for path in lab.rglob("*.csv"))
    assert files == sorted(path.relative_to(again) for path in again.rglob("*.csv"))
    assert all((lab / path).read_bytes() == (again / path).read_bytes() for path in files)

    def find(source, file):
        return lab / file

    for code in ("eng", "ind", "sun", "jav", "bbc"):
        known = code in minilab.KNOWN
        parts = [set(corpora.parallel(find, [code], split)[code]) for split in ("base", "train")[not known :]]
        parts += [set(TASK.read(find, [code], split)["text"]) for split in ("valid", "test")]
        for one, other in itertools.combinations(parts, 2):
            assert not one & other
        assert [len(part) for part in parts] == [300, 120, 12, 30][not known :]


def test_the_past_is_a_mixture_in_the_known_languages(lab):
    codes, asked = ["eng", "ind"], []
    wanted = {"sentiment": 25, "mt": 45, "xss": 15, "mlm": 15}
    texts = TASK.read(lambda _, file: lab / file, codes, "train")

    def find(source, file):
        asked.append((source, file))
        return lab / file

    past = mixture.mixture(find, codes, wanted, 4000, 1, texts=texts, labels=TASK.labels)
    assert asked == mixture.places(wanted, codes, "base", "minilab") == [("minilab", "mt/base.csv")]
    assert mixture.places({"sentiment": 1}, codes, "base", "minilab") == []
    shares = collections.Counter(past["objective"])
    for name, share in (("sentiment", 25), ("mt", 45), ("xss", 15), ("mlm", 15)):
        assert shares[name] / 4000 == pytest.approx(share / 100, abs=0.03)
    assert set(past["language"]) == {"eng", "ind"}
    assert {a for a, o in zip(past["answer"], past["objective"], strict=True) if o == "sentiment"} == set(TASK.labels)
