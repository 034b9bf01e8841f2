import collections

import pandas as pd
import pytest
from datasets import Dataset
from scipy import stats

from ia_lib.data import corpora, languages
from ia_lib.instructions import COLUMNS, cross_lingual, templates
from ia_lib.randomness import generator, shuffled

pytestmark = pytest.mark.quick
PLAN = {"pivots": ["eng", "ind"], "taught": ["sun", "jav"], "seed": 5}


def rows(parallel, objective, count, **changes):
    workers = changes.pop("workers", 1)
    return list(cross_lingual.stream(parallel, count, cross_lingual.Plan(objective, **{**PLAN, **changes}), workers))


def texts(parallel):
    codes = [c for c in parallel.column_names if c != "sentence_id"]
    return {row["sentence_id"]: {code: row[code] for code in codes} for row in parallel}


def test_directions_have_a_pivot_on_one_side():
    found = cross_lingual.directions(["eng", "ind"], ["sun", "jav"])
    assert len(found) == len(set(found)) == 10
    assert all(("eng" in pair or "ind" in pair) and pair[0] != pair[1] for pair in found)
    assert ("sun", "jav") not in found
    assert len(cross_lingual.directions(["eng"], ["ind", "sun", "jav", "ban", "min", "bug", "ace", "bjn"])) == 16


@pytest.mark.parametrize("objective", ["tlm", "mt", "xss", "mlm"])
def test_rows_are_what_their_columns_say(parallel, objective):
    known = texts(parallel)
    for row in rows(parallel, objective, 600):
        sentence, source, target = known[row["source_id"]], row["source_language"], row["language"]
        assert "[" not in row["prompt"] + row["answer"]
        names = [languages.name(source), languages.name(target)]
        template = templates.templates(objective)[row["template"]]
        if objective == "tlm":
            assert row["answer"] == sentence[target]
            assert sentence[source] in row["prompt"]
            # the noisy text carries its own language's name
            if "[INPUT_LANG] text" in template:
                assert f"{names[1]} text" in row["prompt"]
        elif objective == "mt":
            assert row["answer"] == sentence[target]
            assert sentence[source] in row["prompt"]
            assert f"to {names[1]}" in row["prompt"] or f"in {names[1]}" in row["prompt"] or "into" in row["prompt"]
        elif objective == "xss":
            assert sentence[source] in row["prompt"]
            # an untranslated sentence reads the same in both languages: look behind the first
            second = row["prompt"].replace(sentence[source], "", 1)
            assert (row["answer"] == "yes") == (sentence[target] in second)
            assert row["answer"] in ("yes", "no")
        else:
            assert source == target
            assert row["answer"] == sentence[target]
        assert (row["noise"] is None) == (objective in ("mt", "xss"))


def test_templates_answers_and_objectives_are_drawn_uniformly(parallel):
    found = rows(parallel, "tlm+xss", 4000)
    for objective in ("tlm", "xss"):
        counts = collections.Counter(row["template"] for row in found if row["kind"] == objective)
        assert stats.chisquare([counts[i] for i in range(6)]).pvalue > 0.001
    yes = sum(row["answer"] == "yes" for row in found if row["kind"] == "xss")
    xss = sum(row["kind"] == "xss" for row in found)
    assert stats.binomtest(yes, xss).pvalue > 0.001
    assert stats.binomtest(xss, len(found)).pvalue > 0.001


def test_an_epoch_has_every_sentence_in_every_direction_once(parallel):
    size = len(parallel) * 10
    found = rows(parallel, "mt", size + 5)
    first = [(r["source_id"], r["source_language"], r["language"]) for r in found[:size]]
    assert len(set(first)) == size
    assert {r["epoch"] for r in found[:size]} == {0}
    assert {r["epoch"] for r in found[size:]} == {1}
    assert [r["position"] for r in found[:size]] == list(range(size))


def test_rows_depend_on_seed_epoch_and_sample_alone(parallel):
    one = rows(parallel, "tlm", 50)
    assert one == rows(parallel, "tlm", 200)[:50]
    assert one != rows(parallel, "tlm", 50, seed=6)
    epochs = [
        {r["sample"]: r for r in cross_lingual.instructions(parallel, cross_lingual.Plan("tlm", **PLAN), e)}
        for e in range(2)
    ]
    changed = [s for s in epochs[0] if epochs[0][s]["prompt"] != epochs[1][s]["prompt"]]
    assert len(changed) > 0.8 * len(epochs[0])
    assert list(epochs[0]) != list(epochs[1])


def test_held_out_sentences_are_in_no_training_row(parallel):
    training, validation = cross_lingual.split_off(parallel, 20, 1)
    assert len(validation) == 20
    assert not set(training["sentence_id"]) & set(validation["sentence_id"])
    assert sorted([*training["sentence_id"], *validation["sentence_id"]]) == sorted(parallel["sentence_id"])
    with pytest.raises(ValueError, match="fewer than"):
        cross_lingual.split_off(parallel, len(parallel), 1)


