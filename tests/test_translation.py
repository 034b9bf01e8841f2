import math

import numpy as np
import pandas as pd
import pytest
from sacrebleu.metrics import CHRF

from ia_lib.evaluation import measures, tasks, translation
from ia_lib.evaluation.generation import answers
from ia_lib.evaluation.scoring import label_logprobs
from ia_lib.instructions import cross_lingual
from ia_lib.models.encoding import encode

pytestmark = pytest.mark.quick


SCORES = {
    "chrF": lambda counts: CHRF()._compute_f_score([int(count) for count in counts]),
    "answer loss": lambda counts: counts[0] / counts[1],
    "similarity": lambda counts: 100 * counts[0] / counts[1],
}


def values(counts, target):
    """Metric -> the score of the sum over all examples, its baseline, and how many examples there are."""
    part = counts[counts["language"] == target]
    return {
        metric: (SCORES[metric](np.sum(lines["counts"].tolist(), 0)), lines["baseline"].iloc[0], len(lines))
        for metric, lines in part.groupby("metric")
    }


def test_translations_stand_beside_what_costs_nothing(model, tokenizer, parallel):
    plan = cross_lingual.Plan("tlm", pivots=["ind"], taught=["jav", "mad"], seed=1)
    some, task = parallel.select(range(12)), tasks.load("held_out")
    said, counts = translation.translate(model, tokenizer, task, some, plan, {"max_length": 256})
    assert (list(said), list(counts)) == (measures.PREDICTION_COLUMNS, translation.COUNTS)
    # what the text has no column for is left out
    assert len(said) == 2 * 12
    assert len(counts) == 2 * 3 * 12
    to_jav = said[said["language"] == "jav"]
    assert set(to_jav["source"]) == {"ind"}
    assert to_jav["example"].tolist() == some["sentence_id"][:]
    assert to_jav["gold"].tolist() == some["jav"][:]
    assert set(zip(said["dataset"], said["task"], said["kind"], said["prompt"], strict=True)) == {
        ("", "held_out", "translate", 1)
    }
    found = values(counts, "jav")
    # chrF beside the source itself; the loss against every answer by itself
    copied = CHRF().corpus_score(some["ind"][:], [some["jav"][:]]).score
    whole = CHRF().corpus_score(to_jav["predicted"].tolist(), [some["jav"][:]]).score
    assert found["chrF"] == (pytest.approx(whole), pytest.approx(copied), 12)
    uniform = math.log(len(tokenizer))
    assert found["answer loss"] == (pytest.approx(uniform, abs=0.5), pytest.approx(uniform), 12)
    assert 0 <= found["similarity"][0] <= 100
    assert found["similarity"][1:] == (50, 12)
    # each sentence is asked about twice
    assert {count[1] for count in counts[counts["metric"] == "similarity"]["counts"]} == {2}
    again = translation.translate(model, tokenizer, task, some, plan, {"max_length": 256})
    assert said.equals(again[0])
    np.testing.assert_allclose(np.concatenate(counts["counts"]), np.concatenate(again[1]["counts"]))


def test_prompts_of_a_tasks_own_are_all_asked(model, tokenizer, parallel, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "kind: translate\ndata: {corpus: nusax}\n"
        'prompts: {mt: ["[SOURCE_TEXT] [TARGET_LANG]: [TARGET_TEXT]", "[SOURCE_TEXT] = [TARGET_TEXT]"]}'
    )
    plan, some = cross_lingual.Plan("mt", pivots=["ind"], taught=["jav"], seed=1), parallel.select(range(4))
    said, counts = translation.translate(model, tokenizer, tasks.load(str(path)), some, plan, {"max_length": 256})
    part = said[said["language"] == "jav"]
    assert part["prompt"].tolist() == [1] * 4 + [2] * 4
    asked = [text + end for end in (" Javanese: ", " = ") for text in some["ind"]]
    losses = label_logprobs(model, tokenizer, asked, [[text] for text in [*some["jav"]] * 2])
    loss = -losses.label_logprob.sum() / losses.label_tokens.sum()
    assert values(counts, "jav")["answer loss"][0] == pytest.approx(loss)


def test_answers_do_not_depend_on_the_batch(any_model, tokenizer, parallel):
    asked = [f"{text} " for text in parallel["ind"][:7]]
    rows, _ = encode(tokenizer, asked, parallel["jav"][:7], 100)
    one = pd.concat([answers(any_model, tokenizer, [row], tokens=5) for row in rows], ignore_index=True)
    assert one.equals(answers(any_model, tokenizer, rows, tokens=5))
