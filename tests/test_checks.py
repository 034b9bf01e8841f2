import dataclasses

import pandas as pd
import pytest
from datasets import Dataset

from ia_lib.instructions import cross_lingual
from ia_lib.workflow import checks
from ia_lib.workflow.cost import estimate
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


def test_without_trouble_there_is_no_warning_about_the_text(tokenizer, settings, parallel):
    tests = Dataset.from_dict({"task": [], "language": [], "example": [], "text": [], "label": []})
    some = parallel.select_columns(["sentence_id", "ind", "jav"])
    found = report(some, tests, tokenizer, settings.changed(max_length=256))
    assert found["pairs_still_in_tests"] == found["doubled_pairs"] == 0
    assert found["answers_cut"] == {"new mt": 0, "old": 0}
    assert not any("NFC" in line or "cut by" in line or "occur" in line for line in found["warnings"])
