import dataclasses

import pandas as pd
import pytest
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from ia_lib.data import corpora, dirt
from ia_lib.instructions import cross_lingual
from ia_lib.recipes.fields import Adapter
from ia_lib.workflow import checks
from ia_lib.workflow.cost import estimate, memory
from ia_lib.workflow.settings import Settings

pytestmark = pytest.mark.quick


@pytest.fixture
def settings():
    return Settings.of(
        name="run",
        model={"name": "some/model"},
        objective="mt",
        past={"file": "x"},
        replay=2,
        steps=60,
        new_per_step=4,
        old_per_step=4,
        max_length=48,
    )


def report(parallel, tests, tokenizer, settings, dropped=0):
    plan = cross_lingual.Plan("mt", ["ind"], ["jav"], 1)
    made = cross_lingual.make(parallel, plan, 60 * 4, 2, 2, "sentence")
    old = pd.DataFrame({"prompt": ["A? "] * 2, "answer": ["b", "c"], "split": "train", "role": "old"})
    encoding, labels = settings.encoding(), {"sentiment": ["negative", "positive"]}
    epoch = cross_lingual.rows_of_epoch(parallel, plan, 2, 2, "sentence")
    every = pd.concat([made, old])
    more = (parallel, tests, labels, tokenizer, encoding, settings.data.steps, epoch, dropped)
    return checks.report(every, settings.streams, *more)


def test_trouble_is_counted_and_said(tokenizer, settings):
    ind = ["Makanan ini enak sekali.", "Dia pergi ke pasar itu.", "Kamar bagus", "Kamar bagus", "la’in kata", "sama"]
    jav = ["Panganan iki enak tenan.", "Dheweke lunga.", "Kamar apik", "Kamar apik", "tike' lan la\u2019in", "sama"]
    jav[1] = "e\u0301"  # a letter in two parts
    parallel = Dataset.from_dict({"sentence_id": list("abcdef"), "ind": ind, "jav": jav})
    tests = Dataset.from_dict(
        {"task": ["sentiment"], "language": ["jav"], "example": ["x"], "text": ["kamar apik!"], "label": ["positive"]}
    )
    found = report(parallel, tests, tokenizer, settings, dropped=3)
    assert found["pairs_still_in_tests"] == 2
    assert found["doubled_pairs"] == 1
    assert found["equal_sides"] == {"ind-jav": 1}
    assert found["characters"]["jav"]["not_in_NFC"] == 1
    assert found["characters"]["jav"]["apostrophes"] == {"'": 1, "’": 1}
    assert found["old_rows"] == 2
    assert found["repetitions_per_old_row"] == 120
    assert found["epochs_of_new_data"] == pytest.approx(30)
    said = "\n".join(found["warnings"])
    for part in (
        "occur in the test data",
        "3 pairs were left out",
        "1 of 6 pairs occur more than once",
        "seen 120 times",
        "not in Unicode's form NFC",
        "several apostrophes",
        "read the same in both",
    ):
        assert part in said, said


def test_noise_that_changes_nothing_is_said(tokenizer, settings, parallel):
    tests = Dataset.from_dict({"task": [], "language": [], "example": [], "text": [], "label": []})
    some = parallel.select_columns(["sentence_id", "ind", "jav"])
    # the same text on both sides: what stands in the context is not the noisy text
    same = Dataset.from_dict({"sentence_id": some["sentence_id"][:], "ind": some["ind"][:], "jav": some["ind"][:]})
    for text, noise, least, most in ((some, 0.2, 0, 0.25), (same, 1.0, 0, 0), (some, 0.01, 0.5, 1)):
        for objective in ("tlm", "mlm", "tlm+xss"):
            plan = cross_lingual.Plan(objective, ["ind"], ["jav"], 1, noise="infilling" if noise != 0.2 else "mixture")
            plan = dataclasses.replace(plan, noise_probability=noise)
            made = cross_lingual.make(text, plan, 60 * 4, 2, 2, "sentence")
            more = (tests, {}, tokenizer, settings.encoding(), settings.data.steps)
            found = checks.report(made, settings.streams, text, *more)
            shares = found["noisy_texts_unchanged"]
            assert set(shares) == {"ind", "jav"}
            assert all(least <= share <= most for share in shares.values()), (objective, noise, shares)
            said = [line for line in found["warnings"] if "noise left" in line]
            assert len(said) == (2 if least else 0)


