import collections
import itertools

import pytest

from ia_lib.data import corpora, dictionaries, files, minilab
from ia_lib.evaluation import tasks
from ia_lib.instructions import alpaca, code_mixing, mixture

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


def test_answers_stand_in_their_passages_in_every_language(lab):
    task, known = tasks.load("minilab/passages"), {}
    asked = {question["answer"] for question in minilab.grammar()["passages"]["questions"]}
    assert asked == {"actor", "object", "place", "number", "day"}
    for code in ("ind", "sun", "jav", "bbc"):
        found = task.read(lambda _, file: lab / file, [code], "test")
        assert len(found) == minilab.questions(30) == 150
        for context, answers in zip(found["context"], found["answers"], strict=True):
            assert len(answers) == 1
            assert answers[0].lower() in context.lower()
        known[code] = found
    # the same questions in other words, all of them from the lexicon
    assert known["jav"]["id"][:] == known["ind"]["id"][:]
    pairs = list(zip(known["ind"]["answers"], known["jav"]["answers"], strict=True))
    assert 0.2 < sum(one != other for one, other in pairs) / len(pairs) < 0.4
    for one, other in pairs:
        assert other == one or minilab.lexicon()["jav"][one[0]] == other[0]


def test_no_passage_is_in_two_files(lab):
    task, parts = tasks.load("minilab/passages"), []
    for split in ("train", "valid", "test"):
        parts.append(set(task.read(lambda _, file: lab / file, ["ind"], split)["context"]))
    assert [len(part) for part in parts] == [300, 12, 30]
    rows = alpaca.read(lab / "instructions" / "ind.jsonl", dict(zip(alpaca.PARTS, alpaca.PARTS, strict=True)))
    assert len(rows) == minilab.questions(120)
    assert all(row["output"][0] == " " and row["output"][1:].lower() in row["input"].lower() for row in rows)
    parts += [{row["input"] for row in rows}, set(files.lines(lab / "texts" / "ind.txt"))]
    assert len(parts[-1]) == 120
    for one, other in itertools.combinations(parts, 2):
        assert not one & other


def test_the_lexicon_is_a_dictionary_of_the_whole_lab(lab):
    found = dictionaries.read(lab / "dictionaries" / "jav.tsv")
    assert {word: [other] for word, other in minilab.lexicon()["jav"].items()} == found.translations
    assert not found.bad
    # mixed through it, an Indonesian passage is the Javanese one
    passage = next(minilab.passages(1))["context"][0]
    mixed = code_mixing.mix(passage, found.translations, 1, ("all",))
    assert mixed.text == minilab.translate(passage, "jav")
    assert mixed.changed > 1


def test_questions_on_passages_are_a_part_of_the_past():
    asked = [{"prompt": f"{i}?", "answer": f" {i}", "language": "ind"} for i in range(5)]
    past = mixture.mixture(None, ["ind"], {"passages": 1}, 200, 1, asked=asked)
    assert set(past["objective"]) == {"passages"}
    assert {(row["prompt"], row["answer"]) for row in past} == {(f"{i}?", f" {i}") for i in range(5)}
    assert mixture.places({"passages": 1}, ["ind"], "base", "minilab") == []