def test_text_that_repeats_nothing_is_split_as_it_was_drawn(parallel):
    some = parallel.select(range(100))
    assert len(set(corpora.groups(corpora.fingerprints(some)))) == 100
    order = shuffled(generator(1, "validation"), 100)
    training, validation = cross_lingual.split_off(some, 20, 1)
    assert validation.to_dict() == some.select(sorted(order[:20])).to_dict()
    assert training.to_dict() == some.select(sorted(order[20:])).to_dict()


def pairs(*rows):
    columns = {code: list(column) for code, column in zip(("ind", "jav"), zip(*rows, strict=True), strict=True)}
    return Dataset.from_dict({"sentence_id": [f"line {i + 1}" for i in range(len(rows))], **columns})


ALONE = [(f"rumah nomor {i}", f"omah nomer {i}") for i in range(40)]
REPEATED = {
    "pairs": [*ALONE, *ALONE],
    "case": [*ALONE, *((a.upper(), b.title()) for a, b in ALONE)],
    "blanks": [*ALONE, *((a.replace(" ", "\u00a0 "), f"\u200b{b}") for a, b in ALONE)],
    "forms": [*((a, b + "é") for a, b in ALONE), *((a, b + "e\u0301") for a, b in ALONE)],
    "one side": [*ALONE, *((a, f"{b} liyane") for a, b in ALONE)],
    "the other side": [*ALONE, *((f"{a} lain", b) for a, b in ALONE)],
    "another language": [*ALONE, *((f"{b} lain", a) for a, b in ALONE)],
    "chains": [(f"rumah nomor {i // 2}", f"omah nomer {(i + 1) // 2}") for i in range(40)][:3] + ALONE[3:],
    "one for all": [("ya", "iya")] * 30 + ALONE,
}


@pytest.mark.parametrize("kind", REPEATED)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_is_held_out_reads_like_nothing_that_is_trained_on(kind, seed):
    text = pairs(*REPEATED[kind])
    training, validation = cross_lingual.split_off(text, 20, seed)
    assert len(validation) == 20
    assert sorted([*training["sentence_id"], *validation["sentence_id"]]) == sorted(text["sentence_id"])
    trained, held = (
        {corpora.normalised(t) for c in ("ind", "jav") for t in part[c]} for part in (training, validation)
    )
    assert not trained & held
    plan = cross_lingual.Plan("mt+xss", ["ind"], ["jav"], seed)
    made = cross_lingual.make(text, plan, 200, 20, 40, "sentence")
    split = made.groupby("split")["source_id"].agg(set)
    assert split["validation"] <= set(validation["sentence_id"])
    assert not split["train"] & split["validation"]
    assert cross_lingual.rows_of_epoch(text, plan, 20, 40, "sentence") == 2 * len(training)


def test_groups_that_do_not_fit_are_passed_over():
    text = pairs(*[pair for pair in ALONE for _ in range(3)])
    assert len(cross_lingual.split_off(text, 20, 1)[1]) == 18
    with pytest.raises(ValueError, match="every sentence shares a text with 2 others"):
        cross_lingual.split_off(text, 2, 1)


def test_pivots_can_be_selected(parallel):
    found = rows(parallel, "mt", 300, pivots=["ind"], taught=["jav"])
    assert {frozenset((r["source_language"], r["language"])) for r in found} == {frozenset(("ind", "jav"))}


def test_xss_needs_sentences_that_differ(parallel):
    same = parallel.select([0] * 5)
    with pytest.raises(ValueError, match="differ"):
        rows(same, "xss", 50)


def test_any_number_of_workers_makes_the_same_rows(parallel):
    assert rows(parallel, "tlm+xss+mlm", 2500, workers=2) == rows(parallel, "tlm+xss+mlm", 2500)


def test_released_readings_of_the_instructions(parallel):
    known = texts(parallel)
    for row in rows(parallel, "tlm", 300, tlm_names="swapped"):
        template = templates.templates("tlm")[row["template"]]
        if "[INPUT_LANG] text" in template:
            assert f"{languages.name(row['source_language'])} text" in row["prompt"]
    for row in rows(parallel, "xss", 400, xss_negatives="corrupted"):
        assert (row["answer"] == "no") == (row["noise"] is not None)
    detached = [r for r in rows(parallel, "mlm", 300, noise_tokens="nltk") if r["noise"] == "permutation"]
    assert all(" ." in r["prompt"] or " ?" in r["prompt"] or ". " in r["prompt"] for r in detached)
    assert {r["noise"] for r in rows(parallel, "tlm", 300, noise="infilling")} == {"infilling"}
    assert len(known) == len(parallel)


def test_hard_negatives_are_the_nearest_that_read_differently(parallel):
    known = texts(parallel)

    def similarity(a, b):
        a_words, b_words = set(a.lower().split()), set(b.lower().split())
        return len(a_words & b_words) / len(a_words | b_words)

    means = {}
    for kind in ("random", "hard", "mixed"):
        shares = []
        for row in rows(parallel, "xss", 1200, xss_negatives=kind):
            if row["answer"] == "no":
                true = known[row["source_id"]][row["language"]]
                others = [s[row["language"]] for s in known.values()]
                used = [t for t in others if t != true and t in row["prompt"]]
                shares += [max(similarity(true, text) for text in used)] if used else []
        means[kind] = sum(shares) / len(shares)
    assert means["hard"] > means["mixed"] > means["random"]
    assert means["hard"] > 2 * means["random"]