def test_texts_of_ones_own_count_in_the_estimate(settings):
    own = {"file": "x.csv", "language": "jav", "labels": ["a", "b"]}
    run = Settings.of(**settings.model_dump(), tests=[own, {**own, "language": "sun"}])
    without, found = (estimate(run, "bigscience/bloomz-560m", None, texts) for texts in (None, 70))
    assert without.texts is None
    assert found.texts == 3 * len(run.evaluate.wordings) * 70
    assert found.hours["T4"] > without.hours["T4"]


@pytest.mark.parametrize("tied", [True, False])
def test_memory_counts_both_ends_of_a_model(settings, tmp_path, tied):
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(**sizes, vocab_size=1000, tie_word_embeddings=tied)
    config.save_pretrained(tmp_path)
    model, ends = LlamaForCausalLM(config), 8000 if tied else 16000
    whole = memory(settings, str(tmp_path))
    assert whole["weights"] == 4 * model.num_parameters()
    assert model.num_parameters() - ends < 1000
    adapter = memory(settings.changed(adapter=Adapter()), str(tmp_path))
    both = memory(settings.changed(adapter=Adapter(embeddings=True, quantisation="nf4")), str(tmp_path))
    assert adapter["weights"] < 4.1 * model.num_parameters()
    # what is trained stands beside what is frozen, and neither is quantised
    assert both["weights"] > 4 * 2 * ends
    assert both["optimiser"] > 8 * ends > adapter["optimiser"]


def test_without_trouble_there_is_no_warning_about_the_text(tokenizer, settings, parallel):
    tests = Dataset.from_dict({"task": [], "language": [], "example": [], "text": [], "label": []})
    some = parallel.select_columns(["sentence_id", "ind", "jav"])
    found = report(some, tests, tokenizer, settings.changed(max_length=256))
    assert found["pairs_still_in_tests"] == found["doubled_pairs"] == 0
    assert found["answers_cut"] == {"new mt": 0, "old": 0}
    assert not any("NFC" in line or "cut by" in line or "occur" in line for line in found["warnings"])


NO_TESTS = {"task": [], "language": [], "example": [], "text": [], "label": []}


def pairs(ind, jav):
    return Dataset.from_dict({"sentence_id": [f"line {i + 1}" for i in range(len(ind))], "ind": ind, "jav": jav})


def look(parallel, tokenizer, settings, tests=None, old=("A? ", "B? "), hold_out="sentence", **more):
    plan = cross_lingual.Plan("mt", ["ind"], ["jav"], 1)
    made = cross_lingual.make(parallel, plan, 40, 4, 8, hold_out)
    rest = pd.DataFrame({"prompt": old, "answer": "b", "split": "train", "role": "old"})
    tests = Dataset.from_dict(tests or NO_TESTS)
    return checks.report(
        pd.concat([made, rest]), settings.streams, parallel, tests, {}, tokenizer, settings.encoding(), 5, **more
    )


IND = [f"Kamar nomor {i} di hotel ini sangat bagus dan bersih sekali." for i in range(40)]
JAV = [f"Kamar nomer {i} ing hotel iki apik banget lan resik tenan." for i in range(40)]
DIRTY = {
    "HTML entities": ["Kamar &amp; ruang", "Rumah&#39;s", "Warung &eacute; nasi &#x27;x"],
    "lost characters (U+FFFD)": ["Kam\ufffdr bagus"],
    "invisible characters": ["Kam\u200bar", "\ufeffKamar", "Ka\u00admar", "ka\u200dmar"],
    "control tokens": [
        "Kamar</s>",
        "<|im_end|> kamar",
        "[INST] kamar [/INST]",
        "kamar <start_of_turn>",
        "<s>a",
        "<pad>",
    ],
    "letters of a wrong encoding": ["CafÃ© baru", "Itâ€™s", "â€œya", "PÃ©kanbaru Ã¨"],
}
CLEAN = [
    *(
        "a < b & c > d; AT&T; R&D",
        "“Ya” — kata dia… CAFÉ” é”—",
        "É, Ñ, Ö; «São Paulo, Não»",
        "می\u200cخواهم",
        "👨\u200d👩\u200d👧",
    ),
    *("[catatan] <b> kata <x>", "Iyẹn ni ẹ̀", "e\u0301 lan é", "नमस्ते क्\u200dष"),
]


@pytest.mark.parametrize("kind", DIRTY)
def test_dirt_is_counted_by_language_and_shown_once(tokenizer, settings, kind):
    found = look(pairs(IND, [*JAV[: -len(DIRTY[kind])], *DIRTY[kind]]), tokenizer, settings)
    assert found["dirt"] == {"jav": {kind: len(DIRTY[kind])}}
    (said,) = [line for line in found["warnings"] if kind in line]
    assert said.startswith(f"{len(DIRTY[kind])} of 40 texts in jav hold {kind} (such as {DIRTY[kind][0]!r}): ")
    # of a long text only the place, and nothing where the texts must not be shown
    long = pairs(IND, [*JAV[:-1], "rahasia " * 40 + DIRTY[kind][0] + " rahasia" * 40])
    (said,) = [line for line in look(long, tokenizer, settings)["warnings"] if kind in line]
    assert len(said) < 300
    hidden = look(long, tokenizer, settings, share_text=False)
    assert not any("rahasia" in line for line in hidden["warnings"])
    assert hidden["dirt"] == {"jav": {kind: 1}}


def test_what_is_no_dirt_is_not_called_so(tokenizer, settings):
    found = look(pairs([*IND, *CLEAN], [*JAV, *CLEAN]), tokenizer, settings)
    assert found["dirt"] == {}


def test_the_special_tokens_of_the_tokenizer_are_found(turns_tokenizer, settings):
    found = look(pairs(IND, [*JAV[:-1], "kamar <turn|> iki"]), turns_tokenizer, settings)
    assert found["dirt"] == {"jav": {"control tokens": 1}}


def test_a_column_in_another_language_is_said(tokenizer, settings):
    english = [f"Room number {i} of this hotel is very nice and it was cleaned every day." for i in range(40)]
    assert look(pairs(IND, JAV), tokenizer, settings)["other_languages"] == {}
    found = look(pairs(english, JAV), tokenizer, settings)
    assert found["other_languages"] == {"ind": "en"}
    assert any("most texts in ind seem to be in the language 'en'" in line for line in found["warnings"])
    assert look(pairs(english, JAV), tokenizer, settings, identify=False)["other_languages"] == {}
    assert dirt.other_language("xyz", english) == "en"
    assert dirt.other_language("xyz", IND) is None
    assert dirt.other_language("ind", []) is None


def test_lengths_out_of_proportion_are_counted(tokenizer, settings):
    found = look(pairs([*IND, "ya", *IND[:2]], [*JAV, "inggih", "x", JAV[0] * 9]), tokenizer, settings)
    assert found["out_of_proportion"] == {"ind-jav": 2}
    assert any("2 of 43 pairs of ind-jav have lengths out of all proportion" in line for line in found["warnings"])


def test_what_is_trained_on_and_validated_on_is_counted(tokenizer, settings):
    found = look(pairs(IND, JAV), tokenizer, settings)
    assert (found["validation_rows_trained_on"], found["pairs_in_groups"]) == (0, 0)
    found = look(pairs(IND, JAV), tokenizer, settings, hold_out="row")
    assert found["validation_rows_trained_on"] > 0
    assert any("hold_out: row" in line for line in found["warnings"])
    found = look(pairs([*IND, *map(str.upper, IND)], [*JAV, *(f"{t} liyane" for t in JAV)]), tokenizer, settings)
    assert (found["validation_rows_trained_on"], found["pairs_in_groups"], found["doubled_pairs"]) == (0, 80, 0)
    assert any("80 of 80 pairs share a text with another" in line for line in found["warnings"])
    said = look(pairs(IND, JAV), tokenizer, settings, held_out=(pairs(IND[:3], JAV[:3]), 4))["warnings"]
    assert any("3 sentences are held out where 4 were asked for" in line for line in said)


def test_old_rows_that_hold_a_test_text_are_counted(tokenizer, settings):
    tests = {"task": ["s"] * 2, "language": ["jav"] * 2, "example": ["x", "y"], "label": ["a"] * 2}
    tests["text"] = ["Panggonane resik lan apik banget!", "apik"]
    old = ["Is this good? panggonane  RESIK, lan apik banget Answer:", "Is this good? apik Answer:", "Panggonane resik"]
    found = look(pairs(IND, JAV), tokenizer, settings, tests, old)
    assert found["old_rows_with_test_texts"] == 1
    assert "1 of 3 old instructions hold a test text: scores will flatter" in found["warnings"]


def test_one_look_in_parts_finds_what_a_look_at_everything_does(tokenizer, settings, monkeypatch):
    text = pairs([*IND, *IND[:3], "sama"], [*JAV, *JAV[:2], "la\u2019in", "sama"])
    whole = look(text, tokenizer, settings)
    assert whole["doubled_pairs"] == 2
    assert whole["equal_sides"] == {"ind-jav": 1}
    monkeypatch.setattr(corpora, "BATCH", 7)
    again = Dataset.from_dict(text.to_dict())
    assert look(again, tokenizer, settings) == whole