@pytest.mark.parametrize("small", [20_000, 10])
def test_a_negative_can_be_traced(parallel, monkeypatch, small):
    monkeypatch.setattr(cross_lingual, "_SMALL", small)
    known = texts(parallel)
    for objective, negatives, kinds in (
        ("xss", "mixed", {"hard", "random"}),
        ("xss", "random", {"random"}),
        ("xss", "corrupted", set()),
        ("tlm", "mixed", set()),
    ):
        found = rows(parallel, objective, 200, xss_negatives=negatives)
        assert {row["negative"].split()[0] for row in found if row["negative"]} == kinds
        for row in found:
            assert (row["negative"] is not None) == (bool(kinds) and row["answer"] == "no")
            if row["negative"]:
                _, sentence = row["negative"].split(" ", 1)
                assert sentence != row["source_id"]
                assert known[sentence][row["language"]] in row["prompt"]


@pytest.mark.parametrize("small", [20_000, 10])
@pytest.mark.parametrize("kind", ["hard", "random"])
def test_no_negative_is_a_translation(monkeypatch, small, kind):
    monkeypatch.setattr(cross_lingual, "_SMALL", small)
    # the first four have one source and similar texts; the others differ in case, blanks or Unicode form at most
    ind = ["Kamar bagus", "kamar  bagus", "Kamar bagus", "Kamar bagus", *[f"Rumah {i}" for i in range(16)]]
    jav = ["Kamar apik", "Kamar sae", "Kamare apik", "Kamar apik tenan", "Kamar É", "kamar  E\u0301"]
    jav += [*[f"Kamar apik {i}" for i in range(13)], jav[3]]
    parallel = Dataset.from_dict({"sentence_id": [str(i) for i in range(20)], "ind": ind, "jav": jav})
    same = [{str(i) for i in range(4)}, {"4", "5"}]
    found = rows(parallel, "xss", 1600, pivots=["ind"], taught=["jav"], xss_negatives=kind)
    if small > 20:
        # of a corpus in memory every pair counts: sentence 0 has a translation beside another source, too
        assert not any(ind[0] in row["prompt"] and jav[19] in row["prompt"] for row in found if row["negative"])
    negatives = [(row["source_id"], row["negative"].split()[1]) for row in found if row["negative"]]
    assert len(negatives) > 600
    assert not [pair for pair in negatives if any(set(pair) <= group for group in same)]


def test_the_first_version_masks_words_or_one_span(parallel):
    for objective in ("word", "span"):
        for row in rows(parallel, objective, 300, templates="ia1"):
            assert row["prompt"].startswith("Given the ")
            assert row["noise"] == f"masked {objective}"
            assert row["prompt"].count("___") >= 1
            if objective == "span":
                assert row["prompt"].count("___") == 1
    found = rows(parallel, "word+span+mt", 300, templates="ia1")
    assert {row["kind"] for row in found} == {"word", "span", "mt"}
    translated = [row["prompt"] for row in found if row["kind"] == "mt"]
    assert all(prompt.startswith("What is the ") for prompt in translated)


def test_rows_held_out_as_released_share_sentences_with_training(parallel):
    plan = cross_lingual.Plan("mt", **PLAN)
    made = cross_lingual.make(parallel, plan, 2000, 20, 50, "row")
    train, held = (made[made["split"] == split] for split in ("train", "validation"))
    assert (len(train), len(held)) == (2000, 50)
    assert not set(train["sample"]) & set(held["sample"])
    assert set(train["source_id"]) & set(held["source_id"])
    apart = cross_lingual.make(parallel, plan, 2000, 20, 50, "sentence")
    train, held = (apart[apart["split"] == split] for split in ("train", "validation"))
    assert not set(train["source_id"]) & set(held["source_id"])


def test_what_is_made_is_a_stream_of_new_rows(parallel):
    plan = cross_lingual.Plan("tlm+xss", **PLAN)
    made = cross_lingual.make(parallel, plan, 300, 20, 50, "sentence")
    own = ["source_language", "template", "noise", "negative", "sample"]
    assert list(made) == [*COLUMNS, *own]
    assert made[["stream", "role"]].drop_duplicates().values.tolist() == [["instructions", "new"]]
    assert made["split"].tolist() == ["train"] * 300 + ["validation"] * 50
    training, _ = cross_lingual.split_off(parallel, 20, plan.seed)
    expected = list(cross_lingual.stream(training, 300, plan))
    for name in ("prompt", "answer", "kind", "language", "source_id", "epoch", "position", *own):
        assert [None if pd.isna(value) else value for value in made[name][:300]] == [row[name] for row in expected]
    # rows of other streams, which have no template, do not make it a fraction
    both = pd.concat([made, pd.DataFrame({"prompt": ["p"]})])
    assert str(both["template"].dtype) == "Int64"
    assert list(cross_lingual.make(parallel, plan, 0, 20, 0, "sentence")) == list(made)
